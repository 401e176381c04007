from __future__ import annotations

import itertools
import json
import math

import pytest
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from mmdiff.bench.plot import draw_quality, plot_quality, read_results
from mmdiff.errors import InputError
from mmdiff.media.estimates import Estimate
from mmdiff.media.tables import Measure, Score, ScoreTable

MEASURES = {"real_time_factor": Measure("RTF"), "pesq": Measure("pesq", "MOS", True, 3)}
CROWD = [
    (0.050, 3.60),
    (0.051, 3.61),
    (0.052, 3.60),
    (0.050, 3.62),
    (0.066, 3.61),
    (0.90, 3.60),
    (0.95, 3.601),
]


def scores(points) -> list[Score]:
    values = [dict(zip(MEASURES, map(Estimate, point), strict=False)) for point in points]
    return [Score(f"a vocoder of number {n}", value) for n, value in enumerate(values)]


def test_labels_cover_neither_each_other_nor_points_and_stay_inside():
    figure = draw_quality(scores(CROWD), scores([(2.0,), (3.0,)]), "pesq", "pesq")
    figure.canvas.draw()
    axes, below = figure.axes
    boxes = [Text.get_window_extent(label) for label in axes.texts]
    assert [label.get_text() for label in axes.texts] == [
        f"a vocoder of number {n}" for n in range(len(CROWD))
    ]
    for one, other in itertools.combinations(boxes, 2):
        assert Bbox.intersection(one, other) is None
    for box in boxes:
        assert not any(box.contains(*point) for point in axes.transData.transform(CROWD))
        assert Bbox.intersection(box, axes.bbox).bounds == pytest.approx(box.bounds)
    assert [tick.get_text() for tick in below.get_yticklabels()] == [
        f"a vocoder of number {n}" for n in (0, 1)
    ]


def test_a_lone_label_is_beside_its_point():
    axes = draw_quality(scores(CROWD[:1]), [], "pesq", "pesq").axes[0]
    assert axes.texts[0].get_position() == (7.0, 0.0)


def test_results_are_read_as_they_were_written(tmp_path):
    table = ScoreTable([*scores(CROWD), *scores([(0.02, math.nan), (3.0,)])], MEASURES)
    records = json.dumps(table.records()).replace("NaN", "null")
    (tmp_path / "results.json").write_text(records)
    read = read_results(tmp_path / "results.json")
    assert [score.name for score in read.scores] == [score.name for score in table.scores]
    assert [score.measures["real_time_factor"].value for score in read.scores[-2:]] == [0.02, 3.0]
    assert [score.measures["pesq"].value for score in read.scores[:-2]] == [quality for _, quality in CROWD]
    assert not any("pesq" in score.measures for score in read.scores[-2:])
    assert read.measures["pesq"].label == "pesq, MOS ↑"
    plots = [
        plot_quality(tmp_path / "a.png", read),
        plot_quality(tmp_path / "b.png", read_results(tmp_path / "results.json")),
    ]
    assert plots[0].read_bytes() == plots[1].read_bytes()
    assert plots[0].read_bytes()[1:4] == b"PNG"


@pytest.mark.parametrize(
    "text", ["", "[1]", '{"system": 1}', '[{"system": "a"}]', '[{"system": "a", "measures": {"x": 1}}]']
)
def test_other_files_are_refused(tmp_path, text):
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(InputError, match="bench vocoder -o"):
        read_results(tmp_path / "results.json")
    with pytest.raises(InputError, match="bench vocoder -o"):
        read_results(tmp_path)


def test_a_picture_needs_quality(tmp_path):
    with pytest.raises(InputError, match="--audio"):
        plot_quality(tmp_path / "plot.png", ScoreTable(scores([(1.0,)]), MEASURES))
    assert list(tmp_path.iterdir()) == []

"""Comparing methods: rows that last, times in turn, tasks that lose nothing, and a tiny contest from end to end."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import pytest
import torch

from mmdiff.bench.contest import COLUMNS, Rules
from mmdiff.bench.small_judges import LOUDEST
from mmdiff.bench.small_results import RowFile, across_seeds, by_seed, in_turns
from mmdiff.bench.small_tasks import SmallTask, States, moving_digits, spoken_digits
from mmdiff.errors import InputError, RecipeError
from mmdiff.media.estimates import Estimate
from mmdiff.media.tables import Measure, Score
from mmdiff.recipes import find_recipe, load_main, run_recipe

TINY = {"widths": (8, 32)}


@pytest.fixture(scope="module")
def clips() -> SmallTask:
    return moving_digits(12, 12, **TINY)


@pytest.fixture(scope="module")
def sounds(tmp_path_factory) -> SmallTask:
    """A task of made-up words: tones, in the folder layout of real ones."""
    import soundfile

    folder = tmp_path_factory.mktemp("digits")
    time = torch.arange(9600) / 16000
    lines = ["path,speaker,text"]
    for number, word in enumerate(("zero", "one", "two")):
        soundfile.write(folder / f"{word}.wav", 0.3 * torch.sin(2000 * (number + 1) * time).numpy(), 16000)
        lines.append(f"{word}.wav,en-tone,{word}")
    (folder / "train.csv").write_text("\n".join(lines) + "\n")
    return spoken_digits(folder, 6, 6, **TINY)


def test_rows_last_and_belong_to_their_settings(tmp_path):
    measures = {"quality": Measure("quality")}
    score = Score("a, b", {"quality": Estimate(1.5, math.nan, 2.0, 7, 9)}, {"task": "video", "method": "a"})
    RowFile(tmp_path / "rows.json", measures, {"minutes": 5, "shares": (0.5, 1)}).add(score)
    again = RowFile(tmp_path / "rows.json", measures, {"minutes": 5, "shares": (0.5, 1)})
    (found,) = again.find(task="video", method="a")
    assert found.name == "a, b"
    assert str(found.measures["quality"]) == str(score.measures["quality"])
    assert not again.find(task="audio")
    assert again.markdown(again.scores).splitlines()[-1].split() == ["|", "a,", "b", "|", "1.50", "|"]
    with pytest.raises(RecipeError, match="minutes=6 must be 5"):
        RowFile(tmp_path / "rows.json", measures, {"minutes": 6, "shares": (0.5, 1)})
    (tmp_path / "rows.json").write_text("{")
    with pytest.raises(RecipeError, match="no file of scores"):
        RowFile(tmp_path / "rows.json", measures, {})


def test_scores_of_seeds_are_averaged_and_shown_beside_each_other():
    def score(seed: int, distance: float, updates: int, method: str = "a, b") -> Score:
        measures = {"frechet": Estimate(distance, distance - 1, distance + 1, 400, 0.5)}
        return Score(method, measures, {"task": "video", "share": 1, "seed": seed, "updates": updates})

    real = Score("real", {"frechet": Estimate(0.5, 0.2, 0.8, 400)}, {"task": "video", "share": 1})
    scores = [real, score(0, 4.0, 10), score(0, 9.0, 7, "c"), score(1, 8.0, 13)]
    alone, both, single = across_seeds(scores)
    assert alone.measures == real.measures
    assert alone.about["seeds"] == single.about["seeds"] == 1
    assert single.measures["frechet"] == Estimate(9.0, 8.0, 10.0, 400, 0.5)
    assert both.measures["frechet"] == Estimate(6.0, 4.0, 8.0, 400, 0.5)
    assert both.about == {"task": "video", "share": 1, "updates": 12, "seeds": 2}
    cells = [
        [cell.strip() for cell in line.split("|")]
        for line in by_seed(scores, "frechet", Measure("distance")).splitlines()
    ]
    assert cells[0] == ["", "method", "seed 0", "seed 1", ""]
    assert cells[3:] == [["", "a, b", "4.00", "8.00", ""], ["", "c", "9.00", "", ""]]


def test_calls_take_turns_and_the_first_round_does_not_count():
    order: list[str] = []
    times = itertools.accumulate([0, 100, 0, 100, 0, 1, 0, 5, 0, 3, 0, 5, 0, 2, 0, 8])
    calls = {name: (lambda name=name: order.append(name)) for name in "ab"}
    found = in_turns(calls, 3, clock=lambda: next(times), progress=False)
    assert order == list("abababab")
    assert found["a"] == Estimate(2.0, 1.0, 3.0, 3)
    assert found["b"] == Estimate(5.0, 5.0, 8.0, 3)


@pytest.mark.parametrize("name", ["clips", "sounds"])
def test_states_are_standardised_pixels_in_their_bins(name, request):
    task = request.getfixturevalue(name)
    states = task.to_state(task.train)
    assert abs(float(states.mean())) < 1e-4
    assert abs(float(states.std()) - 1) < 1e-3
    torch.testing.assert_close(task.to_pixels(states), task.train, rtol=0, atol=0)
    items = [States(task)[n] for n in range(40)]
    shown = {tuple(pixels.flatten().tolist()) for pixels in task.to_pixels(torch.stack(items))}
    assert shown <= {tuple(pixels.flatten().tolist()) for pixels in task.train}
    assert len(shown) > len(task.train) // 2
    torch.testing.assert_close(States(task)[3], items[3], rtol=0, atol=0)
    assert not torch.equal(States(task, seed=1)[3], items[3])
    x = torch.stack(items[:2])
    assert task.network()(x, torch.zeros(2)).shape == x.shape
    assert task.critic()(x, x, torch.zeros(2)).shape == (2,)


def test_grey_levels_are_the_vocoders_spectrogram(sounds):
    hearing = sounds.judge
    wave = 0.1 * torch.randn(16128, generator=torch.Generator().manual_seed(0))
    spec = hearing.vocoder.mel_spec
    step = (LOUDEST - spec.lowest_value) / 255
    shown = spec.lowest_value + step * hearing.pixels(wave)[0].T.float()
    torch.testing.assert_close(shown, spec(wave[None])[0, :, :64], rtol=0, atol=0.5001 * step)
    assert hearing.waves(hearing.pixels(wave)[None]).shape == (1, 64 * 256 - 256)


def test_real_clips_are_recognised_precise_and_covered(clips):
    found = clips.measure(clips.reference)
    assert found["recognised"].value >= 11 / 12
    assert found["precision"].value == found["coverage"].value == 1
    noise = torch.randint(256, clips.real.shape, generator=torch.Generator().manual_seed(0))
    wrong, right = clips.measure(noise.to(torch.uint8)), clips.measure(clips.real)
    assert wrong["recognised"].value == 0 < right["recognised"].value
    assert wrong["kernel"].value > 5 * abs(right["kernel"].value)


def test_every_method_learns_draws_and_says_bits_where_it_has_them(clips):
    recipe = load_main(find_recipe("compare")[0].script).__globals__
    x, told = torch.stack([States(clips)[n] for n in range(2)]), set()
    for name, maker in recipe["METHODS"].items():
        torch.manual_seed(0)
        method = maker(clips)
        loss = method.task(x, torch.Generator().manual_seed(0))["loss"]
        loss.backward()
        assert math.isfinite(float(loss.detach())), name
        for part in method.parts:
            method.task.get_submodule(part)
        draw = list(method.draws.values())[-1]
        if draw.evaluations < 20:
            made = draw.make(2, torch.Generator().manual_seed(0))
            assert made.shape == x.shape, name
        if method.bits is not None:
            told.add(name)
    assert {"diffusion", "flow_matching", "langevin", "lsgm", "vae"} <= told
    assert not told & {"gan", "denoising_gan"}


def _tiny(folder: Path, *more: str) -> None:
    methods = ["--methods", "[vae,gan]", "--repeats", "1"]
    run_recipe("compare.tiny", ["--run_dir", str(folder), *methods, *more])


def test_tiny_contest_is_judged_timed_and_resumed(tmp_path, capsys):
    _tiny(tmp_path)
    rows = json.loads((tmp_path / "compare.json").read_text())
    named = [(row["method"], row["share"]) for row in rows]
    assert named == [("real, others", 1), ("vae", 0.5), ("gan", 0.5), ("vae", 1), ("gan", 1)]
    for row in rows[1:]:
        # in so short a time at least the first updates are made
        assert row["measures"]["minutes"]["value"] >= 0.002 * row["share"]
        assert ("seconds" in row["measures"]) == (row["share"] == 1)
        assert row["seed"] == 0
    assert "seed" not in rows[0]
    text = (tmp_path / "compare.md").read_text()
    assert "mmdiff run compare" in text
    assert (tmp_path / "compare.png").stat().st_size > 10_000
    assert (tmp_path / "seed-0" / "video" / "gan-1-step.png").exists()
    with pytest.raises(RecipeError, match="--resume true"):
        _tiny(tmp_path)
    capsys.readouterr()
    (tmp_path / "compare.json").write_text(json.dumps(rows[:-1]))
    _tiny(tmp_path, "--resume", "true")
    said = capsys.readouterr().out
    assert "training gan" in said
    assert "training vae" not in said
    again = json.loads((tmp_path / "compare.json").read_text())
    assert again[-1]["updates"] == rows[-1]["updates"]  # its minutes were up
    for name in ("kernel", "precision", "coverage"):
        assert again[-1]["measures"][name] == rows[-1]["measures"][name]
    _tiny(tmp_path, "--methods", "[vae]", "--seeds", "[1]", "--resume", "true")
    both = json.loads((tmp_path / "compare.json").read_text())
    assert [(row["method"], row["seed"]) for row in both[5:]] == [("vae", 1), ("vae", 1)]
    found = [
        row["measures"]["coverage"]["value"] for row in both if row["method"] == "vae" and row["share"] == 1
    ]
    text = (tmp_path / "compare.md").read_text()
    assert "--methods [vae,gan] --shares [0.5,1.0] --samples 6" in text
    assert "--widths [8,32] --seeds [0,1]" in text
    (line,) = [line for line in text.split("By seed, ")[1].splitlines() if line.startswith("| vae, decoder")]
    assert [float(cell.split()[0]) / 100 for cell in line.split("|")[2:4]] == pytest.approx(found, rel=1e-3)


def test_slips_are_explained(tmp_path):
    with pytest.raises(InputError, match="shares="):
        Rules(shares=(0.5, 0.25, 1))
    with pytest.raises(InputError, match="minutes=0"):
        Rules(minutes=0)
    with pytest.raises(InputError, match="methods="):
        _tiny(tmp_path, "--methods", "[magic]")
    with pytest.raises(InputError, match="seeds="):
        _tiny(tmp_path, "--seeds", "[1,1]")
    assert {"frechet", "coverage", "bits", "seconds", "minutes"} <= set(COLUMNS)

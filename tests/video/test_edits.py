"""Oracles: what is known comes back as it was; operators against plain pooling; plans against their rules."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.functional import avg_pool3d

from mmdiff.errors import InputError
from mmdiff.video import edits
from mmdiff.video.edits import Edit
from mmdiff.video.long import Lengths, Plan, extend, plan

CPU = torch.device("cpu")
LENGTHS = Lengths(block=8, longest=10, overlap=3)


def clip(frames: int = 6, size: int = 8, batch: int = 1) -> Tensor:
    return torch.rand(batch, 3, frames, size, size, generator=torch.Generator().manual_seed(frames)) * 2 - 1


def uneven() -> Tensor:
    mask = torch.zeros(8, 8, dtype=torch.bool)
    mask[2:5, 3:] = True
    return mask


EDITS = {
    "continuation": edits.continuation(clip(), 4),
    "between": edits.between(clip(3), 9, [1, 4, 8]),
    "inpainting": edits.inpainting(clip(), uneven()),
    "outpainting": edits.outpainting(clip(), left=2, bottom=3, before=4, after=1),
}


@pytest.mark.parametrize("name", EDITS)
def test_parts_together_are_the_whole(name: str) -> None:
    edit = EDITS[name]
    whole = edit.part(0, edit.frames, 3, CPU)
    parts = [edit.part(n, min(n + 3, edit.frames), 3, CPU) for n in range(0, edit.frames, 3)]
    assert torch.equal(torch.cat([p.video for p in parts], 2), whole.video)
    assert torch.equal(torch.cat([p.mask for p in parts], 2), whole.mask)
    assert (whole.video[~whole.mask.expand_as(whole.video)] == 0).all()


@pytest.mark.parametrize("name", EDITS)
def test_whole_frames_are_those_without_a_hole(name: str) -> None:
    edit = EDITS[name]
    known = edit.part(0, edit.frames, 3, CPU)
    assert edit.whole() == [bool(known.mask[:, :, n].all()) for n in range(edit.frames)] == known.whole


def test_what_is_known_lies_where_it_should() -> None:
    given = clip()
    known = EDITS["outpainting"].part(0, 11, 3, CPU)
    assert torch.equal(known.video[:, :, 4:10, :8, 2:], given)
    assert int(known.mask.sum()) == 6 * 8 * 8
    keys = EDITS["between"].part(0, 9, 3, CPU)
    assert torch.equal(keys.video[:, :, [1, 4, 8]], clip(3))
    assert keys.whole == [n in (1, 4, 8) for n in range(9)]
    hole = EDITS["inpainting"].part(0, 6, 3, CPU)
    assert torch.equal(hole.mask[0, 0, 2], ~uneven())


def test_key_frames_are_spread_from_first_to_last_frame() -> None:
    edit = edits.between(list(clip(3)[0].unbind(1)), 17)
    assert [n for n, known in enumerate(edit.whole()) if known] == [0, 8, 16]


def test_bytes_are_known_as_the_pixels_they_stand_for() -> None:
    given = torch.randint(0, 256, (3, 2, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    known = edits.continuation(given, 1).part(0, 3, 3, CPU)
    torch.testing.assert_close(known.video[0, :, :2], given / 127.5 - 1)


@pytest.mark.parametrize("time_factor", [1, 2, 3])
def test_enlargement_measures_means_and_whole_frames_with_an_orthonormal_operator(time_factor: int) -> None:
    large = clip(12)
    small = avg_pool3d(large[:, :, ::time_factor], (1, 2, 2))
    edit = edits.enlargement(small, 2, time_factor)
    assert (edit.frames, edit.size) == (12, (8, 8))
    known = edit.part(2, 9, 3, CPU).with_frames(large[:, :, 2:4], 0)
    measurement = known.measurement()
    assert measurement is not None
    x = large[:, :, 2:9]
    assert float(measurement.residual(x).abs().max()) < 1e-5
    v = torch.randn_like(measurement.y)
    torch.testing.assert_close(measurement.forward(measurement.adjoint(v)), v)
    dot = (measurement.forward(clip(7)) * v).sum()
    torch.testing.assert_close(dot, (clip(7) * measurement.adjoint(v)).sum(), rtol=1e-4, atol=1e-4)
    found = measurement.project(torch.zeros_like(x))
    assert torch.equal(found[:, :, :2], x[:, :, :2])
    for n in range(4, 9):
        if n % time_factor == 0:
            pooled = avg_pool3d(found[:, :, [n - 2]], (1, 2, 2))
            torch.testing.assert_close(pooled, small[:, :, [n // time_factor]])


def test_nothing_known_is_no_measurement() -> None:
    assert edits.blank(4, (8, 8)).part(0, 4, 3, CPU).measurement() is None


@pytest.mark.parametrize(
    ("call", "complaint"),
    [
        (lambda: edits.continuation(clip()[0, 0], 2), "video=.* must be"),
        (lambda: edits.continuation(clip() * 3, 2), "must lie in"),
        (lambda: edits.continuation(clip(), 0), "frames=0"),
        (lambda: edits.continuation(torch.zeros(3, 2, 8, 8, dtype=torch.int64), 2), "uint8"),
        (lambda: edits.between(clip(3), 9, [0, 4]), "places=.* 3 rising"),
        (lambda: edits.between(clip(3), 9, [0, 4, 9]), "from 0 to 8"),
        (lambda: edits.between(clip(3), 2), "places"),
        (lambda: edits.inpainting(clip(), torch.zeros(4, 4)), "mask=.* 8x8"),
        (lambda: edits.inpainting(clip(), torch.zeros(2, 8, 8)), "6 frames"),
        (lambda: edits.outpainting(clip()), "one of them more"),
        (lambda: edits.outpainting(clip(), left=-1), "left=-1"),
        (lambda: edits.enlargement(clip(), 1), "factor=1"),
        (lambda: edits.blank(0, (8, 8)), "frames=0"),
    ],
)
def test_senseless_edits_are_refused(call, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        call()


def check(edit: Edit, steps: Plan, lengths: Lengths) -> None:
    """Every frame is made once, in order, by blocks that are short enough and see what they should."""
    ahead = steps.forward[0].first
    assert [n for s in steps.forward for n in range(s.first, s.last)] == list(range(ahead, edit.frames))
    assert [n for s in reversed(steps.backward) for n in range(s.first, s.last)] == list(range(ahead))
    for span in (*steps.forward, *steps.backward):
        assert 0 <= span.begin <= span.first < span.last <= span.end
        assert span.end - span.begin <= lengths.longest
        assert span.first % lengths.unit == span.begin % lengths.unit == 0
    for span in steps.forward[1:]:
        assert span.known or span.first - span.begin >= min(lengths.overlap, span.first - ahead)


@pytest.mark.parametrize("frames", [1, 2, 5, 8, 10, 11, 17, 40, 200])
@pytest.mark.parametrize("loop", [False, True])
def test_plan_of_any_length(frames: int, loop: bool) -> None:
    edit = edits.blank(frames, (8, 8), loop=loop)
    steps = plan(edit, LENGTHS)
    check(edit, steps, LENGTHS)
    if not loop:
        assert len(steps.forward) == 1 if frames <= 10 else len(steps.forward) <= -(-(frames - 3) // 5)


@pytest.mark.parametrize("places", [[0, 19], [3, 6, 9], [0, 4, 8, 12, 30], [25], [12, 13, 14, 39]])
def test_plan_between_key_frames(places: list[int]) -> None:
    edit = edits.between(clip(len(places)), 40, places)
    steps = plan(edit, LENGTHS)
    check(edit, steps, LENGTHS)
    made = [span for span in (*steps.forward, *steps.backward) if not span.known]
    for place in places:
        if place and not edit.whole()[place - 1]:  # a frame before a key frame is made in its sight
            assert any(span.first < place < span.end for span in made)


def test_a_distant_key_frame_is_approached_in_equal_steps() -> None:
    edit = edits.between(clip(2), 30, [0, 29])
    made = [span.last - span.first for span in plan(edit, LENGTHS).forward if not span.known]
    assert max(made) <= min(made) + 2


@pytest.mark.parametrize("unit", [2, 3])
def test_blocks_begin_with_whole_small_frames(unit: int) -> None:
    edit = edits.enlargement(clip(20), 2, unit)
    lengths = Lengths(12, 12, 6, unit)
    check(edit, plan(edit, lengths), lengths)


def counting(calls: list[tuple[int, int]]):
    """A maker that fills each unknown frame with the number of its block, and keeps what is known."""

    def make(begin: int, end: int, known) -> Tensor:
        calls.append((begin, end))
        return torch.where(known.mask, known.video, float(len(calls))).expand(2, -1, -1, -1, -1)

    return make


@pytest.mark.parametrize(
    "edit",
    [*EDITS.values(), edits.blank(33, (8, 8)), edits.continuation(clip(12), 30),
     edits.outpainting(clip(20), before=19, after=15), edits.between(clip(2), 40, [18, 30])],
)  # fmt: skip
def test_blocks_join_without_making_anything_twice(edit: Edit) -> None:
    calls: list[tuple[int, int]] = []
    steps = plan(edit, LENGTHS)
    blocks = list(extend(edit, steps, counting(calls), clips=2, channels=3, device=CPU))
    video = torch.cat(blocks, 2)
    assert video.shape == (2, 3, edit.frames, *edit.size)
    assert len(calls) == steps.made
    known = edit.part(0, edit.frames, 3, CPU)
    mask = known.mask.expand_as(video)
    assert torch.equal(known.video.expand_as(video)[mask], video[mask])
    order = [n for n in range(edit.frames) if not known.whole[n]]
    made = [span for span in (*steps.forward, *steps.backward) if not span.known]
    number = {n: 1 + calls.index(span[:2]) for span in made for n in range(span.first, span.last)}
    for n in order:
        new = video[:, :, n][:, :, ~known.mask[0, 0, n]]
        assert torch.equal(new, torch.full_like(new, number[n]))


def test_the_last_block_of_a_loop_knows_the_first_frames() -> None:
    edit = edits.blank(20, (4, 4), loop=True)
    seen = {}

    def make(begin: int, end: int, known) -> Tensor:
        seen[begin, end] = known
        places = torch.arange(begin, end).float()[:, None, None].expand(1, 1, -1, 4, 4)
        return torch.where(known.mask, known.video, places)

    steps = plan(edit, LENGTHS)
    video = torch.cat(list(extend(edit, steps, make, clips=1, channels=1, device=CPU)), 2)
    assert video[0, 0, :, 0, 0].tolist() == list(range(20))
    begin, end = steps.forward[-1].begin, steps.forward[-1].end
    assert end > 20
    assert seen[begin, end].video[0, 0, 20 - begin :, 0, 0].tolist() == list(range(end - 20))


@pytest.mark.parametrize(
    ("edit", "complaint"),
    [
        (lambda: edits.continuation("seven.mp4", 3), r"video must be a torch.Tensor, not str: .*io\.read"),
        (lambda: edits.continuation(clip().numpy(), 3), "not ndarray: .*from_numpy"),
        (lambda: edits.continuation(clip(), "x"), "frames='x'"),
        (lambda: edits.inpainting(clip(), None), "mask must be a torch.Tensor, not NoneType"),
        (lambda: edits.inpainting(clip(), torch.full((8, 8), torch.nan)), "mask must be finite"),
        (lambda: edits.between(["a.png"], 3), "each of keyframes must be a torch.Tensor, not str"),
        (lambda: edits.between("a.png", 3), "keyframes must be a torch.Tensor"),
        (lambda: edits.between([clip()[0, :, 0], clip(size=4)[0, :, 0]], 3), "all of one size"),
        (lambda: edits.between(clip(2), "x"), "frames='x'"),
        (lambda: edits.outpainting(clip(), left="x"), "left='x', .* must be whole numbers"),
        (lambda: edits.outpainting(clip(), after=1.5), "after=1.5 must be whole numbers"),
        (lambda: edits.enlargement(clip(), 2, "a seven"), "time_factor='a seven' must be whole"),
    ],
)
def test_what_is_of_the_wrong_kind_is_named(edit: Callable[[], Edit], complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        edit()


def test_margins_that_would_do_are_named() -> None:
    with pytest.raises(InputError, match=r"11x9.*by 4.*left=1, right=3, top=0, bottom=4 would do"):
        edits.outpainting(clip(), left=1, bottom=3, unit=4)
    assert edits.outpainting(clip(), left=1, right=3, bottom=4, unit=4).size == (12, 12)

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from mmdiff.errors import InputError
from mmdiff.video import io
from mmdiff.video.sheet import contact_sheet, save_sheet, side_by_side

LINE, GAP, MARGIN, PAPER = 18, 2, 8, 24


def clip(frames: int, height: int, width: int, first: int = 0) -> torch.Tensor:
    """Frame n is plain grey of level 40 + first + n."""
    levels = torch.arange(frames)[:, None, None] + 40 + first
    return levels.expand(3, frames, height, width).to(torch.uint8)


def test_every_frame_is_where_it_belongs():
    clips = [clip(4, 10, 12), clip(4, 10, 12, 100)]
    sheet = contact_sheet(clips, zoom=2)
    assert sheet.dtype == np.uint8
    assert sheet.shape == (2 * 20 + 3 * MARGIN, 4 * 24 + 3 * GAP + 2 * MARGIN, 3)
    for row in range(2):
        for n in range(4):
            top, left = MARGIN + row * (20 + MARGIN), MARGIN + n * (24 + GAP)
            assert (sheet[top : top + 20, left : left + 24] == 40 + 100 * row + n).all()
            assert (sheet[top : top + 20, left + 24 : left + 26] == PAPER).all()
    wide = contact_sheet(clips, zoom=2, columns=2)
    assert wide.shape == (20 + 2 * MARGIN, 2 * (4 * 24 + 3 * GAP) + 3 * MARGIN, 3)
    assert np.array_equal(wide[:, : 2 * MARGIN + 102], sheet[: 20 + 2 * MARGIN])


def test_frames_are_picked_evenly_and_small_ones_enlarged():
    sheet = contact_sheet(clip(100, 16, 32), frames=4)
    assert sheet.shape == (64 + 2 * MARGIN, 4 * 128 + 3 * GAP + 2 * MARGIN, 3)
    assert [int(sheet[40, MARGIN + 60 + n * 130, 0]) - 40 for n in range(4)] == [0, 33, 66, 99]
    assert contact_sheet(clip(3, 16, 32), frames=10).shape[1] == 3 * 128 + 2 * GAP + 2 * MARGIN
    assert contact_sheet(clip(1, 100, 200)).shape[0] == 100 + 2 * MARGIN


def test_zooming_repeats_pixels_and_floats_are_taken_for_minus_one_to_one():
    noise = torch.randint(0, 256, (3, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    sheet = contact_sheet(noise, zoom=3)[MARGIN:-MARGIN, MARGIN:-MARGIN]
    assert np.array_equal(sheet[1::3, 1::3], noise[:, 0].permute(1, 2, 0).numpy())
    assert np.array_equal(
        contact_sheet(io.convert(noise, torch.float32), zoom=3), contact_sheet(noise, zoom=3)
    )
    grey = contact_sheet(noise[:1].expand(3, -1, -1, -1), zoom=1)
    assert np.array_equal(contact_sheet(noise[:1], zoom=1), grey)


def test_captions_stand_above_their_clips_and_stay_within():
    batch = torch.stack([clip(6, 32, 32), clip(6, 32, 32)])
    plain = contact_sheet(batch)
    sheet = contact_sheet(batch, ["a blue seven moving left, and more than fits here " * 9, ""])
    height = 64 + LINE
    assert sheet.shape == (plain.shape[0] + 2 * LINE, plain.shape[1], 3)
    first, second = sheet[MARGIN : MARGIN + LINE], sheet[2 * MARGIN + height : 2 * MARGIN + height + LINE]
    assert (first > 150).any()
    assert (second == PAPER).all()
    assert (sheet[:, -MARGIN:] == PAPER).all()
    assert np.array_equal(sheet[MARGIN + LINE : MARGIN + height], plain[MARGIN : MARGIN + 64])
    greek = contact_sheet(batch[:1], ["σ = 0.5, größer\nзеленый"])
    assert greek.shape == (64 + LINE + 2 * MARGIN, plain.shape[1], 3)


def test_clips_of_different_sizes_and_lengths():
    sheet = contact_sheet([clip(3, 20, 20), clip(5, 40, 30), clip(1, 10, 10)], columns=2, zoom=1)
    assert sheet.shape == (40 + 10 + 3 * MARGIN, 3 * 20 + 2 * GAP + 5 * 30 + 4 * GAP + 3 * MARGIN, 3)


def test_a_saved_sheet_is_the_sheet(tmp_path):
    path = save_sheet(tmp_path / "a.png", [clip(3, 20, 20)], ["text"], zoom=2)
    assert np.array_equal(np.asarray(Image.open(path)), contact_sheet([clip(3, 20, 20)], ["text"], zoom=2))
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.bfloat16])
def test_side_by_side(dtype):
    short, tall = io.convert(clip(3, 20, 30), dtype), io.convert(clip(5, 40, 10, 100), dtype)
    both = side_by_side([short, tall])
    assert both.dtype == dtype
    assert both.shape == (3, 5, 40, 30 + GAP + 10)
    assert torch.equal(both[:, :3, 10:30, :30], short)
    assert torch.equal(both[:, 4, 10:30, :30], short[:, 2])  # stays on its last frame
    assert torch.equal(both[..., 32:], tall)
    labelled = side_by_side([short, tall], ["one", "the other"])
    assert torch.equal(labelled[:, :, LINE:], both)
    pixels = io.convert(labelled, torch.uint8)
    assert (pixels[:, :, :LINE, :30] > 150).any()
    assert (pixels[:, 0] == pixels[:, 4])[:, :LINE].all()


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (lambda: contact_sheet([]), "videos is empty"),
        (lambda: contact_sheet(clip(2, 8, 8), ["a", "b"]), "captions has 2 entries"),
        (lambda: contact_sheet(clip(2, 8, 8), frames=0), "frames=0"),
        (lambda: contact_sheet(clip(2, 8, 8), columns=0), "columns=0"),
        (lambda: contact_sheet(clip(2, 8, 8), zoom=-1), "zoom=-1"),
        (lambda: contact_sheet(clip(0, 8, 8)), "0 frames"),
        (lambda: contact_sheet([torch.zeros(3, 8, 8)]), r"must be \(C, F, H, W\)"),
        (lambda: contact_sheet(clip(4000, 8, 8), zoom=8), "give frames=496 or less"),
        (lambda: contact_sheet([clip(1, 1000, 8)] * 40), "too large"),
        (lambda: save_sheet("a.jpg", clip(2, 8, 8)), "must end in .png"),
        (lambda: side_by_side([]), "videos is empty"),
        (lambda: side_by_side([clip(2, 8, 8)], []), "labels has 0 entries"),
        (lambda: side_by_side([clip(2, 8, 8), torch.zeros(3, 2, 8, 8)]), "convert them to one"),
        (lambda: side_by_side([torch.zeros(3, 8, 8)]), r"must be \(C, F, H, W\)"),
    ],
)
def test_bad_arguments(call, reason):
    with pytest.raises(InputError, match=reason):
        call()

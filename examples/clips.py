"""One model of clips, four uses: make one from a sentence, go on with it, paint part of it anew, widen it.

Run ``python examples/clips.py [MODEL [SHEET.png]]``; it writes a contact sheet of all four.
"""

from __future__ import annotations

import sys

import torch

import mmdiff
from mmdiff.video.sheet import save_sheet

PROMPT = "a blue seven moving left"


def main(model: str = "clips-32", sheet: str = "clips.png", steps: int | None = None) -> None:
    """Make the clips and write the contact sheet."""
    gen = mmdiff.load(model)
    clip = gen(PROMPT, steps=steps, seed=0)[0]  # (C, F, H, W) in [-1, 1]
    longer = gen.continue_from(clip, 16, PROMPT, steps=steps)[0]
    middle = torch.zeros(clip.shape[2:], dtype=torch.bool)
    middle[clip.shape[2] // 3 : 2 * clip.shape[2] // 3] = True
    painted = gen.inpaint(clip, middle, PROMPT, steps=steps)[0]
    wider = gen.outpaint(clip, PROMPT, left=8, right=8, steps=steps)[0]
    assert torch.equal(longer[:, : clip.shape[1]], clip)  # what was given is not touched
    titles = [PROMPT, "continued", "middle painted anew", "widened"]
    print(save_sheet(sheet, [clip, longer, painted, wider], titles, frames=16))


if __name__ == "__main__":
    main(*sys.argv[1:3])

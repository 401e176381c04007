"""Moving digits as video files with a manifest: a data set to try recipes and commands on, made in seconds."""

from __future__ import annotations

import json
from pathlib import Path

from mmdiff.errors import InputError
from mmdiff.files import atomic_file
from mmdiff.video import io
from mmdiff.video.digits import MovingDigits


def write_digits(
    folder: str | Path, count: int, *, frames: int = 24, size: int = 32, fps: float = 8.0, seed: int = 0
) -> Path:
    """Write clips of moving digits, their captions and classes (the digits), and a split of one in eight.

    Parameters
    ----------
    folder : path
        Gets ``digits-0000.mp4``, ... and ``metadata.jsonl``. If it has that file, nothing is written.
    count : int > 1
    frames, size, seed
        As for :class:`~mmdiff.video.digits.MovingDigits`.
    fps : float

    Returns
    -------
    Path
        The manifest.

    Raises
    ------
    InputError
        ``count`` is too small.
    """
    if count < 2:
        raise InputError(f"count={count} must be at least 2: one clip validates")
    index = Path(folder) / "metadata.jsonl"
    if index.exists():
        return index
    index.parent.mkdir(parents=True, exist_ok=True)
    clips, lines = MovingDigits(frames=frames, size=size, seed=seed), []
    for n in range(count):
        clip, name = clips[n], f"digits-{n:04d}.mp4"
        io.write(index.parent / name, clip["video"], fps)
        line = {"file": name, "caption": clip["caption"], "label": int(clip["label"][0])}
        lines.append({**line, "split": "train" if n % 8 else "valid"})
    with atomic_file(index) as temporary:
        temporary.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return index

"""Moving digits as video files with a manifest: a data set to try recipes and commands on, made in seconds."""

from __future__ import annotations

import json
from pathlib import Path

from mmdiff.errors import InputError
from mmdiff.files import atomic_folder
from mmdiff.video import io
from mmdiff.video.digits import MovingDigits


def write_digits(
    folder: str | Path, count: int, *, frames: int = 24, size: int = 32, fps: float = 8.0, seed: int = 0
) -> Path:
    """Write clips of moving digits, their captions and classes (the digits), and a split of one in eight.

    Parameters
    ----------
    folder : path
        New or empty; gets ``digits-0000.mp4``, ... and ``metadata.jsonl``. If it has that file, nothing is
        written.
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
        ``count`` is too small, or ``folder`` holds other files.
    """
    if count < 2:
        raise InputError(f"count={count} must be at least 2: one clip validates")
    folder = Path(folder)
    index = folder / "metadata.jsonl"
    if index.exists():
        return index
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise InputError(
            f"folder={str(folder)!r} holds other files: name a new or empty folder for the digits"
        )
    clips, lines = MovingDigits(frames=frames, size=size, seed=seed), []
    with atomic_folder(folder) as temporary:
        for n in range(count):
            clip, name = clips[n], f"digits-{n:04d}.mp4"
            io.write(temporary / name, clip["video"], fps)
            line = {"file": name, "caption": clip["caption"], "label": int(clip["label"][0])}
            lines.append({**line, "split": "train" if n % 8 else "valid"})
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (temporary / index.name).write_text(text, encoding="utf-8")
    return index

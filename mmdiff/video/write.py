"""Write a clip that is in memory as a video file, with its sound."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mmdiff.errors import InputError
from mmdiff.media.opening import PathLike
from mmdiff.video.encode import writer


def write(
    path: PathLike,
    video: Tensor | np.ndarray,
    fps: float,
    *,
    sound: Tensor | np.ndarray | None = None,
    sample_rate: int | None = None,
    quality: int | None = None,
) -> Path:
    """Write a clip; the name appears only once all is written.

    Parameters
    ----------
    path : path
        Its suffix decides: .mp4, .mov and .mkv (H.264), .webm (VP9), .gif (loops), .npz (uint8, no loss), .png
        or .jpg for a single picture, or a series such as ``frames/%04d.png``, numbered from 0. The folder must
        exist, but for the last one of a series. A file of that name is replaced.
    video : Tensor | ndarray, shape (C, F, H, W), floating point in [-1, 1] or uint8
        The pictures; C is 3, or 1 for grey. What lies outside [-1, 1] is clipped.
    fps : float in [0.01, 1000], frames a second
        At most 50 for .gif, where delays are rounded to 1/100 s without drifting.
    sound : Tensor | ndarray, shape (channels, samples) or (samples,), floating point in [-1, 1]
        One or two channels, for films (AAC in mp4 and mov, else Opus) and .npz.
    sample_rate : int, Hz
        Of the sound; Opus and AAC bring unusual ones to 48 kHz.
    quality : int, optional
        Constant rate factor, lower is better: 1 to 51 for H.264 (default 14), 0 to 63 for VP9 (default 16).

    Returns
    -------
    Path
        The file.

    Raises
    ------
    InputError
        The format, an argument or the folder is not possible, or the clip is empty or not finite.

    Notes
    -----
    H.264 takes even sizes only: the last row and column are repeated where they are odd. H.264 and VP9 are
    written as 4:2:0 with BT.709 limited, so single coloured pixels lose colour, not light.

    Examples
    --------
    >>> write("black.mp4", torch.full((3, 16, 64, 64), -1.0), fps=8)  # doctest: +SKIP
    PosixPath('black.mp4')
    """
    if (sound is None) != (sample_rate is None):
        raise InputError("sound and sample_rate must be given together")
    video = torch.as_tensor(video)
    if video.ndim != 4:
        raise InputError(f"video.shape={tuple(video.shape)} must be (C, F, H, W)")
    wave = None if sound is None else torch.as_tensor(sound)
    channels = 1 if wave is None or wave.ndim == 1 else wave.shape[0]
    size = (int(video.shape[2]), int(video.shape[3]))
    with writer(path, fps, size, sample_rate=sample_rate, channels=channels, quality=quality) as file:
        count = max(1, round(fps))  # a second of pictures, then a second of sound
        for n, block in enumerate(torch.split(video, count, 1)):
            file.write(block)
            if wave is not None and sample_rate is not None:
                file.write(sound=wave[..., n * sample_rate : (n + 1) * sample_rate])
        if wave is not None and sample_rate is not None:
            file.write(sound=wave[..., math.ceil(video.shape[1] / count) * sample_rate :])
    return file.path

"""Record video games being played: clips with sound and, for each frame, what was pressed, to train on.

Run, with the extra ``game`` (``pip install 'mmdiff[game]'``; ale-py is under the GPL, its games are inside),

    python examples/record_game.py --game space_invaders --clips 200 --seconds 4 --fps 15 --size 64
    mmdiff run folder.actions --data games

The folder gets ``GAME-0000.mp4``, ... and ``metadata.jsonl``, one line for each clip: file, caption (the game's
name), actions (one for each frame, as a number among the console's 18, so that games can be mixed), the names of
those that the game knows, seed and fps.
"""

from __future__ import annotations

import difflib
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ale_py
import numpy as np
import torch
from ale_py import Action, ALEInterface, roms
from torch import Tensor

from mmdiff.errors import InputError
from mmdiff.files import atomic_file
from mmdiff.parsing import parse
from mmdiff.progress import track
from mmdiff.video import io

RATE = 60  # pictures a second of the console
SAMPLES = 512  # of sound to each of them
TRIES = 50


class Play(NamedTuple):
    """Part of a game: ``video`` uint8 (3, F, H, W), ``sound`` (1, samples) in [-1, 1], F ``actions``."""

    video: Tensor
    sound: Tensor
    actions: list[int]


def load_game(game: str, seed: int) -> ALEInterface:
    """Switch the console on, with sound; the same seed gives the same game."""
    path = roms.get_rom_path(game) if game in roms.get_all_rom_ids() else None
    if path is None:
        like = ", ".join(difflib.get_close_matches(game, roms.get_all_rom_ids(), 5, 0.4)) or "pong"
        raise InputError(f"game={game!r} must be a name of ale-py's games, such as {like}")
    ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    console = ALEInterface()
    console.setInt("random_seed", seed)
    console.setFloat("repeat_action_probability", 0.0)  # what is pressed shall be what is recorded
    console.setBool("sound_obs", True)
    console.loadROM(path)
    return console


def play(console: ALEInterface, random: np.random.Generator, frames: int, skip: int, sticky: float) -> Play:
    """Record from somewhere in a game, until it has lasted long enough without ending.

    Each action is held for ``skip`` pictures of the console, and kept for the next frame with probability
    ``sticky``. Frame n is what is seen, and what is heard with it follows, when its action begins; so what the
    action does shows from frame n + 1 on.
    """
    keys = console.getMinimalActionSet()
    for _ in range(TRIES):
        console.reset_game()
        ahead = int(random.integers(1, 4 * RATE))  # so that clips do not all begin as the game does
        for action in _presses(keys, ahead, 0.9, random):
            console.act(action)
        seen, heard, pressed = [], [], []
        last = console.getScreenRGB()
        for action in _presses(keys, frames, sticky, random):
            now = console.getScreenRGB()
            seen.append(np.maximum(now, last))  # the console draws some figures in every other picture only
            pressed.append(action.value)
            for _ in range(skip):
                last = console.getScreenRGB()
                console.act(action)
                heard.append(console.getAudio().copy())
            if console.game_over():
                break
        else:
            video = torch.from_numpy(np.stack(seen)).permute(3, 0, 1, 2).contiguous()
            wave = torch.from_numpy(np.concatenate(heard)).float().sub(128).div(128)[None]
            return Play(video, wave, pressed)
    raise InputError(f"frames={frames}: {TRIES} games ended before; record fewer seconds")


def _presses(
    keys: Sequence[Action], count: int, sticky: float, random: np.random.Generator
) -> Iterator[Action]:
    action = keys[random.integers(len(keys))]
    for _ in range(count):
        yield action
        if random.random() >= sticky:
            action = keys[random.integers(len(keys))]


def main(
    *,
    folder: Path = Path("games"),
    game: str = "space_invaders",
    clips: int = 20,
    seconds: float = 4.0,
    size: int | None = None,
    fps: int = 15,
    sticky: float = 0.75,
    seed: int = 0,
) -> None:
    """Record clips of a game played at random.

    Args:
        folder: Gets the clips and their list; clips of a game that it has already are made again.
        game: Name in ale-py, such as pong, breakout, ms_pacman.
        clips: How many.
        seconds: Length of each.
        size: Height and width in pixels, distorted; default: the console's 210 x 160.
        fps: Frames a second, a divisor of 60.
        sticky: Probability that a frame's action is the last one's.
        seed: Clip n is made from this plus n alone.
    """
    if fps < 1 or RATE % fps or clips < 1 or seconds * fps < 1:
        raise InputError(f"fps={fps} must divide {RATE}; clips={clips} and seconds={seconds} be positive")
    folder.mkdir(parents=True, exist_ok=True)
    listed: list[dict[str, Any]] = []
    for n in track(range(clips), "Playing"):
        console = load_game(game, seed + n)
        taken = play(console, np.random.default_rng(seed + n), round(seconds * fps), RATE // fps, sticky)
        video = taken.video if size is None else io.resize(taken.video, size, "stretch")
        name = f"{game}-{n:04d}.mp4"
        io.write(folder / name, video, fps, sound=taken.sound, sample_rate=RATE * SAMPLES)
        names = {key.value: key.name.lower() for key in console.getMinimalActionSet()}
        listed.append({
            "file": name, "caption": game.replace("_", " "), "actions": taken.actions,
            "action_names": names, "seed": seed + n, "fps": fps,
        })  # fmt: skip
    index = folder / "metadata.jsonl"
    others = [json.loads(line) for line in index.read_text().splitlines()] if index.exists() else []
    kept = [line for line in others if line["file"] not in {line["file"] for line in listed}]
    with atomic_file(index) as temporary:
        temporary.write_text("".join(json.dumps(line) + "\n" for line in [*kept, *listed]))
    print(f"{clips} clips of {game} in {folder}; train on them: mmdiff run folder.actions --data {folder}")


if __name__ == "__main__":
    main(**parse(main, sys.argv[1:], Path(sys.argv[0]).name))

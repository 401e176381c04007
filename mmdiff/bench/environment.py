"""An environment of their own for other people's packages, which shares the libraries that are here already."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from mmdiff.errors import InputError

_MARK = "mmdiff-peers.json"


def default_folder() -> Path:
    """Where the environment is kept: in the user's cache, one for each version of Python."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    name = f"peers-python{sys.version_info.major}.{sys.version_info.minor}"
    return Path(cache).expanduser() / "mmdiff" / name


def peers_python(folder: Path, packages: Sequence[str]) -> str:
    """Interpreter that has these packages; they are installed unless they are there.

    Their dependencies, PyTorch above all, are those of the interpreter in use: nothing is downloaded twice, and all
    are measured with the same libraries.

    Parameters
    ----------
    folder : Path
        Made if it does not exist.
    packages : sequence of str
        Pinned, such as ``wavegrad==0.1.5``.

    Returns
    -------
    str
        Path of the interpreter.

    Raises
    ------
    InputError
        The folder holds something else, or the packages cannot be installed.
    """
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    if (installed := _installed(folder)) != list(packages):
        _note(folder, [])  # first of all, so that what an interruption leaves is known to be ours
        make = [sys.executable, "-m", "venv", "--without-pip", str(folder)]
        _run(make, f"an environment cannot be made in {folder}")
    place = _package_folder(python)
    if installed != list(packages):
        pip = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--retries",
            "1",
        ]
        wish = f"{', '.join(packages)} cannot be installed in {folder}; PyPI, or PIP_INDEX_URL, must be reached once"
        _run([*pip, "--no-deps", "--upgrade", "--target", str(place), *packages], wish)
        _note(folder, packages)
    _share_libraries(place)
    return str(python)


def _installed(folder: Path) -> list[str]:
    """Packages that an earlier call has installed there; none in a new or empty folder."""
    if (folder / _MARK).is_file():
        packages: list[str] = json.loads((folder / _MARK).read_text(encoding="utf-8"))
        return packages
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(
            f"env={str(folder)!r} must be a new or empty folder, or one that this command has made"
        )
    return []


def _note(folder: Path, packages: Sequence[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _MARK).write_text(json.dumps(list(packages)), encoding="utf-8")


def _run(command: list[str], wish: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = [line for line in (done.stderr + done.stdout).splitlines() if line.startswith("ERROR")]
        reason = (said or (done.stderr + done.stdout).strip().splitlines() or ["no reason given"])[-1]
        raise InputError(f"{wish}: {reason.removeprefix('ERROR: ')}")


def _package_folder(python: Path) -> Path:
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    return Path(
        subprocess.run([python, "-c", ask], capture_output=True, text=True, check=True).stdout.strip()
    )


def _share_libraries(place: Path) -> None:
    """Let an environment's interpreter find, after its own packages, those of the interpreter in use.

    A venv's own option for that would give those of the interpreter that the one in use was itself made from.
    """
    shared = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    (place / "shared.pth").write_text("\n".join([*shared, ""]), encoding="utf-8")

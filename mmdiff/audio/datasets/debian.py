"""Sound out of Debian packages: get and unpack them, credit their authors, finish a dataset folder."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from mmdiff.errors import InputError

SUMS = "SHA256SUMS"
LICENCES = "LICENSES"


def run(*command: str, source: str, cwd: Path | None = None) -> None:
    """Run one Debian tool; what it said on failure becomes part of the error.

    Parameters
    ----------
    command : str
        Program and arguments.
    source : str
        Debian source package whose files are wanted, for the advice in the message.
    cwd : Path, optional
        Where to run it.

    Raises
    ------
    InputError
        The tool is not installed, or it failed.
    """
    advice = (
        "on Debian or Ubuntu run `sudo apt-get update` first; elsewhere fetch the .deb files from "
        f"https://packages.debian.org/source/stable/{source} and pass their folder as debs"
    )
    if shutil.which(command[0]) is None:
        raise InputError(f"{command[0]} must be installed to get the speech packages: {advice}")
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or f"exit status {done.returncode}")[-500:]
        raise InputError(f"`{' '.join(command)}` failed: {said}\n{advice}")


def get_packages(
    names: Sequence[str], source: str, downloads: Path, debs: str | Path | None = None
) -> dict[str, Path]:
    """Find the file of each package, downloaded where no folder of them is given.

    Parameters
    ----------
    names : sequence of str
        Binary packages.
    source : str
        Their source package.
    downloads : Path
        Folder for downloads; what an earlier call got is used again.
    debs : str | Path, optional
        Folder that holds the packages already.

    Returns
    -------
    dict[str, Path]
        File of each package name; of several versions in ``debs`` the last in order of name.

    Raises
    ------
    InputError
        The folder or a package is missing, or the download failed.
    """
    given = None if debs is None else Path(debs).expanduser()
    if given is not None and not given.is_dir():
        raise InputError(f"debs={str(given)!r} must be a folder that holds the .deb files")
    found = {}
    for name in names:
        if given is None and not list(downloads.glob(f"{name}_*.deb")):
            _download(name, source, downloads)
        files = sorted((given or downloads).glob(f"{name}_*.deb"))
        if not files:
            raise InputError(f"debs={str(debs)!r} must hold {name}_*.deb: `apt-get download {name}` gets it")
        found[name] = files[-1]
    return found


def _download(name: str, source: str, downloads: Path) -> None:
    """Fetch one package; a download cut short never looks like a package."""
    incoming = downloads / "incoming"
    shutil.rmtree(incoming, ignore_errors=True)
    incoming.mkdir(parents=True)
    run("apt-get", "download", name, source=source, cwd=incoming)
    for file in incoming.glob("*.deb"):
        os.replace(file, downloads / file.name)


def is_vacant(folder: Path) -> bool:
    """Tell whether a dataset can be put in place here: nothing there, or an empty folder."""
    return not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))


def credited_packages(folder: Path) -> set[str]:
    """Name the packages that a finished folder was made of; none if it is not one that we finished."""
    if not folder.is_dir() or not (folder / SUMS).is_file():
        return set()
    return {path.stem for path in (folder / LICENCES).glob("*.txt")}


def build_folder(
    folder: str | Path,
    what: str,
    tag: str,
    sources: Mapping[str, str],
    introduction: str,
    write: Callable[[Path, Path], None],
    debs: str | Path | None = None,
    sections: Mapping[str, str] | None = None,
) -> Path:
    """Build a dataset folder out of packages, or return it as it is where an earlier call finished it.

    Everything happens in a ``.partial`` folder beside the final one, which appears only when complete.

    Parameters
    ----------
    folder : str | Path
        Where the dataset goes.
    what : str
        What it holds, for messages.
    tag : str
        Tells partial folders of different content apart.
    sources : mapping of str to str
        Debian source package of each binary package.
    introduction, sections
        As for :func:`write_attribution`.
    write : callable
        ``write(unpacked, partial)`` makes the content, apart from attribution and sums; what an interrupted call
        left in ``partial`` is there.
    debs : str | Path, optional
        Folder that holds the packages already.

    Returns
    -------
    Path
        The finished folder, absolute.

    Raises
    ------
    InputError
        The folder holds something else, or a package or a tool is missing.
    """
    folder = Path(folder).expanduser().absolute()
    if not is_vacant(folder):
        if credited_packages(folder) == set(sources):
            return folder
        raise InputError(
            f"folder={str(folder)!r} holds something other than {what}: name a folder that does not exist yet, or "
            "remove this one"
        )
    partial = folder.with_name(f"{folder.name}.{tag}.partial")
    unpacked, downloads = partial / ".unpacked", partial / ".debs"
    unpacked.mkdir(parents=True, exist_ok=True)
    packages: dict[str, Path] = {}
    for name, source in sources.items():
        packages |= get_packages([name], source, downloads, debs)
    for name, package in packages.items():
        run("dpkg-deb", "-x", str(package), str(unpacked), source=sources[name])
    write(unpacked, partial)
    write_attribution(partial, introduction, packages, unpacked, sections)
    finish(partial, folder, [unpacked, downloads])
    return folder


def write_attribution(
    folder: Path,
    introduction: str,
    packages: Mapping[str, Path],
    unpacked: Path,
    sections: Mapping[str, str] | None = None,
) -> None:
    """Copy each package's copyright file to ``LICENSES/``, and say in ``ATTRIBUTION.md`` whose work this is.

    Parameters
    ----------
    folder : Path
        The dataset.
    introduction : str
        What the sound is and what was changed, for the top of the page.
    packages : mapping of str to Path
        File of each package.
    unpacked : Path
        Where they are unpacked.
    sections : mapping of str to str, optional
        Of each package, the ``Files:`` pattern in the copyright file that covers the sound; default "*".
    """
    (folder / LICENCES).mkdir(exist_ok=True)
    page = ["# Whose voices these are\n", f"{introduction}\n"]
    for name, package in packages.items():
        text = (unpacked / "usr/share/doc" / name / "copyright").read_text(encoding="utf-8")
        (folder / LICENCES / f"{name}.txt").write_text(text, encoding="utf-8")
        page.append(f"## {package.name}\n\n```\n{_paragraph(text, (sections or {}).get(name, '*'))}\n```\n")
    page.append(f"The full texts of the licences are in `{LICENCES}/`.\n")
    (folder / "ATTRIBUTION.md").write_text("\n".join(page), encoding="utf-8")


def _paragraph(text: str, pattern: str) -> str:
    """Return the paragraph of a machine-readable copyright file that covers some files."""
    paragraphs = [part.strip() for part in text.split("\n\n") if part.startswith("Files:")]
    for wanted in (pattern, "*"):
        for paragraph in paragraphs:
            if paragraph.splitlines()[0] == f"Files: {wanted}":
                return paragraph
    return text


def finish(partial: Path, folder: Path, scratch: Sequence[Path]) -> None:
    """Remove what is left of the making, write ``SHA256SUMS``, and put the folder in its place."""
    for leftover in scratch:
        shutil.rmtree(leftover, ignore_errors=True)
    files = sorted(path for path in partial.rglob("*") if path.is_file() and path.name != SUMS)
    lines = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(partial).as_posix()}\n"
        for path in files
    ]
    (partial / SUMS).write_text("".join(lines), encoding="utf-8")
    os.replace(partial, folder)  # an empty folder of that name gives way

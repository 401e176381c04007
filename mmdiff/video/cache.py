"""Videos decoded once: their frames as bytes at the training size, mapped into memory by all processes."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np

from mmdiff.errors import InputError
from mmdiff.files import atomic_file
from mmdiff.media import cache
from mmdiff.progress import track
from mmdiff.video.frames import Frames
from mmdiff.video.items import VideoItem

_FORMAT = 1  # of the files: a change makes new ones

T = TypeVar("T")


def default_folder() -> Path:
    """Return where frames are kept, see :func:`mmdiff.media.cache.default_folder`."""
    return cache.default_folder("video")


class CachedFrames:
    """Random access to the frames of many videos.

    Each video, or part of one that an item asks for, becomes one ``.npy`` file of shape (frames, 3, H, W),
    uint8. Its name is a fingerprint of the video's path, size and modification time, of the part and of the
    settings, so a changed video is decoded again, an interrupted run goes on where it stopped, and a grown
    data set only decodes what is new. A file that is missing or cut short is made again at the start; one
    that has become so since, or has a damaged header, when it is read. Of several processes that start at
    once, one decodes. Videos that cannot be read are left out with one warning.

    Parameters
    ----------
    items : sequence of VideoItem
        Videos or pictures.
    frames : Frames
        Size, rate and fit.
    folder : path, optional
        Where the files go; by default :func:`default_folder`. False keeps nothing: whatever is asked for is
        decoded each time.
    most_gb : float > 0
        Most that these items may take on disk, in 10⁹ bytes.
    progress : bool
        Show a progress bar while decoding.

    Attributes
    ----------
    lengths : ndarray of int64, shape (items,)
        Frames of each item, 0 for one that was left out.

    Raises
    ------
    InputError
        There are no items, more than a tenth of them cannot be read, the files would need more than
        ``most_gb``, or cannot be written.
    """

    def __init__(
        self,
        items: Sequence[VideoItem],
        frames: Frames,
        folder: str | Path | Literal[False] | None = None,
        *,
        most_gb: float = 50.0,
        progress: bool = True,
    ) -> None:
        if not items:
            raise InputError("items must hold at least one video: see find_videos()")
        if not most_gb > 0:
            raise InputError(f"cache_gb={most_gb} must be above 0; cache=False keeps nothing on disk")
        self.items, self.frames = list(items), frames
        self._folder = None if folder is False else Path(folder or default_folder()).expanduser()
        self._keys = _fingerprints(self.items, frames)
        wanted = dict(zip(self._keys, self.items, strict=True))
        self._rates: dict[str, float] = {}
        if self._folder is None:
            lengths = self._measure(wanted, progress)
        else:
            lengths = self._present(wanted)
            if len(lengths) < len(wanted):
                lengths = self._build(self._folder, wanted, most_gb, progress)
        self.lengths = np.array([lengths.get(key, 0) for key in self._keys], np.int64)

    def __len__(self) -> int:
        return len(self.lengths)

    def read(self, item: int, numbers: np.ndarray) -> np.ndarray:
        """Return frames of an item by their rising numbers: uint8 (len(numbers), 3, H, W)."""
        key = self._keys[item]
        if self._folder is None:
            return self.frames.some(self.items[item], numbers, self._rates[key])
        stored = self._stored(key)
        if stored is None:  # damaged or deleted since the start
            self._write(key, self.items[item], lambda size: None)
            stored = self._stored(key)
            assert stored is not None
        return stored[np.minimum(numbers, len(stored) - 1)]

    def _file(self, key: str) -> Path:
        assert self._folder is not None
        return self._folder / key[:2] / f"{key}.npy"

    def _stored(self, key: str) -> np.ndarray | None:
        """Map a file of the cache; None where it is missing or damaged."""
        try:
            stored: np.ndarray = np.load(self._file(key), mmap_mode="r")
        except (OSError, ValueError, EOFError):
            return None
        whole = stored.dtype == np.uint8 and stored.ndim == 4 and len(stored) > 0
        return stored if whole and stored.shape[1:] == self.frames.shape else None

    def _present(self, wanted: dict[str, VideoItem]) -> dict[str, int]:
        """Return the number of frames of each item whose file is there and of a fitting size."""
        head = len(_header(0, self.frames.shape))
        frame = int(np.prod(self.frames.shape))
        found = {}
        for key in wanted:
            with contextlib.suppress(OSError):
                # by its size alone: opening a hundred thousand files would take a minute
                count, rest = divmod(self._file(key).stat().st_size - head, frame)
                if count > 0 and not rest:
                    found[key] = count
        return found

    def _build(
        self, folder: Path, wanted: dict[str, VideoItem], most_gb: float, progress: bool
    ) -> dict[str, int]:
        """Decode what is not there yet; return the number of frames of each key that can be used."""
        frame = int(np.prod(self.frames.shape))
        with cache.writing_to(folder, f"{frame} bytes a frame"):
            folder.mkdir(parents=True, exist_ok=True)
            with _alone(folder):
                lengths = self._present(wanted)  # another process may have made them meanwhile
                missing = {key: item for key, item in wanted.items() if key not in lengths}
                budget = _Budget(most_gb, sum(lengths.values()) * frame, len(lengths), len(wanted))

                def make(key: str, item: VideoItem) -> int:
                    frames = self._write(key, item, budget.spend)
                    budget.done += 1
                    return frames

                return lengths | _usable(make, missing, len(wanted), "Caching frames", progress)

    def _write(self, key: str, item: VideoItem, spend: Callable[[int], None]) -> int:
        """Decode one item into its file; return its number of frames."""
        count = 0
        with atomic_file(self._file(key)) as temporary, temporary.open("wb") as out:
            out.write(_header(0, self.frames.shape))
            for block in self.frames.every(item):
                spend(block.nbytes)
                out.write(block.tobytes())
                count += len(block)
            if not count:
                raise _nothing(item)
            out.seek(0)
            out.write(_header(count, self.frames.shape))
        return count

    def _measure(self, wanted: dict[str, VideoItem], progress: bool) -> dict[str, int]:
        """Learn the lengths of videos that are not going to be kept."""

        def measure(key: str, item: VideoItem) -> int:
            frames, self._rates[key] = self.frames.measure(item)
            if not frames:
                raise _nothing(item)
            return frames

        return _usable(measure, wanted, len(wanted), "Opening videos", progress)


def _fingerprints(items: Sequence[VideoItem], frames: Frames) -> list[str]:
    state = functools.lru_cache(maxsize=1 << 16)(cache.state_of)  # many items may share a file
    how = f"{_FORMAT} {frames}"
    return [
        cache.fingerprint([how, state(item.path), f"{item.member}", f"{item.start} {item.end}"], 32)
        for item in items
    ]


def _usable(
    work: Callable[[str, VideoItem], T], wanted: dict[str, VideoItem], total: int, what: str, progress: bool
) -> dict[str, T]:
    """Do the work on a few threads; leave out, with one warning, the items it refuses."""

    def attempt(entry: tuple[str, VideoItem]) -> T | str:
        try:
            return work(*entry)
        except _Full:
            raise
        except InputError as error:
            return str(error)

    results = cache.on_threads(attempt, wanted.items())
    done = list(track(results, what, total=len(wanted), show=progress))
    complaints = [result for result in done if isinstance(result, str)]
    cache.report_broken(complaints, total, stacklevel=5)
    return {key: result for key, result in zip(wanted, done, strict=True) if not isinstance(result, str)}


def _nothing(item: VideoItem) -> InputError:
    return InputError(f"path={item.name!r} has no frames from start={item.start:g} s on: correct its part")


def _header(frames: int, shape: tuple[int, int, int]) -> bytes:
    """Header of the .npy format; NumPy pads it, so that it is equally long for any number of frames."""
    out = BytesIO()
    fields = {"shape": (frames, *shape), "fortran_order": False, "descr": "|u1"}
    np.lib.format.write_array_header_1_0(out, fields)
    return out.getvalue()


class _Full(InputError):
    """The items need more room than they may take."""


class _Budget:
    """Bytes that may still be written; once they are gone, it says how many all items would need."""

    def __init__(self, most_gb: float, used: int, done: int, total: int) -> None:
        self.most_gb, self.used, self.done, self.total = most_gb, used, done, total
        self._lock = threading.Lock()

    def spend(self, size: int) -> None:
        with self._lock:
            self.used += size
        if self.used > self.most_gb * 1e9:
            guess = self.used / 1e9 * self.total / max(self.done, 1)
            raise _Full(
                f"cache_gb={self.most_gb:g} is full after {self.done} of {self.total} videos, which may need "
                f"{guess:.3g} in all: raise it (what is done is kept), lower size or fps, or set cache=False"
            )


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Wait until no other process builds in this folder, where the system can tell."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    with (folder / ".lock").open("w") as lock:
        with contextlib.suppress(OSError):  # not every network drive has locks; twice decoded is not wrong
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield

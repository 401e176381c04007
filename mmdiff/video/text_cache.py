"""Features of captions kept on disk: each caption of a training goes through the text encoder once."""

from __future__ import annotations

import hashlib
import warnings
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from pathlib import Path

from torch import Tensor

from mmdiff.errors import CheckpointError, InputError
from mmdiff.files import atomic_file
from mmdiff.progress import track
from mmdiff.video.text import TextEncoder, padded
from mmdiff.weights import read_tensors, save_tensors

_AT_ONCE = 256  # captions encoded between two looks at the progress bar


class CachedText:
    """A text encoder that remembers: called like :class:`mmdiff.video.text.TextEncoder`, with the same result.

    Each caption's features are one small safetensors file, named by a hash of the encoder's identity and the
    caption. Files appear whole, so several processes may share a folder, and an interrupted run goes on where it
    was; one that is damaged is made again.

    Parameters
    ----------
    encoder : TextEncoder
    folder : str or Path
    most_gb : float > 0
        Of files, in 10⁹ bytes; captions beyond are encoded each time, with one warning.
    most_mb : float >= 0
        Of features kept in memory, in 10⁶ bytes.

    Raises
    ------
    InputError
        A limit breaks its rule.

    Examples
    --------
    >>> text = CachedText(TextEncoder("google-t5/t5-small"), "cache/text")  # doctest: +SKIP
    >>> text.prepare(captions)  # doctest: +SKIP
    >>> task = ClipTask(model, text=text)  # doctest: +SKIP
    """

    def __init__(
        self, encoder: TextEncoder, folder: str | Path, *, most_gb: float = 20.0, most_mb: float = 500.0
    ) -> None:
        if not most_gb > 0 or not most_mb >= 0:
            raise InputError(f"most_gb={most_gb} must be above 0, and most_mb={most_mb} at least 0")
        self.encoder, self.folder = encoder, Path(folder).expanduser()
        self._left = most_gb * 1e9 - sum(f.stat().st_size for f in self.folder.glob("??/*.safetensors"))
        self._most, self._held = most_mb * 1e6, 0
        self._recent: OrderedDict[str, Tensor] = OrderedDict()
        self._warned = False

    def __call__(self, captions: Sequence[str | None]) -> Tensor:
        """Encode captions: see :meth:`mmdiff.video.text.TextEncoder.__call__`."""
        wanted = {caption for caption in captions if caption and caption.strip()}
        found = {caption: self._known(caption) for caption in sorted(wanted)}
        found.update(self._encode([caption for caption, features in found.items() if features is None]))
        return padded(
            [found.get(caption or "") for caption in captions], self.encoder.width, self.encoder.device
        )

    def prepare(self, captions: Iterable[str | None], *, progress: bool = True) -> None:
        """Encode those of the captions that have no file yet, all at once and before training."""
        wanted = sorted({caption for caption in captions if caption and caption.strip()})
        missing = [caption for caption in wanted if not self._file(caption).exists()]
        starts = range(0, len(missing), _AT_ONCE)
        for begin in track(starts, "encoding captions") if progress and missing else starts:
            self._encode(missing[begin : begin + _AT_ONCE])

    def _encode(self, captions: Sequence[str]) -> dict[str, Tensor]:
        if not captions:
            return {}
        rows = self.encoder(captions)
        # Features are not exactly 0, and padding is.
        found = {caption: row[row.ne(0).any(-1)] for caption, row in zip(captions, rows, strict=True)}
        for caption, features in found.items():
            self._write(caption, features)
            self._remember(caption, features)
        return found

    def _known(self, caption: str) -> Tensor | None:
        if caption in self._recent:
            self._recent.move_to_end(caption)
            return self._recent[caption]
        path = self._file(caption)
        if not path.exists():
            return None
        try:
            features = read_tensors(path).get("features")
        except CheckpointError:
            return None  # damaged
        if features is None or features.ndim != 2 or features.shape[1] != self.encoder.width:
            return None
        features = features.to(self.encoder.device)
        self._remember(caption, features)
        return features

    def _remember(self, caption: str, features: Tensor) -> None:
        self._recent[caption] = features
        self._held += features.nbytes
        while self._held > self._most:
            self._held -= self._recent.popitem(last=False)[1].nbytes

    def _write(self, caption: str, features: Tensor) -> None:
        if features.nbytes > self._left:
            if not self._warned:
                self._warned = True
                warnings.warn(
                    f"folder={str(self.folder)!r} is full: more captions are encoded each time; raise most_gb",
                    stacklevel=4,
                )
            return
        path = self._file(caption)
        with atomic_file(path) as temporary:
            save_tensors(temporary, {"features": features.to("cpu", self.encoder.dtype).contiguous()})
        self._left -= path.stat().st_size

    def _file(self, caption: str) -> Path:
        key = hashlib.sha256(f"{self.encoder.identity}\0{caption}".encode()).hexdigest()
        return self.folder / key[:2] / f"{key}.safetensors"

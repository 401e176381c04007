"""A small text encoder trained together with the network: it knows the words of the training captions, offline."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from mmdiff.nn.attention import Attention
from mmdiff.registry import register
from mmdiff.video.conditioning import Conditioner
from mmdiff.video.told import Told, longest

PADDING, UNKNOWN = 0, 1
_SPECIAL = ("", "?")
_WORD = re.compile(r"[^\W_]+|[^\w\s]")


def split_words(caption: str) -> list[str]:
    """Words and punctuation marks of a caption, in lower case, accents joined to their letters."""
    return _WORD.findall(unicodedata.normalize("NFC", caption.lower()))


def learn_vocabulary(captions: Iterable[str], size: int = 4096, least: int = 2) -> tuple[str, ...]:
    """Word pieces for captions like these: padding, unknown, every character, then the most frequent words.

    Parameters
    ----------
    captions : iterable of str
    size : int >= 2
        At most so many pieces. Should the characters alone be more, only the most frequent are taken.
    least : int
        A word seen less often is spelt with pieces.

    Returns
    -------
    tuple of str
        Pieces that continue a word begin with "##".

    Examples
    --------
    >>> learn_vocabulary(["a red seven", "a blue seven"])[-2:]
    ('a', 'seven')
    """
    counts = Counter(word for caption in captions for word in split_words(caption))
    used = Counter(letter for word in counts.elements() for letter in word)
    frequent = sorted(used, key=lambda letter: (-used[letter], letter))
    letters = sorted(frequent[: max(0, size - 2) // 2])
    spelling = [*letters, *(f"##{letter}" for letter in letters)]
    words = [w for w, n in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])) if n >= least]
    pieces = dict.fromkeys([*_SPECIAL, *spelling, *words[: max(0, size - len(spelling) - 2)]])
    return tuple(pieces)


@register
class CaptionEncoder(Conditioner):
    """Word pieces, positions and a few layers of self-attention: a token for each piece and a pooled vector.

    Parameters
    ----------
    vocabulary : tuple of str
        Of :func:`learn_vocabulary`.
    width : int
        E and V: channels of tokens and vector.
    depth : int >= 0
        Self-attention layers.
    length : int > 0
        Pieces read of a caption at most.
    name : str
    """

    def __init__(
        self,
        vocabulary: tuple[str, ...],
        width: int = 128,
        depth: int = 1,
        length: int = 32,
        name: str = "caption",
    ) -> None:
        super().__init__()
        self.name, self.length, self.vocabulary = name, length, vocabulary
        self.index = {piece: i for i, piece in enumerate(vocabulary)}
        self.embed = nn.Embedding(len(vocabulary), width)
        self.place = nn.Parameter(0.1 * torch.randn(length + 1, width))
        self.start = nn.Parameter(0.5 * torch.randn(width))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(depth))
        self.layers = nn.ModuleList(Attention(width) for _ in range(depth))
        self.mix = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, width)
            )
            for _ in range(depth)
        )
        nn.init.normal_(self.embed.weight, std=0.5)

    def forward(self, value: Tensor, x: Tensor) -> Told:
        """Encode ids (B, length) or (B, 1 + stills, length) of :meth:`ids`; all-zero rows are no caption."""
        ids = value if value.ndim == 3 else value[:, None]
        flat = ids.flatten(0, 1)
        flat = flat[:, : longest(flat != PADDING)]
        begin = self.start.expand(len(flat), 1, -1)
        words = self.embed(flat) * (flat != PADDING)[..., None]
        seen = torch.cat((flat.new_ones((len(flat), 1), dtype=torch.bool), flat != PADDING), 1)
        h = torch.cat((begin, words), 1) + self.place[: flat.shape[1] + 1]
        for norm, attention, mix in zip(self.norms, self.layers, self.mix, strict=True):
            h = h + attention(norm(h), mask=seen[:, None, None])
            h = h + mix(h)
        # The plain sum of the words is what learns fastest; the first token adds what their order means.
        vector = words.sum(1) + h[:, 0]
        shape = ids.shape[:2]
        return Told(vector.unflatten(0, shape), h.unflatten(0, shape), seen.unflatten(0, shape))

    def null(self, value: Tensor) -> Tensor:
        """Return ids of the empty caption."""
        return torch.zeros_like(value)

    def absent(self, x: Tensor) -> Tensor:
        """Return ids of an empty caption for each clip."""
        return torch.zeros(len(x), self.length, dtype=torch.int64, device=x.device)

    def ids(self, captions: Sequence[str | None]) -> Tensor:
        """Pieces of captions: int64 (N, length), 0 after the last; None and "" are no caption."""
        rows = torch.zeros(len(captions), self.length, dtype=torch.int64)
        for row, caption in zip(rows, captions, strict=True):
            pieces = [p for word in split_words(caption or "") for p in self.pieces(word)][: self.length]
            row[: len(pieces)] = torch.tensor([self.index[p] for p in pieces], dtype=torch.int64)
        return rows

    def pieces(self, word: str) -> list[str]:
        """Split a word into the longest known pieces, from its beginning (WordPiece, 1609.08144)."""
        found, begin = [], 0
        while begin < len(word):
            prefix = "##" if begin else ""
            for end in range(len(word), begin, -1):
                if (piece := prefix + word[begin:end]) in self.index:
                    found.append(piece)
                    begin = end
                    break
            else:
                return [_SPECIAL[UNKNOWN]]
        return found

    def unknown_words(self, caption: str) -> list[str]:
        """Words that training captions did not hold, or too seldom to be a piece of their own."""
        return [word for word in split_words(caption) if self.pieces(word) != [word]]

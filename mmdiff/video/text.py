"""Captions through any Hugging Face text encoder, frozen: T5, CLIP, BERT and sentence models; extra ``text``.

The encoder stays outside of the model folder: :class:`TextFeatures`, which is trained, records which one it is.
Training gives ``ClipTask`` an encoder, or a :class:`mmdiff.video.text_cache.CachedText` of one; the pipeline calls
:func:`encoder_for` with the first prompt.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmdiff.devices import pick_device
from mmdiff.errors import InputError
from mmdiff.registry import register
from mmdiff.video.conditioning import Conditioner
from mmdiff.video.text_loading import fingerprint, load_encoder
from mmdiff.video.told import Told, longest

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_UNLIMITED = 10**6  # a tokenizer that knows no limit states an absurd one


@register
class TextFeatures(Conditioner):
    """Features of a frozen text encoder as tokens and a pooled vector, both learned projections of them.

    Parameters
    ----------
    encoder : str
        Name or folder of the encoder, for :class:`TextEncoder`.
    features : int > 0
        Its width.
    width : int > 0
        E and V: channels of tokens and vector.
    length : int > 0
        Tokens read of a caption at most.
    fingerprint : str
        Of the encoder's weights and words; "" is any.
    name : str
    """

    def __init__(
        self,
        encoder: str,
        features: int,
        width: int = 256,
        length: int = 77,
        fingerprint: str = "",
        name: str = "text",
    ) -> None:
        super().__init__()
        self.name, self.encoder, self.features = name, encoder, features
        self.length, self.fingerprint = length, fingerprint
        self.norm = nn.LayerNorm(features)
        self.project = nn.Linear(features, width)
        self.pool = nn.Sequential(nn.Linear(features, width), nn.SiLU(), nn.Linear(width, width))
        self.start = nn.Parameter(0.5 * torch.randn(width))
        self.nothing = nn.Parameter(0.5 * torch.randn(width))

    def forward(self, value: Tensor, x: Tensor) -> Told:
        """Project features (B, L, D) or (B, 1 + stills, L, D); rows of zeros are padding, nothing else no caption."""
        if value.shape[-1] != self.features or value.ndim not in (3, 4):
            raise InputError(
                f"{self.name}={tuple(value.shape)} must be (B, L, {self.features}) or (B, 1 + stills, L, "
                f"{self.features}): features of the text encoder {self.encoder!r}"
            )
        whole = value if value.ndim == 4 else value[:, None]
        shape, flat = whole.shape[:2], whole.flatten(0, 1)
        filled = flat.ne(0).any(-1)
        used = longest(filled)
        filled = filled[:, :used, None]
        normal = self.norm(flat[:, :used].to(self.start.dtype)) * filled
        words = self.project(normal) * filled
        count = filled.sum(1)
        pooled = self.pool(normal.sum(1) / count.clamp_min(1))
        vector = torch.where(count > 0, pooled, self.nothing.to(pooled))
        tokens = torch.cat((self.start.to(words).expand(len(flat), 1, -1), words), 1)
        seen = nn.functional.pad(filled[..., 0], (1, 0), value=True)
        return Told(vector.unflatten(0, shape), tokens.unflatten(0, shape), seen.unflatten(0, shape))

    def null(self, value: Tensor) -> Tensor:
        """Return features of the empty caption."""
        return torch.zeros_like(value)

    def absent(self, x: Tensor) -> Tensor:
        """Return features of an empty caption for each clip."""
        return x.new_zeros((len(x), 1, self.features))


class TextEncoder:
    """A pretrained text encoder of Hugging Face's ``transformers``, frozen: captions to features.

    What lies in a local folder or in the hub's cache is used without a connection. Only weights in safetensors
    are read, and no code that comes with a model is run.

    Parameters
    ----------
    name : str or Path
        Folder written by ``save_pretrained``, or a name on the hub such as ``"google-t5/t5-small"``,
        ``"openai/clip-vit-large-patch14"`` or ``"sentence-transformers/all-MiniLM-L6-v2"``.
    length : int > 0
        Tokens read of a caption at most.
    device : str, optional
        Default: the fastest there is.
    dtype : {"float32", "bfloat16"}
        Of weights and computation.
    batch_size : int > 0
        Captions encoded at once.

    Attributes
    ----------
    width : int
        D, channels of the features.
    fingerprint : str
        Tells weights and words from those of other encoders, wherever they lie.
    identity : str
        Tells features from those of other encoders and settings.

    Raises
    ------
    InputError
        ``transformers`` is missing; the name is neither a folder nor in the local cache and cannot be fetched; its
        weights are not in safetensors or not complete; or a setting breaks its rule.

    Examples
    --------
    >>> encoder = TextEncoder("google-t5/t5-small")  # doctest: +SKIP
    >>> encoder(["a red seven moving left", None]).shape  # doctest: +SKIP
    torch.Size([2, 6, 512])
    """

    def __init__(
        self,
        name: str | Path,
        *,
        length: int = 77,
        device: str | None = None,
        dtype: str = "float32",
        batch_size: int = 64,
    ) -> None:
        if dtype not in _DTYPES:
            raise InputError(f"dtype={dtype!r} must be one of {', '.join(_DTYPES)}")
        if length < 1 or batch_size < 1:
            raise InputError(f"length={length} and batch_size={batch_size} must be at least 1")
        self.name, self.batch_size = str(name), batch_size
        self._tokenizer, model, missing = load_encoder(self.name)
        config = getattr(model.config, "text_config", model.config)
        self.width = int(config.hidden_size)
        limits = (length, self._tokenizer.model_max_length, getattr(config, "max_position_embeddings", None))
        self.length = min(limit for limit in limits if limit and limit < _UNLIMITED)
        self.fingerprint = fingerprint(model, missing, self._tokenizer.get_vocab())
        self.identity = f"{self.fingerprint}-{self.length}-{dtype}"
        self.device, self.dtype = pick_device(device), _DTYPES[dtype]
        self._model = model.to(self.device, self.dtype).eval().requires_grad_(False)

    @torch.no_grad()
    def __call__(self, captions: Sequence[str | None]) -> Tensor:
        """Encode captions.

        Parameters
        ----------
        captions : sequence of str or None
            None and "" are no caption.

        Returns
        -------
        Tensor, shape (N, L, D), float32, on the encoder's device
            L is the length of the longest caption, at least 1; rows after a caption's end are 0.
        """
        texts = [caption or "" for caption in captions]
        # Captions of similar length go together: less padding to compute.
        order = sorted((n for n, text in enumerate(texts) if text.strip()), key=lambda n: len(texts[n]))
        found: dict[int, Tensor] = {}
        for begin in range(0, len(order), self.batch_size):
            chosen = order[begin : begin + self.batch_size]
            inputs = self._tokenizer(
                [texts[n] for n in chosen],
                padding=True,
                truncation=True,
                max_length=self.length,
                return_tensors="pt",
            )
            ids, mask = inputs["input_ids"].to(self.device), inputs["attention_mask"].to(self.device)
            hidden = self._model(input_ids=ids, attention_mask=mask).last_hidden_state.float()
            for n, row, real in zip(chosen, hidden, mask.bool(), strict=True):
                found[n] = row[real]
        return padded([found.get(n) for n in range(len(texts))], self.width, self.device)

    def condition(self, width: int = 256, name: str = "text") -> TextFeatures:
        """Build the condition, still untrained, that takes this encoder's features."""
        return TextFeatures(self.name, self.width, width, self.length, self.fingerprint, name)


def padded(rows: Sequence[Tensor | None], width: int, device: torch.device) -> Tensor:
    """Features (l, D) of captions, None for no caption, as one tensor (N, L, D) that ends in zeros."""
    length = max((len(row) for row in rows if row is not None), default=1)
    whole = torch.zeros(len(rows), max(1, length), width, device=device)
    for target, row in zip(whole, rows, strict=True):
        if row is not None:
            target[: len(row)] = row
    return whole


def text_features(model: nn.Module) -> TextFeatures | None:
    """Return a model's condition on a text encoder's features, if it has one."""
    return next((module for module in model.modules() if isinstance(module, TextFeatures)), None)


def encoder_for(model: nn.Module, name: str | Path | None = None, **settings: Any) -> TextEncoder | None:
    """Load the text encoder that a model was trained with; None if it was trained without.

    Parameters
    ----------
    model : nn.Module
    name : str or Path, optional
        Where the encoder lies now; default: the name that the model records.
    **settings
        ``device``, ``dtype``, ``batch_size`` of :class:`TextEncoder`.

    Raises
    ------
    InputError
        See :class:`TextEncoder`; or its features have another width.
    """
    features = text_features(model)
    if features is None:
        return None
    encoder = TextEncoder(name or features.encoder, length=features.length, **settings)
    if encoder.width != features.features:
        raise InputError(
            f"encoder={encoder.name!r} has features of width {encoder.width}, the model was trained with "
            f"{features.features} of {features.encoder!r}; name that one"
        )
    if features.fingerprint not in ("", encoder.fingerprint):
        warnings.warn(
            f"encoder={encoder.name!r} has other weights or words than the one the model was trained with, "
            f"{features.encoder!r}: captions may mean nothing to it",
            stacklevel=2,
        )
    return encoder

"""Reading text encoders by Hugging Face's ``transformers``: offline first, safetensors only, no foreign code."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mmdiff.errors import InputError

_SAMPLES = 16  # values of each weight that tell one encoder from another


def load_encoder(name: str) -> tuple[Any, Any, set[str]]:
    """Tokenizer, model, and names of the weights that were not stored, from a folder, the cache or the hub."""
    if importlib.util.find_spec("transformers") is None:
        raise InputError(
            f"encoder={name!r} must be read by transformers, which is missing: pip install 'mmdiff[text]'"
        )
    transformers = importlib.import_module("transformers")
    with _quiet(transformers), torch.random.fork_rng(devices=[]):
        try:
            try:
                return _read(transformers, name, local=True)
            except OSError:
                if Path(name).exists():
                    raise
                _check_reachable(name)
                return _read(transformers, name, local=False)
        except InputError:
            raise
        except Exception as error:  # transformers raises whatever its parts do
            raise InputError(_problem(name, error)) from None


def _read(transformers: Any, name: str, local: bool) -> tuple[Any, Any, set[str]]:
    source = {"local_files_only": local, "trust_remote_code": False}
    config = transformers.AutoConfig.from_pretrained(name, **source)
    tokenizer = transformers.AutoTokenizer.from_pretrained(name, **source)
    model, report = _model_class(transformers, config).from_pretrained(
        name, use_safetensors=True, output_loading_info=True, **source
    )
    missing = set(report["missing_keys"])
    if lost := sorted(key for key in missing if "pooler" not in key and "decoder" not in key):
        raise InputError(
            f"encoder={name!r} lacks weights of a {type(model).__name__}, {lost[0]} among them; "
            "name a text encoder, or write its folder again"
        )
    if model.config.is_encoder_decoder and hasattr(model, "get_encoder"):
        model = model.get_encoder()
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    return tokenizer, model, missing


def _model_class(transformers: Any, config: Any) -> Any:
    """Class that reads the text encoder alone, where the model is more than that."""
    if hasattr(config, "text_config"):  # CLIP and its like: pictures and text
        part = type(config).__name__.removesuffix("Config") + "TextModel"
        return getattr(transformers, part, transformers.AutoModel)
    known = transformers.models.auto.modeling_auto.MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES
    return transformers.AutoModelForTextEncoding if config.model_type in known else transformers.AutoModel


def _check_reachable(name: str) -> None:
    """Say what is wrong with a name at once: transformers would try again for half a minute."""
    import huggingface_hub

    try:
        huggingface_hub.model_info(name, timeout=10)
    except Exception as error:  # of the connection, the name or the server
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(
            f"encoder={name!r} is neither a folder nor in the local cache, and cannot be fetched from the hub "
            f"({reason[0]}); check the name and the connection, or give a folder written by save_pretrained"
        ) from None


def _problem(name: str, error: Exception) -> str:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    if "safetensors" in reason:
        return (
            f"encoder={name!r} has no weights in safetensors ({reason}); pickled weights can run code and are not "
            "read: load them where you trust them and write them with save_pretrained"
        )
    return f"encoder={name!r} cannot be read: {reason}; it must be a text encoder with its tokenizer"


def fingerprint(model: nn.Module, missing: set[str], vocabulary: dict[str, int]) -> str:
    """Hash of some values of each stored weight, and of the words; the same in all dtypes and places."""
    code = hashlib.sha256(json.dumps(sorted(vocabulary.items())).encode())
    for name, weight in sorted(model.state_dict().items()):
        if name not in missing:
            flat = weight.detach().flatten()
            some = flat[:: max(1, len(flat) // _SAMPLES)].to("cpu", torch.bfloat16).view(torch.int16)
            code.update(f"{name}{tuple(weight.shape)}".encode() + some.numpy().tobytes())
    return code.hexdigest()[:16]


@contextlib.contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Without bars and reports: what matters becomes an error."""
    log = transformers.utils.logging
    verbosity, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(verbosity)
        if bars:
            log.enable_progress_bar()

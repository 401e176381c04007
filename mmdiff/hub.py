"""Model folders: ``config.json`` + ``model.safetensors`` + ``README.md``, shipped, local or on the hub.

Loading builds only classes that mmdiff registers and reads only safetensors: a folder from a stranger cannot
run code.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

import mmdiff
from mmdiff.errors import CheckpointError, InputError
from mmdiff.files import atomic_folder, sha256
from mmdiff.registry import from_config, to_config, unknown_classes
from mmdiff.weights import assign_tensors, named_tensors, read_tensors, write_tensors

Kind = TypeVar("Kind", bound=nn.Module)

FORMAT = 1
MAX_CONFIG_BYTES = 2**20
SHIPPED = Path(__file__).parent / "models"
_OWN_KEYS = ("format", "mmdiff", "sha256", "model")
_FILES = ("config.json", "model.safetensors", "README.md")
_PACKAGES = ("diffusion", "nn", "audio", "video", "joint", "latent")
_HUB_ID = re.compile(r"(?P<repo>\w[\w.-]*/\w[\w.-]*)(@(?P<revision>\S+))?")


def save_model(
    model: nn.Module,
    folder: str | Path,
    *,
    card: str | None = None,
    extra: Mapping[str, Any] | None = None,
    half: bool = True,
) -> Path:
    """Write a model folder: all of it or nothing.

    ``config.json`` states the checksum of the weights, by which :func:`load_model` notices a damaged file.

    Parameters
    ----------
    model : nn.Module
        Of a registered class, built from JSON values and registered objects.
    folder : str or Path
        Where to; an older model folder there is replaced, and what else it holds is kept.
    card : str, optional
        Text of ``README.md``; default: a few lines that say what the model is and how to load it.
    extra : mapping, optional
        JSON values to keep in ``config.json``: licence, provenance, results.
    half : bool, default=True
        Store floating-point parameters as float16; buffers keep their type. Loading returns to float32.

    Returns
    -------
    Path
        ``folder``.

    Raises
    ------
    InputError
        ``folder`` exists and is no model folder of mmdiff's, or ``extra`` uses a reserved name.
    CheckpointError
        The model cannot be described in JSON, or a parameter is not finite or too large for float16.

    Examples
    --------
    >>> folder = save_model(voc, "vocoder", extra={"license": "CC0-1.0"})  # doctest: +SKIP
    >>> voc = load_model("vocoder")  # doctest: +SKIP
    """
    folder, extra = Path(folder), dict(extra or {})
    others = _other_files(folder)
    if reserved := [key for key in _OWN_KEYS if key in extra]:
        raise InputError(f"extra={reserved} must not use the names {', '.join(_OWN_KEYS)}; rename them")
    own = {"format": FORMAT, "mmdiff": mmdiff.__version__}
    described = {"model": to_config(model), **to_config(extra)}
    parameters = dict(model.named_parameters())
    with atomic_folder(folder) as temporary:
        weights = temporary / "model.safetensors"
        write_tensors(weights, named_tensors(model), half=parameters.keys() if half else ())
        config = {**own, "sha256": sha256(weights), **described}
        (temporary / "config.json").write_text(_json(config), encoding="utf-8")
        (temporary / "README.md").write_text(card or _card(model, folder.name, extra), encoding="utf-8")
        for other in others:
            if other.is_dir() and not other.is_symlink():
                shutil.copytree(other, temporary / other.name, symlinks=True)
            else:
                shutil.copy2(other, temporary / other.name, follow_symlinks=False)
    return folder


def _other_files(folder: Path) -> list[Path]:
    """What a folder that a model shall be written to holds beside an older model."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"folder={folder} must be a folder, and is a file; choose another name")
    found = list(folder.iterdir()) if folder.exists() else []
    try:
        if found:
            read_config(folder)
    except CheckpointError:
        raise InputError(
            f"folder={folder} holds something else than a model of mmdiff; choose a new or empty folder"
        ) from None
    return [file for file in found if file.name not in _FILES]


def _json(config: Mapping[str, Any]) -> str:
    text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
    if (size := len(text.encode())) > MAX_CONFIG_BYTES:
        raise InputError(f"config.json would have {size} bytes, the limit is {MAX_CONFIG_BYTES}")
    return text


def _card(model: nn.Module, name: str, extra: Mapping[str, Any]) -> str:
    count = sum(p.numel() for p in model.parameters())
    licence = f"license: {str(extra['license']).lower()}\n" if "license" in extra else ""
    return (
        f"---\nlibrary_name: mmdiff\n{licence}---\n# {name}\n\n"
        f"A `{type(model).__name__}` of mmdiff {mmdiff.__version__} with {count:,} parameters.\n\n"
        f'```python\nimport mmdiff\n\nmodel = mmdiff.load("{name}")\n```\n'
    )


def load_model(source: str | Path, device: torch.device | str | None = None) -> nn.Module:
    """Build a model and read its weights.

    Parameters
    ----------
    source : str or Path
        Name of a shipped model (:func:`shipped_models`), a folder, or a hub id ``owner/name``, with
        ``@revision`` if wanted.
    device : torch.device or str, optional
        Where the model shall be; default: PyTorch's default device.

    Returns
    -------
    nn.Module
        In evaluation mode, with float32 parameters.

    Raises
    ------
    InputError
        ``source`` is neither a name nor a path, or empty.
    CheckpointError
        There is no such model, it cannot be fetched, is of a newer format, names an unknown class, its
        weights differ from their checksum (which older folders lack), or its tensors do not fit.
    """
    folder = find_model(source)
    config = read_config(folder)
    tensors = read_tensors(folder / "model.safetensors")
    _check_sum(folder / "model.safetensors", config.get("sha256"))
    try:
        _import_classes(config["model"])
        model = from_config(config["model"])
    except RecursionError:
        raise CheckpointError(
            f"{folder / 'config.json'} is nested too deeply to be a model of mmdiff"
        ) from None
    if not isinstance(model, nn.Module):
        raise CheckpointError(
            f"{folder / 'config.json'}: model must be a network, got {type(model).__name__}"
        )
    assign_tensors(model, tensors, source=folder)
    return model.to(device).eval()


def load_as(kind: type[Kind], source: str | Path, device: torch.device | str | None = None) -> Kind:
    """Build a model as :func:`load_model` does, and refuse one that is of another class.

    Raises
    ------
    InputError
        It is of another class, or as for :func:`load_model`.
    CheckpointError
        As for :func:`load_model`.
    """
    model = load_model(source, device)
    if not isinstance(model, kind):
        raise InputError(
            f"source={str(source)!r} must hold a {kind.__name__}, and holds a {type(model).__name__}; `mmdiff info` "
            "lists the shipped models, and a recipe's is in RUN/model"
        )
    return model


def _check_sum(weights: Path, stated: object) -> None:
    if stated is not None and stated != (found := sha256(weights)):
        raise CheckpointError(
            f"{weights} has the checksum sha256={found}, but its config.json states {stated!r}: the file was "
            "damaged or changed; fetch the folder again, or, if the weights were changed on purpose, take "
            "sha256 out of config.json"
        )


def read_config(folder: str | Path) -> dict[str, Any]:
    """``config.json`` of a model folder, checked, with whatever ``extra`` it was saved with.

    Parameters
    ----------
    folder : str or Path
        A local model folder, see :func:`find_model`.

    Returns
    -------
    dict
        With ``format``, ``mmdiff`` (version that wrote it), ``sha256`` (of the weights) and ``model``.

    Raises
    ------
    CheckpointError
        The file is missing, too large, no JSON object, or of another format.
    """
    file = Path(folder) / "config.json"
    try:
        if file.stat().st_size > MAX_CONFIG_BYTES:
            raise CheckpointError(f"{file} has {file.stat().st_size} bytes, the limit is {MAX_CONFIG_BYTES}")
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"cannot read {file}: {error}; is {folder} a model folder?") from None
    if not isinstance(config, dict) or not isinstance(config.get("model"), dict):
        raise CheckpointError(f"{file} must hold an object with format, mmdiff and model")
    if config.get("format") != FORMAT:
        raise CheckpointError(
            f"{file} has format={config.get('format')!r}, mmdiff {mmdiff.__version__} reads {FORMAT}; "
            f"update mmdiff (it was written by {config.get('mmdiff')!r})"
        )
    return config


def shipped_models(*classes: str) -> list[str]:
    """Names of the models that come with mmdiff: of these classes, or all."""
    names = sorted(file.parent.name for file in SHIPPED.glob("*/config.json"))
    return [
        name for name in names if not classes or read_config(SHIPPED / name)["model"].get("class") in classes
    ]


def find_model(source: str | Path, *classes: str) -> Path:
    """Folder of a shipped model, a local folder, or a hub model, which is fetched into the local cache.

    Parameters
    ----------
    source : str or Path
        As for :func:`load_model`.
    *classes : str
        Which shipped models a message names; default: all.

    Raises
    ------
    InputError
        ``source`` is neither a name nor a path, or empty.
    CheckpointError
        Nothing is found, or the hub cannot be reached and the cache does not have it.
    """
    if not isinstance(source, str | Path) or not str(source).strip():
        raise InputError(
            f"source={source!r} must name a model: a shipped one ({', '.join(shipped_models(*classes))}), a "
            "folder, or a hub id owner/name"
        )
    name = str(source)
    if isinstance(source, str) and name in shipped_models():
        return SHIPPED / name
    if Path(source).is_dir():
        return Path(source)
    match = _HUB_ID.fullmatch(name) if isinstance(source, str) and not Path(name).exists() else None
    if match is None:
        shipped = ", ".join(shipped_models(*classes)) or "none in this installation"
        raise CheckpointError(
            f"model {name!r} must be a shipped model ({shipped}), a folder, or a hub id owner/name"
        )
    return _fetch(match["repo"], match["revision"])


def _fetch(repo: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repo, revision=revision, allow_patterns=list(_FILES)))
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(
            f"cannot fetch {repo!r} from the hub ({reason}); check the name and the connection, "
            "or give a local model folder"
        ) from None


def push_model(folder: str | Path, repo_id: str, *, private: bool = False) -> str:
    """Upload a model folder to the hub, into a repository that is made if it is not there.

    Parameters
    ----------
    folder : str or Path
        What :func:`save_model` wrote.
    repo_id : str
        ``owner/name``; the token is the one of ``hf auth login``.
    private : bool, default=False
        Of a new repository.

    Returns
    -------
    str
        Address of the commit.

    Raises
    ------
    CheckpointError
        It is no model folder.
    """
    from huggingface_hub import HfApi

    read_config(folder)
    api = HfApi()
    api.create_repo(repo_id, private=private, exist_ok=True)
    commit = api.upload_folder(repo_id=repo_id, folder_path=folder, allow_patterns=list(_FILES))
    return str(commit.commit_url)


def _import_classes(config: Any) -> None:
    # A class registers itself when its module is imported. Packages are tried in turn until no name is
    # missing, so that a vocoder does not import video.
    for package_name in _PACKAGES:
        for module in pkgutil.walk_packages(
            [str(Path(__file__).parent / package_name)], f"mmdiff.{package_name}."
        ):
            if not unknown_classes(config):
                return
            try:
                importlib.import_module(module.name)
            except ModuleNotFoundError as error:
                if str(error.name).startswith("mmdiff"):
                    raise  # else it belongs to an extra that is not installed, and the class will be missing

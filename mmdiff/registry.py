"""Names for the classes a model folder may build: nothing else is ever constructed from a file."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from typing import Any, TypeVar

from torch import nn

from mmdiff.errors import CheckpointError

_CLASSES: dict[str, type] = {}
T = TypeVar("T", bound=type)


def register(cls: T) -> T:
    """Make a dataclass or an ``nn.Module`` buildable by name from a model folder's ``config.json``.

    A module remembers the flat arguments it was built with, so that :func:`to_config` can write them;
    a dataclass already knows its fields.

    Parameters
    ----------
    cls : type
        Dataclass or ``nn.Module`` subclass whose arguments are JSON values, tuples or registered objects.

    Returns
    -------
    type
        The same class.
    """
    assert cls.__name__ not in _CLASSES, f"{cls.__name__} is registered twice"
    _CLASSES[cls.__name__] = cls
    if issubclass(cls, nn.Module):
        _remember_arguments(cls)
    return cls


def _remember_arguments(cls: type) -> None:
    plain_init = cls.__init__  # type: ignore[misc]
    signature = inspect.signature(plain_init)
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    assert all(p.kind not in variadic for p in signature.parameters.values()), f"{cls.__name__} takes * or **"

    @functools.wraps(plain_init)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        bound = signature.bind(self, *args, **kwargs)
        bound.apply_defaults()
        plain_init(self, *args, **kwargs)
        if type(self) is cls:  # not when a subclass calls super().__init__
            object.__setattr__(self, "_arguments", dict(list(bound.arguments.items())[1:]))

    cls.__init__ = init  # type: ignore[misc]


def to_config(value: Any) -> Any:
    """Turn a registered object, and those among its arguments, into JSON: ``{"class": name, **arguments}``.

    Raises
    ------
    CheckpointError
        An argument is neither JSON nor registered.
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        return [to_config(v) for v in value]
    if isinstance(value, dict):
        if "class" in value or not all(isinstance(key, str) for key in value):
            raise CheckpointError(
                f"a stored dict must have names for keys, and none of them 'class': {value}"
            )
        return {k: to_config(v) for k, v in value.items()}
    cls = type(value)
    if _CLASSES.get(cls.__name__) is cls:
        if dataclasses.is_dataclass(value):
            arguments = {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if f.init}
        else:
            arguments = value._arguments
        return {"class": cls.__name__, **{k: to_config(v) for k, v in arguments.items()}}
    raise CheckpointError(
        f"cannot store {cls.__name__} in config.json: must be JSON or a class registered with @register"
    )


def unknown_classes(config: Any) -> set[str]:
    """Class names in a configuration that are not registered (yet: the module may not be imported)."""
    if isinstance(config, dict):
        name = config.get("class")
        own = {name} if isinstance(name, str) and name not in _CLASSES else set()
        return own.union(*(unknown_classes(value) for value in config.values()))
    if isinstance(config, list):
        return set().union(*(unknown_classes(value) for value in config))
    return set()


def from_config(config: Any) -> Any:
    """Build what :func:`to_config` wrote. Lists come back as tuples.

    Raises
    ------
    CheckpointError
        The class is unknown, or its arguments do not fit this version of mmdiff.
    """
    if isinstance(config, list):
        return tuple(from_config(v) for v in config)
    if not isinstance(config, dict):
        return config
    if "class" not in config:
        return {k: from_config(v) for k, v in config.items()}
    name = config["class"]
    if not isinstance(name, str) or name not in _CLASSES:
        known = ", ".join(sorted(_CLASSES))
        raise CheckpointError(
            f"class={name!r} must be one registered by mmdiff ({known}); is mmdiff up to date?"
        )
    arguments = {k: from_config(v) for k, v in config.items() if k != "class"}
    try:
        return _CLASSES[name](**arguments)
    except CheckpointError:
        raise
    except Exception as error:  # the arguments are a stranger's: whatever they break, the folder is at fault
        raise CheckpointError(f"cannot build {name} from its stored arguments: {error!r}") from None

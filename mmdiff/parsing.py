"""Typed functions as command lines: every parameter an option, every docstring its help."""

from __future__ import annotations

import argparse
import inspect
import re
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

import docstring_parser
from jsonargparse import ActionYesNo, ArgumentParser, DefaultHelpFormatter

SHORT = {"out": "-o"}
"""Options that have a short name too."""
REST = "rest"
"""Parameter that takes whatever follows the positional ones, unread."""


class _Formatter(DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keep the line breaks of description and examples; say of types and defaults only what helps."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        plain = action.default in (None, False, argparse.SUPPRESS) or not action.option_strings
        return text if plain or "efault" in text else f"{text} (default: %(default)s)"


_WORDS = {
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    bool: ("true or false", "true or false"),
    str: ("text", "text"),
}
_MISFIT = re.compile(r'Parser key "(\w+)".*?(?:Got|Given) value: (.*)', re.DOTALL)


def in_words(kind: Any, several: bool = False) -> str | None:
    """Say what values a type has as a user would; None of a type that no user writes on a command line."""
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if kind in _WORDS:
        return _WORDS[kind][several]
    if origin is Literal:
        return f"{'among' if several else 'one of'} {', '.join(map(str, parts))}"
    if origin in (typing.Union, types.UnionType):
        words = [in_words(part, several) for part in parts if part is not types.NoneType]
        return " or ".join(word for word in words if word) if all(words) else None
    if origin in (list, tuple) and len(set(parts) - {...}) == 1:
        return in_words(parts[0], several=True)
    return None


class _Parser(ArgumentParser):
    """Say in words what an option takes."""

    kinds: Mapping[str, Any] = types.MappingProxyType({})

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if (found := _MISFIT.search(message)) and (words := in_words(self.kinds.get(found[1]))):
            (action,) = (action for action in self._actions if action.dest == found[1])
            name = [found[1].upper(), *action.option_strings][-1]
            brackets = words.endswith("numbers") and action.nargs is None
            message = f"{name} {found[2].strip()!r} must be {words}{' in brackets, such as [1,2]' * brackets}"
        super().error(message, ex)


@dataclass(frozen=True)
class Description:
    """What a docstring says: first line, following text, examples, and each parameter's meaning."""

    summary: str
    details: str
    examples: str
    parameters: Mapping[str, str]


def describe(function: Callable) -> Description:
    """Take apart a docstring in numpy's or Google's style."""
    doc = docstring_parser.parse(inspect.getdoc(function) or "", docstring_parser.DocstringStyle.AUTO)
    examples = "\n".join(example.description or "" for example in doc.examples)
    parameters = {p.arg_name: " ".join((p.description or "").split()) for p in doc.params}
    return Description(doc.short_description or "", doc.long_description or "", examples, parameters)


def build_parser(function: Callable, prog: str, config: bool = False) -> ArgumentParser:
    """Make the parser whose result can be passed to a function.

    Keyword-only parameters are options, their names written with hyphens, booleans being flags; the others
    are positional, a list among them taking one value or more. With ``config`` all are options.

    Parameters
    ----------
    function : callable
        Annotated, with a docstring that :func:`describe` can read.
    prog : str
        Name in the usage line.
    config : bool
        Offer ``--config file.yaml``, whose keys are the parameters' names; unknown keys are errors. Options
        can then be written like those keys, too.

    Returns
    -------
    ArgumentParser
    """
    about = describe(function)
    parser = _Parser(
        prog=prog,
        description="\n\n".join(filter(None, (about.summary, about.details))),
        epilog=f"examples:\n{_indented(about.examples)}" if about.examples else None,
        formatter_class=_Formatter,
    )
    if config:
        parser.add_argument("--config", action="config", help="YAML file with any of the options below")
    parser.kinds = typing.get_type_hints(function)
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name != REST:
            names, settings = _argument(parameter, parser.kinds[parameter.name], config)
            parser.add_argument(*names, help=about.parameters.get(parameter.name, ""), **settings)
    return parser


def _argument(parameter: inspect.Parameter, kind: Any, config: bool) -> tuple[list[str], dict[str, Any]]:
    """Names and settings for ``add_argument``; with ``config`` names are first of all a YAML file's keys."""
    name, is_list = parameter.name, typing.get_origin(kind) is list
    required = parameter.default is parameter.empty
    if parameter.kind is not parameter.KEYWORD_ONLY and not config:
        count = {} if required else {"nargs": "?", "default": parameter.default}
        many = {"nargs": "+", "type": typing.get_args(kind)[0]} if is_list else {"type": kind, **count}
        return [name], {"metavar": "IN" if name == "inputs" else name.upper(), **many}
    spellings = dict.fromkeys((f"--{name.replace('_', '-')}", f"--{name}"))
    names = [*filter(None, [SHORT.get(name)]), *(reversed(spellings) if config else list(spellings)[:1])]
    if required:
        return names, {"type": kind, "required": True}
    if kind is bool:
        # A flag that may take a value, --resume true, would swallow a file name after it.
        flag = {"action": ActionYesNo, "nargs": "?"} if config else {"action": "store_true"}
        return names, {**flag, "default": parameter.default}
    if is_list:
        return names, {"nargs": "+", "type": typing.get_args(kind)[0], "default": parameter.default}
    return names, {"type": kind, "default": parameter.default}


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())


def parse(function: Callable, argv: list[str], prog: str, config: bool = False) -> dict[str, Any]:
    """Read a command line into a function's keyword arguments.

    Raises
    ------
    SystemExit
        Help was asked for (status 0), or the command line does not fit (status 2); either has been printed.
    """
    rest: list[str] = []
    if REST in inspect.signature(function).parameters:
        argv, rest = argv[:1], argv[1:]
    parser = build_parser(function, prog, config)
    parsed = parser.instantiate_classes(parser.parse_args(argv))
    arguments = {key: value for key, value in vars(parsed).items() if key != "config"}
    return {**arguments, REST: rest} if rest or REST in inspect.signature(function).parameters else arguments

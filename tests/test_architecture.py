"""The architecture as a test: imports point one way, and recipes fit the functions they configure."""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from mmdiff.parsing import build_parser
from mmdiff.recipes import all_recipes, first_comment, load_main

PACKAGE = Path(__file__).parent.parent / "mmdiff"

LAYERS = (
    {"errors"},
    {"registry", "files", "weights", "devices", "progress", "parsing"},
    {"diffusion"},
    {"nn"},
    {"training"},  # knows no modality: modalities say how they are trained and validated
    {"media"},  # what modalities share: files and folders, caches, containers, lists of measures
    {"latent"},  # autoencoders and priors of tensors; modalities build their pipelines on them
    {"audio"},
    {"video"},
    {"joint"},
    {"bulk"},
    {"hub"},
    {"app", "bench", "convert", "export", "recipes"},
    {"commands"},
    {"cli"},
    {"__main__"},
)
"""From the ground up: a file may import from its own room, from its own layer and from those before it."""

RANK = {room: rank for rank, layer in enumerate(LAYERS) for room in layer}


def _imports(file: Path) -> Iterator[str]:
    """Rooms of mmdiff that a file imports from, lazily or not."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names = [f"mmdiff.{a.name}" for a in node.names] if node.module == "mmdiff" else [node.module]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            first, _, rest = name.partition(".")
            if first == "mmdiff" and rest:
                yield rest.partition(".")[0]


GUIDED = (
    "diffusion", "audio", "audio/mel", "audio/networks", "audio/checkpoints", "audio/editing", "audio/datasets",
    "audio/evaluation",
)  # fmt: skip
"""Rooms whose docstring is a guide in reading order."""


def _files() -> list[Path]:
    # mmdiff/__init__.py offers `load`, which is a door into the upper floors
    return [
        p for p in sorted(PACKAGE.rglob("*.py")) if p != PACKAGE / "__init__.py" and "_recipes" not in p.parts
    ]


def test_every_room_has_a_place_and_imports_point_one_way():
    wrong = []
    for file in _files():
        room = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
        assert room in RANK, f"{file} is in no layer: give mmdiff/{room} its place in LAYERS"
        for imported in _imports(file):
            if imported in RANK and RANK[imported] > RANK[room]:
                wrong.append(f"{file.relative_to(PACKAGE.parent)} imports mmdiff.{imported}")
    assert not wrong


@pytest.mark.parametrize("room", GUIDED)
def test_guides_name_every_module_of_their_room_or_its_family(room):
    guide = ast.get_docstring(ast.parse((PACKAGE / room / "__init__.py").read_text(encoding="utf-8"))) or ""
    named = {name.rpartition(".")[2] for name in re.findall(r"`~?([\w.]+?)(?:_\.\.\.)?`", guide)}
    modules = {path.stem for path in (PACKAGE / room).iterdir() if path.suffix == ".py" or path.is_dir()}
    modules -= {"__init__", "__pycache__"}
    forgotten = {m for m in modules if not any(m == name or m.startswith(f"{name}_") for name in named)}
    assert not forgotten, f"mmdiff/{room}/__init__.py must say what these are for"


def test_the_core_knows_no_media_and_no_files():
    for file in (PACKAGE / "diffusion").rglob("*.py"):
        assert set(_imports(file)) <= {"diffusion", "errors", "registry"}, file


def _statements(file: Path) -> set[str]:
    """Lines of code as the parser sees them: no comments, no docstrings, no imports."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            text = [n for n in body if isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant)]
            node.body = [n for n in body if n not in text and not isinstance(n, ast.Import | ast.ImportFrom)]  # type: ignore[attr-defined]
    return {line.strip() for line in ast.unparse(tree).splitlines() if len(line.strip()) > 20}


def test_no_file_is_a_copy_of_another():
    lines = {file: _statements(file) for file in _files()}
    lines = {file: body for file, body in lines.items() if len(body) >= 20}
    for (one, a), (other, b) in itertools.combinations(lines.items(), 2):
        shared = len(a & b) / min(len(a), len(b))
        assert shared < 0.3, f"{one} and {other} share {shared:.0%} of their lines: write them once"


def test_nobody_imports_relatively():
    for file in _files():
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            assert not (isinstance(node, ast.ImportFrom) and node.level), f"{file}:{node.lineno}"


def _taken(file: Path) -> Iterator[tuple[int, str]]:
    """Names of mmdiff that a file imports, or takes from a module that it imports, with their lines."""
    tree, modules = ast.parse(file.read_text(encoding="utf-8")), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "mmdiff":
            yield from ((node.lineno, alias.name) for alias in node.names)
            modules |= {a.asname or a.name for a in node.names if a.name.islower()}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
            yield node.lineno, node.attr


def test_nobody_takes_what_another_module_keeps_for_itself():
    for file in _files():
        private = [f"{file}:{line} takes {name}" for line, name in _taken(file) if name.startswith("_")]
        assert not private, f"{private}: give it a public name"


@pytest.mark.parametrize("recipe", all_recipes(), ids=lambda recipe: recipe.name)
def test_recipe_is_described_and_its_variants_fit(recipe):
    assert recipe.summary
    assert recipe.variants
    parser = build_parser(load_main(recipe.script), recipe.name, config=True)
    for variant in recipe.variants:
        assert first_comment(variant), f"{variant.name} must begin with a comment that says what it is"
        parser.parse_args(["--config", str(variant)])

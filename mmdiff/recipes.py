"""Find, copy and run training recipes: scripts with a typed ``main`` and YAML files of its arguments."""

from __future__ import annotations

import ast
import importlib.util
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmdiff.errors import RecipeError
from mmdiff.parsing import parse

PLACES = (Path(__file__).parent / "_recipes", Path(__file__).parent.parent / "recipes")
"""In an installed wheel, and in a checkout."""


@dataclass(frozen=True)
class Recipe:
    """A script and its variants.

    Attributes
    ----------
    script : Path
    variants : tuple of Path
        ``name.yaml``, the default, and ``name.variant.yaml``, sorted.
    """

    script: Path
    variants: tuple[Path, ...]

    @classmethod
    def at(cls, script: Path) -> Recipe:
        """Recipe of a script, with the variants that lie beside it."""
        default = script.with_suffix(".yaml")
        others = sorted(script.parent.glob(f"{script.stem}.*.yaml"))
        return cls(script, (*((default,) if default.is_file() else ()), *others))

    @property
    def name(self) -> str:
        """Name on the command line."""
        return self.script.stem

    @property
    def summary(self) -> str:
        """First line of the script's docstring; the script is not run."""
        text = ast.get_docstring(ast.parse(self.script.read_text(encoding="utf-8"))) or ""
        return text.partition("\n")[0]

    def run_name(self, variant: Path) -> str:
        """Name a variant as ``mmdiff run`` wants it."""
        return variant.name.removesuffix(".yaml")


def first_comment(path: Path) -> str:
    """Text of the comment that a YAML file begins with, up to the end of its first line."""
    with path.open(encoding="utf-8") as lines:
        line = next(lines, "")
    return line.lstrip("# ").strip() if line.startswith("#") else ""


def all_recipes() -> list[Recipe]:
    """Recipes that come with mmdiff, by name.

    Raises
    ------
    RecipeError
        The installation has none.
    """
    for place in PLACES:
        scripts = [p for p in sorted(place.glob("*/*.py")) if not p.name.startswith("_")]
        if scripts:
            return [Recipe.at(script) for script in sorted(scripts, key=lambda p: p.stem)]
    raise RecipeError(f"no recipes found in {' or '.join(map(str, PLACES))}; install mmdiff again")


def find_recipe(name: str) -> tuple[Recipe, Path | None]:
    """Recipe and variant by name or path.

    Parameters
    ----------
    name : str
        ``recipe``, ``recipe.variant``, ``path/to/script.py`` or ``path/to/script.variant.yaml``.

    Returns
    -------
    recipe : Recipe
    variant : Path or None
        None when the recipe has no YAML file of its own name and no variant was asked for.

    Raises
    ------
    RecipeError
        There is none; the message lists those there are.
    """
    if name.endswith((".py", ".yaml")):
        path = Path(name).expanduser()
        script = path.with_name(f"{path.name.partition('.')[0]}.py")
        if not path.is_file() or not script.is_file():
            raise RecipeError(
                f"name={name!r} must be a script, or a YAML file beside its script {script.name}"
            )
        recipe = Recipe.at(script)
        return recipe, path if path.suffix == ".yaml" else _default(recipe)
    known = {recipe.name: recipe for recipe in all_recipes()}
    base, _, wanted = name.partition(".")
    if base not in known:
        raise RecipeError(f"name={name!r} must be one of {', '.join(known)}; see `mmdiff recipes`")
    recipe = known[base]
    if not wanted:
        return recipe, _default(recipe)
    for variant in recipe.variants:
        if recipe.run_name(variant) == name:
            return recipe, variant
    have = ", ".join(recipe.run_name(v) for v in recipe.variants) or "no variants"
    raise RecipeError(f"name={name!r} must be one of {have}; see `mmdiff recipes`")


def _default(recipe: Recipe) -> Path | None:
    return next((v for v in recipe.variants if v.stem == recipe.name), None)


def copy_recipe(name: str, destination: Path, overwrite: bool = False) -> list[Path]:
    """Copy a recipe's script and variants.

    Parameters
    ----------
    name : str
    destination : Path
        Folder, made if missing, or a new name ending in .py.
    overwrite : bool
        Replace files of those names.

    Returns
    -------
    list of Path
        The copies.

    Raises
    ------
    RecipeError
        There is no such recipe, or a file is in the way.
    """
    recipe, _ = find_recipe(name)
    renamed = destination.suffix == ".py"
    folder, stem = (destination.parent, destination.stem) if renamed else (destination, recipe.name)
    sources = (recipe.script, *recipe.variants)
    targets = [folder / f"{stem}{source.name.removeprefix(recipe.name)}" for source in sources]
    if not overwrite and (existing := [str(target) for target in targets if target.exists()]):
        raise RecipeError(f"{', '.join(existing)} would be replaced; use --overwrite or choose another name")
    folder.mkdir(parents=True, exist_ok=True)
    for source, target in zip(sources, targets, strict=True):
        shutil.copyfile(source, target)
    return targets


def run_recipe(name: str, arguments: Sequence[str] = ()) -> int:
    """Run a recipe's ``main``, in this process.

    Parameters
    ----------
    name : str
        As for :func:`find_recipe`.
    arguments : sequence of str
        Settings that override the variant's, ``--key value``.

    Returns
    -------
    int
        Exit status, 0 unless ``main`` returns another.
    """
    recipe, variant = find_recipe(name)
    config = [] if variant is None else ["--config", str(variant)]
    main = load_main(recipe.script)
    result = main(**parse(main, [*config, *arguments], f"mmdiff run {name}", config=True))
    return result if isinstance(result, int) else 0


def run_main(main: Callable) -> None:
    """Run a recipe's ``main`` from its own script: ``python script.py --config script.yaml --key value``."""
    main(**parse(main, sys.argv[1:], Path(sys.argv[0]).name, config=True))


def load_main(script: Path) -> Callable:
    """Import a script and return its ``main``.

    Raises
    ------
    RecipeError
        It has none.
    """
    spec = importlib.util.spec_from_file_location(f"mmdiff_recipe_{script.stem}", script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # type hints and worker processes look their functions up by it
    spec.loader.exec_module(module)
    main: Callable | None = getattr(module, "main", None)
    if main is None:
        raise RecipeError(f"{script} must define a function main: it is what a recipe runs")
    return main

"""``mmdiff recipes``, ``cp`` and ``run``: list recipes, own one, train with one."""

from __future__ import annotations

from pathlib import Path

from mmdiff import recipes as shelf
from mmdiff.commands.report import say


def recipes() -> None:
    """List the training recipes and their variants.

    Examples
    --------
    mmdiff recipes
    """
    for recipe in shelf.all_recipes():
        say(f"{recipe.name}  {recipe.summary}")
        for variant in recipe.variants:
            say(f"  {recipe.run_name(variant)}  {shelf.first_comment(variant)}")


def cp(name: str, dest: str = ".", *, overwrite: bool = False) -> None:
    """Copy a recipe, script and variants, to change it and call it your own.

    Parameters
    ----------
    name : str
        As "mmdiff recipes" lists it.
    dest : str
        Folder, or the new script's name ending in .py: its variants are then renamed alike.
    overwrite : bool
        Replace files of those names.

    Examples
    --------
    mmdiff cp spectral_vocoder
    mmdiff cp spectral_vocoder my_vocoder.py
    """
    for path in shelf.copy_recipe(name, Path(dest), overwrite):
        say(str(path))


def run(name: str, rest: list[str]) -> int:
    """Run a recipe: train, evaluate and save a model.

    What follows the name goes to the recipe: any of its settings, and --config with a file of settings.
    "mmdiff run NAME --help" lists them.

    Parameters
    ----------
    name : str
        Recipe, recipe.variant (both as "mmdiff recipes" lists them), or the path of a script or of a
        variant's YAML file beside its script.
    rest : list of str
        Settings.

    Examples
    --------
    mmdiff run spectral_vocoder.tiny
    mmdiff run spectral_vocoder --data my_recordings --run_dir runs/mine
    mmdiff run spectral_vocoder --run_dir runs/mine --resume
    mmdiff run ./my_vocoder.py --help
    """
    return shelf.run_recipe(name, rest)

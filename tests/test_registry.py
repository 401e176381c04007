from __future__ import annotations

import json
from dataclasses import dataclass, field

import pytest
import torch
from torch import nn

from mmdiff import registry
from mmdiff.errors import CheckpointError
from mmdiff.registry import from_config, register, to_config, unknown_classes


@pytest.fixture(autouse=True)
def own_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_CLASSES", {})
    for cls in (Curve, Layer, Stack):
        registry._CLASSES[cls.__name__] = cls


with pytest.MonkeyPatch.context() as patch:  # the classes of this file stay out of mmdiff's registry
    patch.setattr(registry, "_CLASSES", {})

    @register
    @dataclass(frozen=True)
    class Curve:
        points: tuple[float, ...]
        name: str = "curve"
        total: float = field(init=False, default=0.0)

        def __post_init__(self) -> None:
            if not self.points:
                raise ValueError("points must not be empty")
            object.__setattr__(self, "total", sum(self.points))

    @register
    class Layer(nn.Module):
        def __init__(self, width: int, curve: Curve | None = None, *, options: dict | None = None) -> None:
            super().__init__()
            self.linear = nn.Linear(width, width)
            self.curve, self.options = curve, options

    @register
    class Stack(Layer):
        def __init__(self, layers: tuple[Layer, ...], width: int = 2) -> None:
            super().__init__(width)
            self.layers = nn.ModuleList(layers)


def test_a_nested_model_survives_json() -> None:
    model = Stack((Layer(3, Curve((1.0, 2.5))), Layer(4, options={"a": [1, None, True]})), width=5)
    config = to_config(model)
    again = from_config(json.loads(json.dumps(config)))
    assert to_config(again) == config
    assert isinstance(again, Stack)
    assert again.linear.in_features == 5
    assert again.layers[0].curve == Curve((1.0, 2.5))
    assert again.layers[0].curve.total == 3.5
    assert again.layers[1].options == {"a": (1, None, True)}


def test_defaults_are_written_so_that_later_defaults_change_nothing() -> None:
    assert to_config(Layer(3)) == {"class": "Layer", "width": 3, "curve": None, "options": None}
    assert to_config(Curve((1.0,))) == {"class": "Curve", "points": [1.0], "name": "curve"}


def test_the_arguments_of_a_subclass_are_its_own() -> None:
    assert to_config(Stack((), width=7)) == {"class": "Stack", "layers": [], "width": 7}


@pytest.mark.parametrize("value", [object(), torch.zeros(2), {"class": 1}, {1: 2}, nn.Linear(1, 1), {1.5}])
def test_what_json_cannot_hold_is_refused(value: object) -> None:
    with pytest.raises(CheckpointError, match="stor"):
        to_config(Layer(2, options={"x": value}))


def test_an_unregistered_subclass_is_refused() -> None:
    class Secret(Layer):
        pass

    with pytest.raises(CheckpointError, match="Secret"):
        to_config(Secret(2))


@pytest.mark.parametrize("name", ["Popen", "os.system", "builtins.eval", None, 3, ["Layer"]])
def test_only_registered_classes_are_built(name: object) -> None:
    with pytest.raises(CheckpointError, match=r"class=.*must be one registered"):
        from_config({"class": name, "width": 3})


@pytest.mark.parametrize(
    "config",
    [
        {"class": "Layer"},
        {"class": "Layer", "width": 3, "height": 3},
        {"class": "Layer", "width": "three"},
        {"class": "Layer", "width": -1},
        {"class": "Layer", "width": 10**15},
        {"class": "Curve", "points": []},
        {"class": "Curve", "points": ["a"]},
    ],
)
def test_arguments_that_do_not_fit_name_the_class(config: dict) -> None:
    with pytest.raises(CheckpointError, match=f"cannot build {config['class']}"):
        from_config({"deep": [{"er": config}]})


def test_unknown_classes_are_found_at_any_depth() -> None:
    config = {"class": "Stack", "layers": [{"class": "A"}, [{"x": {"class": "B"}}]], "width": 2}
    assert unknown_classes(config) == {"A", "B"}
    assert unknown_classes(to_config(Layer(2, Curve((1.0,))))) == set()


def test_a_name_can_be_registered_once_and_arguments_must_have_names() -> None:
    with pytest.raises(AssertionError, match="twice"):
        register(Layer)

    class Loose(nn.Module):
        def __init__(self, *widths: int) -> None:
            super().__init__()

    with pytest.raises(AssertionError, match="Loose takes"):
        register(Loose)

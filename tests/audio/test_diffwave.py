from __future__ import annotations

from typing import Any

import lmnt
import pytest
import torch
from diffwave.model import DiffWave as LmntDiffWave
from diffwave.params import AttrDict
from diffwave.params import params as lmnt_params

from mmdiff.audio.checkpoints.lmnt_diffwave import diffwave_state
from mmdiff.audio.networks import diffwave_tiles
from mmdiff.audio.networks.diffwave import DiffWave
from mmdiff.audio.networks.diffwave_layers import step_code
from mmdiff.audio.networks.diffwave_presets import (
    diffwave_base,
    diffwave_large,
    diffwave_small,
    diffwave_sound,
    diffwave_sound_small,
)
from mmdiff.errors import InputError
from mmdiff.registry import from_config, to_config

KINDS: dict[str, dict[str, Any]] = {
    "mel": {"n_mels": 5, "factors": (4, 3)},
    "sound": {"n_mels": 0},
    "label": {"n_mels": 0, "classes": 3},
    "mel and label": {"n_mels": 5, "factors": (4, 3), "classes": 3},
    "mel and z": {"n_mels": 5, "factors": (4, 3), "latents": 4},
    "label and z": {"n_mels": 0, "classes": 3, "latents": 4},
}


@pytest.fixture
def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def tiny(kind: str, rng: torch.Generator) -> DiffWave:
    net = DiffWave(channels=6, layers=5, cycle=3, step_width=16, **KINDS[kind])
    lmnt.randomise(net, rng)
    return net


def inputs(net: DiffWave, rng: torch.Generator, batch: int = 2, frames: int = 7) -> dict[str, torch.Tensor]:
    dtype = net.out.weight.dtype
    frames = frames if net.n_mels else 12 * frames
    given = {
        "x": torch.randn(batch, 1, frames * net.hop_length, generator=rng, dtype=dtype),
        "level": 9 * torch.rand(batch, generator=rng, dtype=dtype),
    }
    if net.n_mels:
        given["mel"] = torch.randn(batch, net.n_mels, frames, generator=rng, dtype=dtype)
    if net.classes:
        given["label"] = torch.randint(net.classes, (batch,), generator=rng)
    if net.latents:
        given["z"] = torch.randn(batch, net.latents, generator=rng, dtype=dtype)
    return given


@pytest.mark.parametrize(
    "sizes", [{}, {"n_mels": 9, "residual_layers": 7, "residual_channels": 10, "dilation_cycle_length": 3}]
)
@pytest.mark.parametrize(
    "steps", [torch.tensor([0, 49]), torch.tensor([7.3, 48.01]), torch.tensor([0.0, 12.0])]
)
@torch.no_grad()
def test_forward_equals_lmnt(sizes: dict[str, Any], steps: torch.Tensor, rng: torch.Generator) -> None:
    params = AttrDict({**lmnt_params, **sizes})
    reference = LmntDiffWave(params)
    lmnt.randomise(reference, rng)
    net = DiffWave(
        params.n_mels, params.residual_channels, params.residual_layers, params.dilation_cycle_length
    )
    net.load_state_dict(diffwave_state(reference.state_dict()))  # strict: every key has its place
    mel = torch.randn(2, params.n_mels, 3, generator=rng)
    x = torch.randn(2, 1, 3 * 256, generator=rng)
    # the package interpolates one step for the batch
    expected = torch.cat([reference(x[n], mel[n : n + 1], steps[n : n + 1]) for n in range(2)])
    limit = 1e-5 * expected.abs().max().item()
    for given in ({"mel": mel}, net.prepare(mel)):
        torch.testing.assert_close(net(x, steps.float(), **given), expected, rtol=0, atol=limit)
    with torch.enable_grad():
        torch.testing.assert_close(net(x, steps.float(), mel).detach(), expected, rtol=0, atol=limit)


@pytest.mark.parametrize(
    ("build", "count"),
    [
        (diffwave_base, 2_619_971),
        (diffwave_large, 6_885_315),
        (diffwave_small, 387_011),
        (diffwave_sound, 24_034_305),  # the paper says 24.1 M
        (diffwave_sound_small, 631_105),
    ],
)
def test_parameter_counts(build: Any, count: int) -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in build().parameters()) == count


def test_the_codes_of_steps_are_the_papers_and_the_same_in_every_precision() -> None:
    code = step_code(torch.tensor([0.0, 3.0]))
    assert code.shape == (2, 128)
    assert torch.equal(code[0], torch.cat([torch.zeros(64), torch.ones(64)]))
    angles = 3 * 10 ** (4 * torch.arange(64, dtype=torch.float64) / 63)
    torch.testing.assert_close(code[1, :64].double(), angles.sin(), atol=1e-2, rtol=0)  # of angles in float32
    torch.testing.assert_close(step_code(torch.tensor([3.0], dtype=torch.float64))[0].float(), code[1])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", [1, 10, 10**6])
def test_in_place_and_differentiable_layers_agree(
    kind: str, rows: int, rng: torch.Generator, monkeypatch
) -> None:
    monkeypatch.setattr(diffwave_tiles, "piece_size", lambda *_: rows)
    net = tiny(kind, rng)
    given = inputs(net, rng)
    expected = net(**given)
    with torch.no_grad():
        results = [net(**given)]
        if net.n_mels:
            ready = net.prepare(given.pop("mel"))
            results.append(net(**given, **ready))
            with torch.enable_grad():  # as guidance by reconstruction asks for
                results.append(net(**given, **ready).detach())
    for result in results:
        torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_every_input_matters_and_an_item_does_not_depend_on_its_batch(
    kind: str, rng: torch.Generator
) -> None:
    net = tiny(kind, rng)
    given = inputs(net, rng)
    whole = net(**given)
    for name in given:
        # of z the direction counts, not the length
        other = given[name].roll(1, 0) if name in ("label", "z") else given[name] * 0.9
        changed = {**given, name: other}
        if name != "label" or given["label"].unique().numel() > 1:
            assert not torch.allclose(net(**changed), whole), name
    with torch.no_grad():
        for n in range(2):
            alone = net(**{name: value[n : n + 1] for name, value in given.items()})
            torch.testing.assert_close(alone, whole[n : n + 1], rtol=1e-4, atol=1e-5)


def test_a_generator_without_random_vectors_and_a_denoiser_with_them_are_refused(
    rng: torch.Generator,
) -> None:
    given = inputs(tiny("mel and z", rng), rng)
    with pytest.raises(InputError, match="latents=0, takes no"):
        tiny("mel", rng)(**given)
    z = given.pop("z")
    with pytest.raises(InputError, match="latents=4, needs"):
        tiny("mel and z", rng)(**given)
    with pytest.raises(InputError, match=r"\(B, 4\)"):
        tiny("mel and z", rng)(**given, z=z[:, :3])


def test_no_label_is_the_class_after_the_last(rng: torch.Generator) -> None:
    net = tiny("label", rng)
    given = inputs(net, rng)
    null = net(**{**given, "label": torch.tensor([3, 3])})
    del given["label"]
    assert torch.equal(net(**given), null)


@pytest.mark.parametrize(
    "options", [{"n_mels": 3, "factors": (4, 2)}, {"n_mels": 3, "factors": (5, 3)}, {"n_mels": 0}]
)
def test_the_output_depends_on_no_more_than_the_reach(options: dict[str, Any], rng: torch.Generator) -> None:
    net = DiffWave(channels=4, layers=6, cycle=3, **options).double()
    lmnt.randomise(net, rng)
    frames, hop = 2 * net.reach + 9, net.hop_length
    centre = net.reach + 4
    x = torch.randn(1, 1, frames * hop, generator=rng, dtype=torch.float64, requires_grad=True)
    mel = (
        torch.randn(1, 3, frames, generator=rng, dtype=torch.float64, requires_grad=True)
        if net.n_mels
        else None
    )
    level = torch.tensor([2.0], dtype=torch.float64)
    net(x, level, mel)[..., centre * hop : (centre + 1) * hop].sum().backward()
    touched = [x.grad.view(frames, hop).abs().sum(1)]
    touched += [] if mel is None else [mel.grad[0].abs().sum(0)]
    for gradient in touched:
        distance = (gradient.nonzero() - centre).abs().max().item()
        assert 1 <= distance <= net.reach


def test_gradients_against_finite_differences(rng: torch.Generator) -> None:
    net = DiffWave(n_mels=2, channels=2, layers=3, cycle=2, factors=(2,), classes=2, step_width=4).double()
    lmnt.randomise(net, rng)
    given = inputs(net, rng, batch=1, frames=3)
    weights = (net.layers[0].dilated.weight, net.upsample.convs[0].weight, net.embed_step.first.bias)

    def run(x: torch.Tensor, mel: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        return net(x, given["level"], mel, given["label"])

    assert torch.autograd.gradcheck(
        run, (given["x"].requires_grad_(), given["mel"].requires_grad_(), *weights)
    )


@torch.no_grad()
@pytest.mark.parametrize("kind", ["mel", "label"])
def test_half_precision_is_near(kind: str, rng: torch.Generator) -> None:
    net = tiny(kind, rng)
    given = inputs(net, rng)
    exact = net(**given)
    limit = 0.03 * exact.abs().max().item()
    net.compute_dtype = torch.bfloat16
    half = net(**given)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, exact, rtol=0, atol=limit)
    if net.n_mels:
        prepared = net.prepare(given.pop("mel"))
        assert prepared["prepared"].dtype == torch.bfloat16
        assert prepared["prepared"].nbytes == net.prepared_bytes(2, 7)
        torch.testing.assert_close(net(**given, **prepared), exact, rtol=0, atol=limit)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["mel", "label"])
def test_autocast_leaves_sampling_alone_and_training_near(kind: str, rng: torch.Generator) -> None:
    net = tiny(kind, rng)
    given = inputs(net, rng)
    exact = net(**given)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(net(**given), exact)
        with torch.enable_grad():
            near = net(**given).float().detach()
    torch.testing.assert_close(near, exact, rtol=0, atol=0.05 * exact.abs().max().item())


@torch.no_grad()
def test_half_precision_follows_the_weights(rng: torch.Generator) -> None:
    net = tiny("mel", rng)
    given = inputs(net, rng)
    exact = net(**given)
    level = given["level"]
    half = net.bfloat16()(**{name: value.bfloat16() for name, value in given.items()} | {"level": level})
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), exact, rtol=0, atol=0.1 * exact.abs().max().item())


def test_compilers_see_plain_layers(rng: torch.Generator) -> None:
    net = tiny("mel", rng).eval()
    given = inputs(net, rng)
    with torch.no_grad():
        program = torch.export.export(net, (), given)
        torch.testing.assert_close(program.module()(**given), net(**given), rtol=1e-4, atol=1e-6)


def test_config_round_trip(rng: torch.Generator) -> None:
    net = tiny("mel and label", rng)
    twin = from_config(to_config(net))
    twin.load_state_dict(net.state_dict())
    given = inputs(net, rng)
    assert torch.equal(twin(**given), net(**given))


@pytest.mark.parametrize("hop", [256, 200, 300, 7])
def test_small_ones_fit_any_hop(hop: int, rng: torch.Generator) -> None:
    net = diffwave_small(n_mels=4, hop_length=hop)
    assert net.hop_length == hop
    given = inputs(net, rng, batch=1, frames=2)
    assert net(**given).shape == given["x"].shape


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("mel", {"mel": None}, "needs a spectrogram"),
        ("sound", {"mel": torch.zeros(2, 5, 7)}, "takes no"),
        ("mel", {"mel": torch.zeros(2, 4, 7)}, "n_mels=5"),
        ("mel", {"x": torch.zeros(2, 1, 83)}, "samples=84"),
        ("sound", {"x": torch.zeros(2, 84)}, "samples=84"),
        ("sound", {"x": torch.zeros(2, 1, 0)}, "at least one sample"),
        ("sound", {"level": torch.zeros(1)}, "level"),
        ("sound", {"label": torch.zeros(2, dtype=torch.int64)}, "this one has 0"),
        ("label", {"label": torch.zeros(1, dtype=torch.int64)}, "batch=2"),
    ],
)
def test_inputs_that_do_not_fit_are_named(kind: str, change: Any, message: str, rng: torch.Generator) -> None:
    net = tiny(kind, rng)
    with pytest.raises(InputError, match=message):
        net(**{**inputs(net, rng), **change})


@pytest.mark.parametrize("change", [{"channels": 0}, {"layers": 0}, {"factors": (4, 0)}, {"classes": -1}])
def test_arguments_that_do_not_fit_are_named(change: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(change))):
        DiffWave(**change)


def test_neighbours_side_by_side_are_not_kept_for_the_gradient(rng: torch.Generator) -> None:
    net = tiny("mel", rng)
    given = inputs(net, rng)
    joined, kept = 3 * 6 + 5, []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.shape) or x, lambda x: x):
        net(**given).sum().backward()
    assert kept
    assert not [shape for shape in kept if shape[-1] == joined and shape.numel() > 2 * 6 * joined]


def test_gradients_do_not_depend_on_how_far_neighbours_are(rng: torch.Generator) -> None:
    net = DiffWave(n_mels=0, channels=2, layers=3, cycle=3, step_width=4).double()  # dilations 1, 2 and 4
    lmnt.randomise(net, rng)
    for length in (1, 2, 3, 5):
        x = torch.randn(1, 1, length, generator=rng, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(lambda x: net(x, torch.ones(1, dtype=torch.float64)), (x,))

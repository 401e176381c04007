from __future__ import annotations

import itertools
import pickle
import warnings
import zipfile
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
import video_diffusion_pytorch as package
from PIL import Image
from torch import Tensor, nn
from video_diffusion_pytorch.video_diffusion_pytorch import Block

from mmdiff.convert import convert, read_checkpoint
from mmdiff.diffusion.guidance import ClassifierFree
from mmdiff.diffusion.samplers import sample
from mmdiff.diffusion.schedules import cosine_betas
from mmdiff.errors import CheckpointError, InputError
from mmdiff.hub import load_model, save_model
from mmdiff.nn import pieces
from mmdiff.registry import from_config, to_config
from mmdiff.video.factorised import FactorisedUNet
from mmdiff.video.factorised_checkpoint import factorised_arguments, factorised_state

SMALL: dict[str, Any] = {"dim": 8, "dim_mults": (1, 2), "attn_heads": 2}
SIZES: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {
    "four levels": ({"dim": 16, "dim_mults": (1, 2, 4, 8)}, (2, 3, 5, 16, 16)),
    "condition, grey": ({**SMALL, "channels": 1, "cond_dim": 10}, (2, 1, 4, 6, 10)),
    "odd ones": (
        {
            "dim": 10,
            "dim_mults": (2, 3),
            "channels": 4,
            "out_dim": 2,
            "attn_heads": 3,
            "attn_dim_head": 48,
            "init_kernel_size": 5,
            "use_sparse_linear_attn": False,
        },
        (1, 4, 2, 6, 4),
    ),
    "one level, one frame": ({"dim": 8, "dim_mults": (1,), "attn_dim_head": 16}, (2, 3, 1, 5, 7)),
    "many frames": (SMALL, (1, 3, 70, 4, 4)),
    "older, groups": ({**SMALL, "dim": 16, "cond_dim": 3, "group": True}, (2, 3, 6, 8, 4)),
}


def network(group: bool = False, seed: int = 0, **arguments: Any) -> nn.Module:
    """The package's network; with ``group``, as it was before version 0.7."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = package.Unet3D(**arguments)
        if group:
            for module in model.modules():
                if isinstance(module, Block):
                    module.norm = nn.GroupNorm(8, len(module.norm.gamma))
        for name, p in model.named_parameters():
            if p.requires_grad and ("norm" in name or "bias" in name):
                p.data.add_(0.2 * torch.randn_like(p))
    return model.eval()


def converted(model: nn.Module) -> FactorisedUNet:
    state = model.state_dict()
    ours = FactorisedUNet(**factorised_arguments(state))
    ours.load_state_dict(factorised_state(state))
    return ours.eval()


def diffusion(model: nn.Module, *, size: int = 8, frames: int = 3, timesteps: int = 8) -> Any:
    channels = model.channels
    return package.GaussianDiffusion(
        model, image_size=size, num_frames=frames, channels=channels, timesteps=timesteps
    ).eval()


def numbers(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def close(ours: Tensor, theirs: Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance * max(1.0, float(theirs.abs().max())))


@pytest.mark.parametrize(("arguments", "shape"), SIZES.values(), ids=SIZES)
@torch.no_grad()
def test_forward_equals_the_package(arguments, shape):
    theirs = network(**arguments)
    ours = converted(theirs)
    x, index = numbers(*shape), torch.tensor([999, 3])[: shape[0]]
    cond = numbers(shape[0], arguments["cond_dim"]) if "cond_dim" in arguments else None
    expected = theirs(x, index, cond=cond)
    close(ours(x, index.float(), vector=cond), expected)
    mask = torch.tensor([True, False])[: shape[0]]
    close(
        ours(x, index.float(), vector=cond, present=mask),
        theirs(x, index, cond=cond, focus_present_mask=mask),
    )
    if cond is not None:
        per_frame = cond[:, None].expand(-1, shape[2], -1)
        close(ours(x, index.float(), vector=per_frame), expected)
        without = theirs(x, index, cond=cond, null_cond_prob=1.0)
        close(ours(x, index.float()), without)
        close(ours(x, index.float(), vector=torch.full_like(cond, torch.nan)), without)


@pytest.mark.parametrize("group", [False, True], ids=["rms", "group"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_equal_the_packages_whatever_the_pieces(group, checkpointing, monkeypatch):
    monkeypatch.setitem(pieces._ELEMENTS, "cpu", 2**12)  # many pieces, the last ones smaller
    theirs = network(**{**SMALL, "dim": 16, "cond_dim": 3}, group=group)
    ours = converted(theirs)
    ours.checkpointing = checkpointing
    x, index, cond = numbers(2, 3, 5, 8, 6), torch.tensor([500, 20]), numbers(2, 3)
    mine, yours = x.clone().requires_grad_(), x.clone().requires_grad_()
    theirs(yours, index, cond=cond).square().mean().backward()
    ours(mine, index.float(), vector=cond).square().mean().backward()
    close(mine.grad / yours.grad.abs().max(), yours.grad / yours.grad.abs().max(), 1e-4)
    expected = factorised_state({name: p.grad for name, p in theirs.named_parameters() if p.grad is not None})
    for name, p in ours.named_parameters():
        if name in expected:
            scale = expected[name].abs().max() + 1e-5
            close(p.grad / scale, expected[name] / scale, 1e-3)
        else:
            assert name == "absent"
            assert not p.grad.any()


@torch.no_grad()
def test_stills_are_alone_and_others_do_not_see_them():
    ours = converted(network(**SMALL))
    x, level = numbers(2, 3, 5, 4, 4), torch.tensor([700.0, 3.0])
    y = ours(x, level, stills=2)
    close(y[:, :, :3], ours(x[:, :, :3], level))
    for still in (3, 4):
        close(y[:, :, still : still + 1], ours(x[:, :, still : still + 1], level))


@torch.no_grad()
def test_only_differences_of_positions_matter():
    ours = converted(network(**SMALL))
    x, level = numbers(1, 3, 4, 4, 4), torch.tensor([100.0])
    y = ours(x, level)
    close(ours(x, level, positions=torch.arange(50, 54)), y)
    assert not torch.allclose(ours(x, level, positions=torch.tensor([0, 2, 4, 6])), y, atol=1e-3)


@torch.no_grad()
def test_half_precision_is_near():
    ours = converted(network(**{**SMALL, "dim": 16}))
    x, level = numbers(2, 3, 4, 8, 8), torch.tensor([700.0, 3.0])
    exact = ours(x, level)
    ours.compute_dtype = torch.bfloat16
    half = ours(x, level)
    assert half.dtype == torch.float32
    assert not torch.equal(half, exact)
    close(half, exact, 0.05)


@pytest.fixture
def double() -> Iterator[None]:
    """Compute in float64: the first step divides by alpha = 0.001, and rounding with it."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def saved(path, theirs, **more) -> Any:
    state = theirs.state_dict()
    torch.save({"step": 7, "model": state, "ema": state, "scaler": {}, **more}, path)
    return path


def ours(model, start: Tensor, **settings: Any) -> Tensor:
    """Sample from the state ``start``: noise times sigma(1), which is 0.999999 where the package takes 1."""
    table = model.denoiser.schedule
    noise, dtype = start / table.prior_std, torch.float64
    return sample(
        model.denoiser, start.shape, schedule=table, grid=model.grid, noise=noise, dtype=dtype, **settings
    )


@pytest.mark.parametrize("group", [False, True], ids=["rms", "group"])
@pytest.mark.parametrize("threshold", [None, 0.9])
@torch.no_grad()
def test_ancestral_sampling_equals_the_packages(group, threshold, tmp_path, double):
    theirs = diffusion(network(**SMALL, group=group))
    theirs.use_dynamic_thres = threshold is not None
    model, _ = convert(saved(tmp_path / "m.pt", theirs), size=8, frames=3, dynamic_threshold=threshold)
    model = load_model(save_model(model, tmp_path / "model", half=False), "cpu")
    with torch.random.fork_rng():  # the package draws from the global generator, step by step, as ours can
        torch.manual_seed(3)
        expected = 2 * theirs.sample(batch_size=2) - 1
        torch.manual_seed(3)
        made = ours(model, torch.randn(expected.shape), sampler=model.sampler, steps=model.steps)
    assert 0.1 < expected.std() < 1
    close(made, expected, 1e-4)


@torch.no_grad()
def test_deterministic_sampling_equals_the_formula_on_the_packages_network(tmp_path, double):
    theirs = diffusion(network(**SMALL), timesteps=12)
    model, _ = convert(saved(tmp_path / "m.pt", theirs), size=8, frames=3)
    x = noise = numbers(2, 3, 3, 8, 8)
    bars = torch.cat([torch.ones(1), (1 - torch.tensor(cosine_betas(12, max_beta=0.9999))).cumprod(0)])
    torch.testing.assert_close(bars[1:].float(), theirs.alphas_cumprod)
    grid = [12, 9, 6, 3, 0]
    for now, then in itertools.pairwise(grid):
        eps = theirs.denoise_fn(x, torch.full((2,), now - 1))
        x0 = ((x - (1 - bars[now]).sqrt() * eps) / bars[now].sqrt()).clamp(-1, 1)
        eps = (x - bars[now].sqrt() * x0) / (1 - bars[now]).sqrt()  # that of the clamped x0
        x = bars[then].sqrt() * x0 + (1 - bars[then]).sqrt() * eps
    close(ours(model, noise, sampler="ddim", steps=4), x, 1e-4)


@torch.no_grad()
def test_guidance_equals_the_packages(tmp_path):
    theirs = diffusion(network(**SMALL, cond_dim=5))
    model, facts = convert(saved(tmp_path / "m.pt", theirs), size=8, frames=3)
    assert facts["condition"] == "vector of 5 numbers"
    assert model.conditions == ("vector",)
    model.denoiser.clamp = None
    x, cond, index = numbers(2, 3, 3, 8, 8), numbers(2, 5), torch.tensor([4, 2])
    eps = theirs.denoise_fn.forward_with_cond_scale(x, index, cond=cond, cond_scale=3.0)
    guided = ClassifierFree(model.denoiser, 3.0, model.network.nulls({"vector": cond}))
    close(guided(x, (index + 1) / 8, vector=cond), theirs.predict_start_from_noise(x, index, eps), 1e-4)


def test_schedule_is_the_packages_before_rounding(tmp_path):
    theirs = diffusion(network(**SMALL), timesteps=1000)
    model, facts = convert(saved(tmp_path / "m.pt", theirs))
    schedule = model.denoiser.schedule
    assert facts["schedule"] == "cosine, 1000 steps"
    assert schedule.betas == cosine_betas(1000, max_beta=0.9999)
    bars = schedule(torch.arange(1, 1001) / 1000).alpha.square()
    torch.testing.assert_close(bars, theirs.alphas_cumprod, rtol=2e-6, atol=0)
    assert (model.steps, model.sampler, model.denoiser.noise_input) == (1000, "ddpm", "index")
    theirs.betas.fill_(0.02)
    model, facts = convert(saved(tmp_path / "n.pt", theirs))
    assert facts["schedule"] == "custom, 1000 steps"
    assert model.denoiser.schedule.betas == (float(torch.tensor(0.02)),) * 1000


def test_what_the_packages_trainer_saves(tmp_path, capsys):
    frames = [Image.fromarray(np.full((8, 8, 3), 60 * n, np.uint8)) for n in range(3)]
    (tmp_path / "gifs").mkdir()
    frames[0].save(tmp_path / "gifs" / "a.gif", save_all=True, append_images=frames[1:])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = package.Trainer(
            diffusion(network(**SMALL)), tmp_path / "gifs", results_folder=tmp_path / "results", num_frames=3
        )
    for p in trainer.model.parameters():
        p.data.mul_(1.5)
    trainer.step = 42
    trainer.save(1)
    for name, network_of in (("ema", trainer.ema_model), ("model", trainer.model)):
        model, facts = convert(tmp_path / "results" / "model-1.pt", weights=name)
        assert (facts["weights"], facts["training_steps"]) == (name, 42)
        assert facts["assumed"] == ["size", "frames", "fps"]
        expected = network_of.state_dict()["denoise_fn.init_conv.weight"].squeeze(2)
        assert torch.equal(model.network.read.weight, expected)


def test_a_bare_state_and_an_old_file_are_read_too(tmp_path):
    theirs = diffusion(network(**SMALL))
    torch.save(theirs.state_dict(), tmp_path / "state.pt")
    torch.save({"model": theirs.state_dict()}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert convert(tmp_path / "state.pt")[1]["weights"] == "model"
    assert convert(tmp_path / "old.pt", weights="model")[1]["weights"] == "model"
    with pytest.raises(CheckpointError, match="weights='ema' are not in the checkpoint; it has model"):
        convert(tmp_path / "old.pt")


def test_registered_classes_round_trip():
    ours = FactorisedUNet(channels=1, base=8, widths=(8, 16), heads=2, condition=3, norm="group", groups=4)
    twin = from_config(to_config(ours))
    twin.load_state_dict(ours.state_dict())
    x, level = numbers(1, 1, 2, 4, 4), torch.tensor([5.0])
    assert torch.equal(twin(x, level), ours(x, level))


class Harmful:
    def __reduce__(self):
        return (print, ("code of a stranger",))


def test_files_that_are_none_are_refused(tmp_path, capsys):
    file = tmp_path / "m.pt"
    for content, words in (
        (b"", "cannot read"),
        (b"\x00" * 100, "cannot read"),
        (pickle.dumps(Harmful(), protocol=2), "cannot read"),
    ):
        file.write_bytes(content)
        with pytest.raises(CheckpointError, match=words):
            read_checkpoint(file)
    torch.save({"model": Harmful()}, file)
    with pytest.raises(CheckpointError, match="tensors and plain values only") as caught:
        read_checkpoint(file)
    assert "weights_only" not in str(caught.value)
    assert "stranger" not in capsys.readouterr().out
    whole = saved(file, diffusion(network(**SMALL))).read_bytes()
    with pytest.raises(CheckpointError, match="at most 1000 bytes"):
        read_checkpoint(file, max_bytes=1000)
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="cannot read"):
        read_checkpoint(file)
    for content in (
        b"RIFF",
        b"just words\n",
        b"PK\x03\x04" + b"\x00" * 40,
        b"\x80\x02}",
        b"\x00\x00\x00 ftypisom",
    ):
        (tmp_path / "text.mp4").write_bytes(content)
        with pytest.raises(CheckpointError) as caught:
            read_checkpoint(tmp_path / "text.mp4")
        assert str(caught.value) == (
            f"cannot read {tmp_path / 'text.mp4'} as a checkpoint: it must be a whole file that torch.save wrote, "
            "with tensors and plain values only"
        )
    with zipfile.ZipFile(tmp_path / "text.mp4", "w") as other:
        other.writestr("a.txt", "no tensors")
    with pytest.raises(CheckpointError, match=r"whole file that torch\.save wrote"):
        read_checkpoint(tmp_path / "text.mp4")
    with pytest.raises(CheckpointError, match=r"missing\.pt: No such file"):
        read_checkpoint(tmp_path / "missing.pt")
    with pytest.raises(CheckpointError, match="folder"):
        read_checkpoint(tmp_path)


def test_tensors_larger_than_their_file_are_refused(tmp_path):
    torch.save({"ema": {"weight": torch.zeros(1).expand(2**40)}}, tmp_path / "m.pt")
    with pytest.raises(CheckpointError, match="claims tensors of"):
        read_checkpoint(tmp_path / "m.pt")


def test_other_checkpoints_are_named_as_unknown(tmp_path):
    torch.save({"epoch": 3, "state_dict": {}}, tmp_path / "m.pt")
    with pytest.raises(CheckpointError, match=r"no known kind.*2 entries, epoch, state_dict"):
        convert(tmp_path / "m.pt")
    torch.save([1, 2], tmp_path / "m.pt")
    with pytest.raises(CheckpointError, match="it holds a list"):
        convert(tmp_path / "m.pt")


def test_damaged_networks_are_refused(tmp_path):
    theirs = diffusion(network(**SMALL))
    state = theirs.state_dict()
    missing = {key: value for key, value in state.items() if "mid_block1" not in key}
    torch.save({"ema": missing}, tmp_path / "m.pt")
    with pytest.raises(CheckpointError, match=r"missing: bottom\.before"):
        convert(tmp_path / "m.pt")
    torch.save({"ema": {**state, "denoise_fn.final_conv.1.weight": torch.zeros(3)}}, tmp_path / "m.pt")
    with pytest.raises(CheckpointError, match="wrong shape"):
        convert(tmp_path / "m.pt")
    torch.save({"ema": {**state, "denoise_fn.init_conv.weight": torch.zeros(3)}}, tmp_path / "m.pt")
    with pytest.raises(CheckpointError, match="do not tell its sizes"):
        convert(tmp_path / "m.pt")


def test_options_are_checked(tmp_path):
    file = saved(tmp_path / "m.pt", diffusion(network(**SMALL)))
    with pytest.raises(InputError, match="size=9 must be a multiple of 2"):
        convert(file, size=9)
    with pytest.raises(InputError, match="frames=0"):
        convert(file, frames=0)
    with pytest.raises(
        InputError, match="options=mel must be among those for video-diffusion-pytorch: weights, size"
    ):
        convert(file, mel=3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"widths": ()}, "must be positive"),
        ({"base": 7}, "base=7 must be even"),
        ({"kernel": 4}, "kernel=4 odd"),
        ({"norm": "batch"}, "norm='batch' must be one of rms, group"),
        ({"norm": "group", "groups": 3}, "groups=3 must divide"),
    ],
)
def test_arguments_that_do_not_fit_are_named(change, message):
    with pytest.raises(InputError, match=message):
        FactorisedUNet(**{"base": 8, "widths": (8, 16), **change})


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((1, 3, 2, 5, 4), {}, "size=5x4 must be divisible by 2"),
        ((1, 1, 2, 4, 4), {}, r"must be \(B, 3, frames"),
        ((2, 3, 2, 4, 4), {}, "one index for each clip"),
        ((1, 3, 2, 4, 4), {"stills": 3}, "stills=3"),
        ((1, 3, 2, 4, 4), {"stills": 1}, "norm='group'"),
        ((1, 3, 2, 4, 4), {"vector": torch.zeros(1, 4)}, r"must be \(1, 3\)"),
    ],
)
def test_wrong_inputs_are_named(shape, options, message):
    net = FactorisedUNet(base=8, widths=(8, 16), heads=2, condition=3, norm="group")
    with pytest.raises(InputError, match=message):
        net(torch.zeros(shape), torch.zeros(1), **options)
    plain = FactorisedUNet(base=8, widths=(8,), heads=2)
    with pytest.raises(InputError, match="built without a condition"):
        plain(torch.zeros(1, 3, 1, 4, 4), torch.zeros(1), vector=torch.zeros(1, 3))


def test_the_published_size_has_the_published_count():
    with torch.device("meta"):
        ours = FactorisedUNet()
        theirs = package.Unet3D(64)
    assert factorised_arguments(theirs.state_dict())["widths"] == (64, 128, 256, 512)
    freqs = sum(p.numel() for name, p in theirs.named_parameters() if "freqs" in name)
    assert freqs == 16
    assert sum(p.numel() for p in ours.parameters()) == 35_706_259 - freqs


def test_odd_tensors_and_lists_of_lists_of_lists_are_no_danger(tmp_path):
    file = tmp_path / "m.pt"
    for odd in (torch.zeros(2).to_sparse(), torch.zeros(2, device="meta")):
        torch.save({"model": [odd]}, file)
        with pytest.raises(CheckpointError, match="without numbers of its own"):
            read_checkpoint(file)
    nested: list = []
    for _ in range(40):
        nested = [nested] * 40
    torch.save({"model": nested}, file)
    assert set(read_checkpoint(file)) == {"model"}

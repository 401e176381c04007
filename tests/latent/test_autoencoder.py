"""Autoencoders: shapes, what they see, streams against the whole, principal components, their bound and folders."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Laplace, Normal
from torch.nn import functional

from mmdiff.errors import InputError
from mmdiff.hub import load_model, save_model
from mmdiff.latent.autoencoder import Autoencoder, crop
from mmdiff.latent.stream import decode_stream, encode_stream
from mmdiff.latent.tasks import AutoencoderTask, autoencoder_validation
from mmdiff.nn import StepCritic, fold, unfold
from mmdiff.training import Part, Trainer, load_weights

SETTINGS = {
    1: {"dims": 1, "channels": 1, "latents": 3, "widths": (8, 8), "factors": (4, 2), "kernel": 5},
    2: {"dims": 2, "channels": 3, "latents": 2, "widths": (8,), "factors": (4,)},
    3: {"dims": 3, "channels": 3, "latents": 2, "widths": (8, 8), "factors": ((1, 2, 2), (2, 2, 2))},
}


def network(dims: int = 1, **options) -> Autoencoder:
    """One in double precision whose weights are all random, none of them zero."""
    torch.manual_seed(0)
    net = Autoencoder(**{**SETTINGS[dims], **options}).double()
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return net.eval().requires_grad_(False)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# folding


def test_folding_is_pytorchs_of_pictures_and_unfolds_in_any_dimension() -> None:
    picture = noise(2, 3, 6, 8)
    torch.testing.assert_close(fold(picture, (2, 2)), functional.pixel_unshuffle(picture, 2))
    for factors in ((3,), (2, 4), (1, 2, 2)):
        x = noise(2, 3, *(2 * factor for factor in factors))
        assert torch.equal(unfold(fold(x, factors), factors), x)


# shapes


@pytest.mark.parametrize(
    ("dims", "space", "latent"), [(1, (37,), (5,)), (2, (8, 9), (2, 3)), (3, (5, 8, 10), (3, 2, 3))]
)
def test_sizes_need_not_be_multiples_of_the_factor(dims: int, space: tuple, latent: tuple) -> None:
    net = network(dims)
    x = noise(2, net.channels, *space)
    assert net.encode(x).mean.shape == (2, net.latents, *latent)
    assert net.decode(net.encode(x).mean).shape[2:] == tuple(
        n * f for n, f in zip(latent, net.factor, strict=True)
    )
    assert net(x).shape == x.shape
    longer = functional.pad(
        x, [n for d in reversed(range(dims)) for n in (0, -space[d] % net.factor[d])], "replicate"
    )
    torch.testing.assert_close(net.encode(longer).mean, net.encode(x).mean)


def test_what_does_not_fit_is_named() -> None:
    net = network()
    with pytest.raises(InputError, match=r"x.shape=\(2, 3, 8\) must be \(B, 1, space\)"):
        net.encode(torch.zeros(2, 3, 8))
    with pytest.raises(InputError, match="must have 3 channels"):
        net.decode(torch.zeros(2, 1, 8))
    for wrong in (
        {"widths": (8,)},
        {"kernel": 4},
        {"norm": "l3"},
        {"deviation": 0.0},
        {"factors": ((2, 2), 2)},
        {"latents": 0},
        {"channels": 0},
        {"blocks": -1},
    ):
        with pytest.raises(InputError):
            Autoencoder(**{**SETTINGS[1], **wrong})


# what it sees, and streams


@pytest.mark.parametrize("kernel", [1, 3, (1, 3, 3)])
def test_it_reaches_as_far_as_it_says_and_no_farther(kernel: int | tuple) -> None:
    net = network(3, kernel=kernel, widths=(8,), factors=((2, 1, 2),))
    x, cells = noise(1, 3, 26, 13, 26), 13
    changed = x.clone()
    middle = [slice(cells // 2 * f, (cells // 2 + 1) * f) for f in net.factor]
    changed[0, :, middle[0], middle[1], middle[2]] += 1
    z = noise(1, 2, cells, cells, cells)
    other = z.clone()
    other[0, :, cells // 2, cells // 2, cells // 2] += 1
    moved = [
        (net.encode(x).mean != net.encode(changed).mean)[0].any(0),
        functional.max_pool3d((net.decode(z) != net.decode(other)).double()[0].amax(0)[None], net.factor)[0]
        > 0,
    ]
    for each in moved:
        places = each.nonzero()
        assert (places.amax(0) - cells // 2).tolist() == list(net.reach)
        assert (cells // 2 - places.amin(0)).tolist() == list(net.reach)


@pytest.mark.parametrize("dims", [1, 3])
@pytest.mark.parametrize("piece", [1, 7, 1000])
def test_a_stream_equals_the_whole(dims: int, piece: int) -> None:
    net = network(dims)
    x = noise(2, net.channels, 331 if dims == 1 else 53, *(6, 4)[: dims - 1])
    whole = net.encode(x)
    parts = list(encode_stream(net, x.split(piece, 2), block=4))
    assert len(parts) == math.ceil(whole.mean.shape[2] / 4)
    for name in ("mean", "log_std"):
        torch.testing.assert_close(torch.cat([getattr(q, name) for q in parts], 2), getattr(whole, name))
    decoded = torch.cat(list(decode_stream(net, whole.mean.split(piece, 2), block=4)), 2)
    torch.testing.assert_close(decoded, net.decode(whole.mean))


def test_a_stream_holds_no_more_than_it_needs() -> None:
    net, seen = network(), []

    def pieces():
        for n in range(200):
            yield noise(1, 1, 8, seed=n)

    encode = net.encode
    net.encode = lambda x: (seen.append(x.shape[2]), encode(x))[1]
    assert sum(q.mean.shape[2] for q in encode_stream(net, pieces(), block=4)) == 200
    assert max(seen) <= (4 + 2 * net.reach[0]) * 8
    assert list(encode_stream(net, [])) == []
    with pytest.raises(InputError, match="block=0"):
        list(encode_stream(net, pieces(), block=0))


# linear ones


def components(net: Autoencoder, basis: Tensor) -> None:
    """Give a linear autoencoder rows of an orthonormal basis: z = basis x, decoded basis^T z."""
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
        net.read.weight.copy_(torch.eye(len(net.read.weight))[..., None])
        net.code.weight[: net.latents].copy_(basis[..., None])
        net.decode_in.weight.copy_(basis.mT[..., None])
        net.write.weight.copy_(torch.eye(len(net.write.weight))[..., None])


def test_a_linear_one_with_principal_components_loses_the_other_eigenvalues() -> None:
    net = network(latents=3, widths=(8,), factors=(8,), blocks=0, kernel=1)
    mixing = noise(8, 8)
    cells = noise(2000, 8) @ mixing.mT
    values, vectors = torch.linalg.eigh(cells.mT @ cells / len(cells))
    components(net, vectors.mT[-3:])
    x = cells.reshape(10, 1, 1600)
    error = (net(x) - x).square().sum() / len(cells)
    torch.testing.assert_close(error, values[:-3].sum())


def test_a_linear_one_with_all_components_gives_data_back() -> None:
    net = network(latents=8, widths=(8,), factors=(8,), blocks=0, kernel=1)
    components(net, torch.linalg.qr(noise(8, 8)).Q)
    x = noise(2, 1, 83)
    torch.testing.assert_close(net(x), x)
    net.standardise([x])
    torch.testing.assert_close(net(x), x)


# statistics


@pytest.mark.parametrize("again", [False, True])
def test_standardised_latents_have_mean_0_and_variance_1(again: bool) -> None:
    net = network(3)
    data = [noise(4, 3, 6, 16, 16, seed=n) for n in range(2)]
    before = net.decode(net.encode(data[0]).mean)
    for _ in range(1 + again):
        net.standardise(data)
    drawn = torch.cat(
        [net.encode(x).sample(torch.Generator().manual_seed(n)) for n in range(16) for x in data]
    )
    channels = drawn.movedim(1, 0).flatten(1)
    assert channels.mean(1).abs().max() < 0.04
    assert channels.std(1).sub(1).abs().max() < 0.04
    torch.testing.assert_close(net.decode(net.encode(data[0]).mean), before)
    with pytest.raises(InputError, match="data must give finite latents"):
        net.standardise([])


@pytest.mark.parametrize(("norm", "family"), [("l2", Normal), ("l1", Laplace)])
def test_likelihood_is_that_of_torch_distributions(norm: str, family: type) -> None:
    net = network(norm=norm)
    x, decoded = noise(2, 1, 16), noise(2, 1, 16, seed=1)
    expected = -family(decoded, net.log_deviation.exp()).log_prob(x).flatten(1).sum(1)
    torch.testing.assert_close(net.nll(x, decoded), expected)
    fixed = Autoencoder(1, 1, 2, norm=norm, deviation=0.25)
    torch.testing.assert_close(fixed.log_deviation.exp(), torch.tensor(0.25))
    assert not fixed.log_deviation.requires_grad


# training


class Waves:
    """Item n: a sine of its own phase and height."""

    def __getitem__(self, index: int) -> Tensor:
        drawn = torch.rand(2, generator=torch.Generator().manual_seed(index))
        return (0.2 + drawn[0]) * torch.sin(torch.arange(32) / 3 + 6 * drawn[1])[None]


def task(**options) -> AutoencoderTask:
    torch.manual_seed(0)
    net = Autoencoder(1, 1, 2, widths=(16,), factors=(8,))
    return AutoencoderTask(net, lambda x: x, **options)


def test_the_loss_is_the_bound_and_its_parts() -> None:
    own = task(kl=0.5, distance=lambda decoded, x: (decoded - x).abs().mean(), weight=3.0)
    x = torch.stack([Waves()[n] for n in range(4)])
    found = own(x, torch.Generator().manual_seed(3))
    q = own.autoencoder.encode(x)
    decoded = own.autoencoder.decode(q.sample(torch.Generator().manual_seed(3)))
    nll = own.autoencoder.nll(x, decoded).mean() / 32
    expected = nll + 0.5 * q.kl_standard().mean() / 32 + 3 * (decoded - x).abs().mean()
    torch.testing.assert_close(found["loss"], expected)
    bound = task().bound(x, torch.Generator().manual_seed(3))["bits"] * math.log(2)
    torch.testing.assert_close(bound, task()(x, torch.Generator().manual_seed(3))["loss"])


def test_training_raises_the_bound_and_a_critic_learns_beside_it(tmp_path) -> None:
    own = task(critic=StepCritic(1, 1, (8, 8)), adversarial=0.02)
    before = {name: value.clone() for name, value in own.critic.state_dict().items()}
    validate = autoencoder_validation(Waves(), count=8)
    first = validate(own, 0).metrics
    trainer = Trainer(
        tmp_path, own, Waves(), steps=40, batch_size=8, learning_rate=2e-2, ema=(0.5,), log_every=40,
        parts={"critic": Part(1e-3, (0.5, 0.9))}, device="cpu", tensorboard=False,
    )  # fmt: skip
    load_weights(own, trainer.fit())
    last = validate(own, 40).metrics
    assert last["bits"] < first["bits"] - 0.5
    assert last["error"] < first["error"] / 4
    assert 0 < last["divergence"] < last["bits"] + 10
    assert any(not torch.equal(value, before[name]) for name, value in own.critic.state_dict().items())


def test_a_folder_gives_back_the_same_network(tmp_path) -> None:
    net = network(3).float()
    net.standardise([noise(2, 3, 4, 8, 8).float()])
    found = load_model(save_model(net, tmp_path / "net", half=False))
    x = noise(1, 3, 4, 8, 8).float()
    torch.testing.assert_close(found.encode(x).mean, net.encode(x).mean)
    torch.testing.assert_close(found(x), crop(net(x), x.shape[2:]))

"""The bound of an autoencoder and its prior: normal data, a linear autoencoder and an exact prior by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from mmdiff.diffusion.conversions import expand
from mmdiff.diffusion.decoders import ResidualDecoder
from mmdiff.diffusion.quantisation import Quantisation
from mmdiff.diffusion.schedules import CosineVP, GeometricVP, LinearFlow
from mmdiff.errors import InputError
from mmdiff.latent.autoencoder import Autoencoder
from mmdiff.latent.likelihood import PairLikelihood, by_chain, by_ode, pair_bound
from mmdiff.media.likelihoods import Item, measure_sets

CELL, LATENTS, E, S = 4, 3, 0.3, 0.8  # deviations of data about the decoded, and of latents
SPREAD = torch.distributions.MultivariateNormal


def decoding() -> Tensor:
    """Matrix (CELL, LATENTS) of orthogonal columns, so that the posterior's elements are independent."""
    matrix = torch.randn(CELL, LATENTS, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return torch.linalg.qr(matrix)[0] * torch.tensor([1.1, 0.6, 0.3], dtype=torch.float64)


def posterior() -> tuple[Tensor, Tensor]:
    """Matrix and deviations (LATENTS,) of z given x, for z ~ N(0, S²) and x = D z + E noise."""
    variance = 1 / (1 / S**2 + decoding().square().sum(0) / E**2)
    return variance[:, None] * decoding().T / E**2, variance.sqrt()


def linear(encoding: Tensor, deviation: Tensor) -> Autoencoder:
    """The library's own network without blocks, its latents moved and scaled."""
    net = Autoencoder(
        1, 1, LATENTS, widths=(CELL,), factors=(CELL,), blocks=0, kernel=1, deviation=E
    ).double()
    scale = torch.tensor([0.5, 2.0, 1.0], dtype=torch.float64)
    with torch.no_grad():
        for parameter in (*net.read.parameters(), *net.code.parameters()):
            parameter.zero_()
        for parameter in (*net.decode_in.parameters(), *net.write.parameters()):
            parameter.zero_()
        net.read.weight[:, :, 0] = net.write.weight[:, :, 0] = torch.eye(CELL)
        net.code.weight[:LATENTS, :, 0] = scale[:, None] * encoding
        net.code.bias[:LATENTS] = 0.7
        net.code.bias[LATENTS:] = (scale * deviation).log()
        net.decode_in.weight[:, :, 0] = decoding() / scale
        net.decode_in.bias.copy_(-(decoding() / scale).sum(1) * 0.7)
        net.shift += 0.7
        net.scale *= scale
    return net


def prior(schedule):
    """Denoiser of N(0, S²)."""

    def denoise(z: Tensor, t: Tensor) -> Tensor:
        levels = expand(schedule(t), z)
        return levels.alpha * S**2 / (levels.alpha**2 * S**2 + levels.sigma**2) * z

    return denoise


def data(count: int, cells: int = 2) -> tuple[Tensor, Tensor]:
    """Data (count, 1, cells CELL) of the pair, and their bits per dimension."""
    marginal = SPREAD(
        torch.zeros(CELL).double(), S**2 * decoding() @ decoding().T + E**2 * torch.eye(CELL).double()
    )
    source = torch.Generator().manual_seed(1)
    root = torch.linalg.cholesky(marginal.covariance_matrix)
    x = torch.randn(count, cells, CELL, generator=source, dtype=torch.float64) @ root.T
    return x.flatten(1)[:, None], -marginal.log_prob(x).sum(1) / (cells * CELL * math.log(2))


@pytest.mark.parametrize(
    "schedule", [GeometricVP(), CosineVP(), LinearFlow()], ids=lambda s: type(s).__name__
)
def test_the_bound_is_the_likelihood_where_the_encoder_is_exact(schedule) -> None:
    net, source = linear(*posterior()), torch.Generator().manual_seed(2)
    x, exact = data(10_000)
    chain = by_chain(prior(schedule), schedule, draws=24)
    ode = by_ode(prior(schedule), schedule, steps=40, divergence="rademacher")
    with torch.no_grad():
        found = pair_bound(net, chain, x, generator=source)
        other = pair_bound(net, ode, x[:50], generator=source)
    assert float((found.total - exact).mean()) == pytest.approx(0, abs=0.02)
    torch.testing.assert_close(found.total, found.diffusion + found.decoder)
    # -log p(x|z) - log p(z) + log q(z|x) is the same for all z, and its mean but for the logarithm of q drawn
    assert float((other.total - exact[:50]).mean()) == pytest.approx(0, abs=0.15)


def test_the_bound_exceeds_the_likelihood_by_the_divergence_from_the_posterior() -> None:
    schedule, (encoding, deviation) = GeometricVP(), posterior()
    other = 0.8 * encoding, 1.5 * deviation
    x, exact = data(6000)
    with torch.no_grad():
        nll = by_chain(prior(schedule), schedule, draws=8)
        found = pair_bound(linear(*other), nll, x, codes=6, generator=torch.Generator().manual_seed(2))
    cells = x.unflatten(2, (-1, CELL))[:, 0]
    apart = cells @ (other[0] - encoding).T
    ratio = (other[1] / deviation) ** 2
    divergence = ((apart / deviation) ** 2 + ratio - 1 - ratio.log()).sum((1, 2)) / 2
    wanted = exact + divergence / (x[0].numel() * math.log(2))
    assert float((found.total - wanted).mean()) == pytest.approx(0, abs=0.03)
    assert float(found.std_error.mean()) > 0
    assert float(found.total.mean() - exact.mean()) > 0.1


def test_whole_numbers_have_the_probabilities_of_their_bins() -> None:
    """Spread over fine bins, or by a decoder of the same deviation: the density's bits less those of a bin."""
    schedule, bins = GeometricVP(), Quantisation(1 / 64, -8.0, 8.0)
    x, exact = data(10_000)
    whole = (x / bins.step).round() * bins.step
    net, nll = linear(*posterior()), by_chain(prior(schedule), schedule, draws=24)
    for decoder in (None, ResidualDecoder((E**2,))):
        with torch.no_grad():
            source = torch.Generator().manual_seed(0)
            found = pair_bound(net, nll, whole, decoder=decoder, quantised=bins, generator=source)
        assert float((found.total - exact).mean()) == pytest.approx(math.log2(64), abs=0.02)


def test_files_are_measured_and_ranked_whatever_the_batch() -> None:
    schedule, bins = GeometricVP(), Quantisation(1 / 64, -8.0, 8.0)
    likelihood = PairLikelihood(linear(*posterior()), prior(schedule), schedule, bins, draws=12)
    x, exact = data(60)
    whole = (x / bins.step).round() * bins.step
    sets = {"known": [Item(f"{n}", row) for n, row in enumerate(whole)]}
    sets["strange"] = [Item(f"{n}", 3 * row) for n, row in enumerate(whole[:6])]
    known, strange = measure_sets(likelihood, sets, batch=20, progress=False)
    assert known.measures["bits"].value == pytest.approx(float(exact.mean()) + 6, abs=0.1)
    assert strange.measures["auroc"].value > 0.9
    assert (known.about["files"], known.about["draws"]) == (60, 12)
    one = measure_sets(likelihood, {"known": sets["known"][:8]}, batch=1, progress=False)[0]
    many = measure_sets(likelihood, {"known": sets["known"][:8]}, batch=8, progress=False)[0]
    for row, other in zip(one.details["ranking"], many.details["ranking"], strict=True):
        assert row == pytest.approx(other, nan_ok=True)


def test_no_codes_are_refused() -> None:
    schedule = GeometricVP()
    with pytest.raises(InputError, match="codes=0 must be positive"):
        pair_bound(linear(*posterior()), by_chain(prior(schedule), schedule), data(1)[0], codes=0)

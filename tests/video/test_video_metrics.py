from __future__ import annotations

import importlib.util
import itertools
import math

import numpy as np
import pytest
import scipy.linalg
import torch
from scipy.stats import binomtest, entropy
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import nn

from mmdiff.errors import InputError
from mmdiff.hub import load_model
from mmdiff.media.memory import nearest_items
from mmdiff.video.judge import crossed_captions
from mmdiff.video.judge_training import real_clips
from mmdiff.video.metrics import (
    DISTANCES,
    METRICS,
    Estimate,
    centroid_steps,
    clip_features,
    dtssd,
    evaluate,
    feature_distances,
    flicker,
    flicker_error,
    frame_change,
    frechet_distance,
    gaussian_frechet_distance,
    inception_score,
    kernel_distance,
    memorisation,
    psnr,
    ssim,
    torchscript_network,
    torchvision_network,
    wilson,
)

BEST = {"psnr": math.inf, "ssim": 1.0}  # of the others, 0


def smooth(frames: int = 6, height: int = 24, width: int = 30, seed: int = 0) -> torch.Tensor:
    """A clip of drifting waves, in [-0.8, 0.8]."""
    rng = torch.Generator().manual_seed(seed)
    f, y, x = torch.meshgrid(*(torch.arange(n).double() for n in (frames, height, width)), indexing="ij")
    k = torch.rand(3, 3, generator=rng, dtype=torch.float64)
    waves = [torch.sin(0.3 * a * f + 0.5 * b * y + 0.4 * c * x + 6 * a) for a, b, c in k]
    return 0.8 * torch.stack(waves)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# --- against a reference ----------------------------------------------------------------------------------


def test_identity_is_best() -> None:
    for name, value in evaluate(smooth(), smooth()).items():
        assert value == pytest.approx(BEST.get(name, 0.0), abs=1e-12), name


def test_direction_of_every_measure_under_growing_noise() -> None:
    x, n = smooth(), noise(*smooth().shape)
    values = [evaluate(x, x + level * n) for level in (0.01, 0.02, 0.04)]
    for name, metric in METRICS.items():
        series = [v[name] if metric.higher_is_better else -v[name] for v in values]
        assert series[0] > series[1] > series[2], name


@pytest.mark.parametrize("shape", [(5, 11, 11), (2, 40, 17), (1, 32, 32)])
def test_psnr_and_ssim_equal_scikit_image(shape: tuple[int, int, int]) -> None:
    x = smooth(*shape)
    y = (x + 0.2 * noise(*x.shape)).clamp(-1, 1)
    a, b = x.numpy(), y.numpy()
    assert psnr(x, y) == pytest.approx(peak_signal_noise_ratio(a, b, data_range=2), abs=1e-9)
    frames = zip((a.swapaxes(0, 1) + 1) / 2, (b.swapaxes(0, 1) + 1) / 2, strict=True)
    settings = {"channel_axis": 0, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    values = [structural_similarity(one, two, data_range=1, **settings) for one, two in frames]
    assert ssim(x, y) == pytest.approx(np.mean(values), abs=1e-9)


@pytest.mark.parametrize("offset", [0.01, 0.3, 1.0])
def test_a_constant_offset_has_its_closed_form(offset: float) -> None:
    x = smooth() / 4 - 0.4
    assert psnr(x, x + offset) == pytest.approx(-20 * math.log10(offset / 2))
    assert dtssd(x, x + offset) == pytest.approx(0, abs=1e-12)
    assert flicker_error(x, x + offset) == pytest.approx(0, abs=1e-12)


def test_changes_of_known_size() -> None:
    still = smooth()[:, :1].expand(-1, 8, -1, -1)
    dim, bright = torch.full((3, 8, 4, 4), -0.5), torch.full((3, 8, 4, 4), 0.1)
    alternating = torch.where(torch.arange(8)[:, None, None] % 2 == 0, dim, bright)
    fade = torch.linspace(-1, 1, 9).view(1, 9, 1, 1).expand(3, 9, 4, 4)
    assert frame_change(still) == flicker(still) == 0
    assert frame_change(alternating) == pytest.approx(0.3)
    assert flicker(alternating) == pytest.approx(0.3)
    assert frame_change(fade) == pytest.approx(1 / 8)
    assert flicker(fade) == pytest.approx(0, abs=1e-7)
    assert dtssd(dim, alternating) == pytest.approx(0.3)
    assert flicker_error(dim, alternating) == pytest.approx(0.3)


def test_dtssd_of_independent_noise_is_root_two_times_its_deviation() -> None:
    x = smooth(20, 40, 40)
    assert dtssd(x, x + 0.02 * noise(*x.shape)) == pytest.approx(0.01 * math.sqrt(2), rel=0.01)


def test_centroid_steps_of_a_square_that_moves_and_vanishes() -> None:
    video = torch.full((3, 6, 20, 24), -1.0)
    for f, (x, y) in enumerate([(2, 2), (5, 6), (5, 6), (7, 6)]):
        video[:, f, y : y + 3, x : x + 5] = 1
    assert centroid_steps(video)[:3].tolist() == pytest.approx([5, 0, 2])
    assert centroid_steps(video)[3:].isnan().all()


def test_bytes_floats_and_gradients_do_not_matter() -> None:
    x, y = (((v + 1) * 127.5).round().to(torch.uint8) for v in (smooth(), smooth(seed=1)))
    as_bytes = evaluate(x, y)
    as_floats = evaluate(x.float() / 127.5 - 1, (y.float() / 127.5 - 1).requires_grad_())
    assert as_floats == pytest.approx(as_bytes, rel=1e-4)


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize(
    ("clip", "message"),
    [
        (torch.zeros(1, 3, 4, 16, 16), r"\(C, F, H, W\)"),
        (torch.zeros(3, 0, 16, 16), r"\(C, F, H, W\)"),
        (torch.zeros(3, 4, 16, 16, dtype=torch.long), "uint8"),
        (torch.full((3, 4, 16, 16), 2.0), "in \\[-1, 1\\]"),
        (torch.full((3, 4, 16, 16), math.nan), "nan"),
    ],
)
def test_unfit_clips_are_refused_by_every_measure(name: str, clip: torch.Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        METRICS[name].function(clip, clip)


def test_clips_of_two_shapes_and_unknown_measures_are_refused() -> None:
    with pytest.raises(InputError, match="must be alike"):
        psnr(smooth(6), smooth(5))
    with pytest.raises(InputError, match=r"name='fvd'.*psnr"):
        evaluate(smooth(), smooth(), ["fvd"])


def test_what_does_not_exist_gives_a_warning_and_nan() -> None:
    image, tiny = smooth(1), smooth(3, 8, 8)
    for function, clip in ((dtssd, image), (flicker_error, image), (ssim, tiny)):
        with pytest.warns(UserWarning, match=f"{function.__name__} is undefined"):
            assert math.isnan(function(clip, clip))
    for alone in (frame_change, flicker):
        with pytest.warns(UserWarning, match=f"{alone.__name__} is undefined"):
            assert math.isnan(alone(image))


@pytest.mark.parametrize(("right", "trials"), [(0, 5), (1, 300), (150, 300), (297, 300), (30, 30)])
def test_wilson_intervals_are_scipys(right: int, trials: int) -> None:
    expected = binomtest(right, trials).proportion_ci(method="wilson")
    value, low, high, count, _ = wilson(right / trials, trials)
    assert (value, count) == (right / trials, trials)
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-7)


# --- Fréchet distance -------------------------------------------------------------------------------------


def gaussian(d: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    root = noise(d, d, seed=seed) / math.sqrt(d)
    return 0.5 * noise(d, seed=seed + 100), root @ root.T + 0.2 * torch.eye(d, dtype=torch.float64)


def draw(mean: torch.Tensor, cov: torch.Tensor, count: int, seed: int) -> torch.Tensor:
    return noise(count, len(mean), seed=seed) @ torch.linalg.cholesky(cov).T + mean


def test_frechet_of_gaussians_with_commuting_covariances() -> None:
    a, b = torch.tensor([1.0, 4.0, 0.0]).double(), torch.tensor([9.0, 0.0, 0.25]).double()
    turn = torch.linalg.qr(noise(3, 3)).Q
    mean = torch.tensor([1.0, -2.0, 0.5]).double()
    found = gaussian_frechet_distance(mean, turn @ a.diag() @ turn.T, -mean, turn @ b.diag() @ turn.T)
    assert found == pytest.approx(float((2 * mean).square().sum() + (a.sqrt() - b.sqrt()).square().sum()))


@pytest.mark.parametrize("d", [1, 2, 7, 40])
def test_frechet_of_gaussians_against_a_general_matrix_root(d: int) -> None:
    (m1, c1), (m2, c2) = gaussian(d, 1), gaussian(d, 2)
    root = scipy.linalg.sqrtm(c1.numpy() @ c2.numpy())
    expected = float((m1 - m2).square().sum()) + float(np.trace(c1.numpy() + c2.numpy() - 2 * root).real)
    assert gaussian_frechet_distance(m1, c1, m2, c2) == pytest.approx(expected, rel=1e-9)
    assert gaussian_frechet_distance(m1, c1, m1, c1) == pytest.approx(0, abs=1e-10)


def test_frechet_is_stable_for_singular_and_badly_scaled_covariances() -> None:
    scale = torch.logspace(-12, 6, 20, dtype=torch.float64)
    turn = torch.linalg.qr(noise(20, 20)).Q
    zero = torch.zeros(20, dtype=torch.float64)
    c1, c2 = (turn @ (s * scale).diag() @ turn.T for s in (1.0, 4.0))
    assert gaussian_frechet_distance(zero, c1, zero, c2) == pytest.approx(float(scale.sum()), rel=1e-6)
    line = noise(20, 1)
    thin = line @ line.T
    assert gaussian_frechet_distance(zero, thin, zero, 4 * thin) == pytest.approx(
        float(thin.trace()), rel=1e-6
    )


def test_plug_in_frechet_distance_is_that_of_the_samples_moments() -> None:
    x, y = draw(*gaussian(5, 1), 40, 0), draw(*gaussian(5, 2), 60, 1)
    c1, c2 = np.cov(x.numpy().T), np.cov(y.numpy().T)
    expected = np.sum((x.numpy().mean(0) - y.numpy().mean(0)) ** 2)
    expected += np.trace(c1 + c2 - 2 * scipy.linalg.sqrtm(c1 @ c2)).real
    found = frechet_distance(x, y)
    assert found.plug_in.value == pytest.approx(expected, rel=1e-9)
    assert found.extrapolated.value < expected
    for estimate in found:
        assert (estimate.real, estimate.samples) == (40, 60)
        assert "60 samples, 40 real" in str(estimate)


def test_each_frechet_interval_covers_what_its_own_value_estimates() -> None:
    one, two = gaussian(5, 1), gaussian(5, 2)
    truth = gaussian_frechet_distance(*one, *two)
    found = [frechet_distance(draw(*one, 120, s), draw(*two, 90, 5000 + s)) for s in range(150)]
    values = np.array([[e.value for e in pair] for pair in found])
    extrapolated, plug_in = values.mean(0)
    noise_of_means = values.std(0) / math.sqrt(150)
    assert plug_in - truth > 4 * noise_of_means[1]  # too great
    assert abs(extrapolated - truth) < 3 * noise_of_means[0]
    for place, expected in enumerate((truth, plug_in)):
        covered = sum(pair[place].low <= expected <= pair[place].high for pair in found)
        assert 0.89 * 150 <= covered <= 150
        assert all(pair[place].low <= pair[place].value <= pair[place].high for pair in found)


@pytest.mark.parametrize(("d", "count"), [(2, 40), (6, 150), (40, 60)])
def test_equal_distributions_have_zero_in_the_extrapolated_interval_and_not_in_the_plug_ins(d, count) -> None:
    pairs = [(noise(count, d, seed=s), noise(count, d, seed=900 + s)) for s in range(20)]
    found = [frechet_distance(*pair) for pair in pairs]
    assert all(e.extrapolated.low == 0 <= e.extrapolated.value <= e.extrapolated.high for e in found)
    means = np.mean([[e.value for e in pair] for pair in found], 0)
    assert means[0] < 0.3 * means[1]
    if count < 2 * d:
        assert all(e.plug_in.low > 0 for e in found)


def test_distances_are_those_that_samples_are_not_too_few_for() -> None:
    x, y = noise(9, 4), noise(5, 4, seed=1)
    assert list(feature_distances(x, y)) == list(DISTANCES)
    assert feature_distances(x, y)["frechet"] == frechet_distance(x, y).extrapolated
    assert list(feature_distances(x, y[:4])) == ["kernel"]
    assert feature_distances(x, y[:2]) == {}


def plug_in(x: torch.Tensor, y: torch.Tensor) -> Estimate:
    return frechet_distance(x, y).plug_in


def test_distances_do_not_change_by_rotation_or_order_and_are_symmetric() -> None:
    x, y = draw(*gaussian(6, 1), 80, 0), draw(*gaussian(6, 2), 70, 1)
    turn = torch.linalg.qr(noise(6, 6)).Q
    for distance in (plug_in, kernel_distance):
        base = distance(x, y)
        for other in (distance(x @ turn, y @ turn), distance(y, x), distance(x.flip(0), y.flip(0))):
            assert other.value == pytest.approx(base.value, rel=1e-9)
        assert distance(x.float(), y.float()).value == pytest.approx(base.value, rel=1e-4)
        assert distance(x @ turn, y @ turn).high - base.high == pytest.approx(0, abs=1e-8)
    assert frechet_distance(x @ turn, y @ turn).extrapolated == pytest.approx(
        frechet_distance(x, y).extrapolated
    )
    shift = torch.full((6,), 3.0, dtype=torch.float64)
    assert plug_in(x + shift, y + shift).value == pytest.approx(plug_in(x, y).value)


# --- kernel distance --------------------------------------------------------------------------------------


def kernel(x: torch.Tensor, y: torch.Tensor) -> float:
    return (float(x @ y) / len(x) + 1) ** 3


def direct(x: torch.Tensor, y: torch.Tensor) -> float:
    """Unbiased MMD², by its definition."""
    n, m = len(x), len(y)
    xx = sum(kernel(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    yy = sum(kernel(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return xx + yy - 2 * sum(kernel(a, b) for a in x for b in y) / (n * m)


def test_kernel_distance_is_its_definition() -> None:
    x, y = noise(9, 4), noise(7, 4, seed=1) + 0.3
    assert kernel_distance(x, y).value == pytest.approx(direct(x, y), rel=1e-12)


def test_kernel_distance_in_blocks_is_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = noise(50, 4), noise(33, 4, seed=1)
    whole = kernel_distance(x, y)
    monkeypatch.setattr("mmdiff.media.distances._ROWS", 7)
    assert kernel_distance(x, y) == pytest.approx(whole, rel=1e-12)


def test_expected_kernel_distance_of_finite_distributions_is_their_mmd() -> None:
    points = noise(3, 2)
    p, q = (torch.tensor(v, dtype=torch.float64) for v in ((0.5, 0.3, 0.2), (0.1, 0.1, 0.8)))
    gram = torch.tensor([[kernel(a, b) for b in points] for a in points], dtype=torch.float64)
    truth = float((p - q) @ gram @ (p - q))
    expectation, total = 0.0, 0.0
    for i in itertools.product(range(3), repeat=3):
        for j in itertools.product(range(3), repeat=3):
            weight = float(p[list(i)].prod() * q[list(j)].prod())
            expectation += weight * kernel_distance(points[list(i)], points[list(j)]).value
            total += weight
    assert total == pytest.approx(1)
    assert expectation == pytest.approx(truth, rel=1e-10)


def test_kernel_distance_is_the_mean_over_all_subsets() -> None:
    x, y = noise(6, 3), noise(6, 3, seed=1) + 0.5
    subsets = [list(s) for s in itertools.combinations(range(6), 4)]
    values = [kernel_distance(x[a], y[b]).value for a in subsets for b in subsets]
    assert np.mean(values) == pytest.approx(kernel_distance(x, y).value, rel=1e-10)


def test_kernel_distance_of_equal_distributions_is_zero_on_average_and_covered() -> None:
    one = gaussian(5, 1)
    estimates = [kernel_distance(draw(*one, 40, s), draw(*one, 30, 5000 + s)) for s in range(300)]
    values = np.array([e.value for e in estimates])
    assert abs(values.mean()) < 3 * values.std() / math.sqrt(300)
    assert (values < 0).any()
    assert sum(e.low <= 0 <= e.high for e in estimates) >= 0.93 * 300


def test_kernel_interval_covers_the_known_distance() -> None:
    # k is a polynomial: on {-1, 1} with P(1) = p the moments are known
    p, q = 0.8, 0.45
    feature = {1: (1 + 1) ** 3, -1: (1 - 1) ** 3}  # k(1, 1) = k(-1, -1), k(1, -1)
    same, cross = feature[1], feature[-1]

    def mean_kernel(a: float, b: float) -> float:
        return same * (a * b + (1 - a) * (1 - b)) + cross * (a * (1 - b) + b * (1 - a))

    truth = mean_kernel(p, p) + mean_kernel(q, q) - 2 * mean_kernel(p, q)
    covered = 0
    for seed in range(200):
        rng = torch.Generator().manual_seed(seed)
        x, y = (torch.rand(n, 1, generator=rng, dtype=torch.float64) for n in (80, 60))
        estimate = kernel_distance((x < p).double() * 2 - 1, (y < q).double() * 2 - 1)
        covered += estimate.low <= truth <= estimate.high
    assert 0.9 * 200 <= covered <= 0.99 * 200


@pytest.mark.parametrize(
    ("real", "generated", "message"),
    [
        (torch.zeros(9, 4), torch.zeros(9, 3), "same feature network"),
        (torch.zeros(9), torch.zeros(9, 3), "samples, values"),
        (torch.zeros(2, 4), torch.zeros(9, 4), "real has 2 samples"),
        (torch.zeros(9, 4), torch.full((9, 4), math.inf), "generated must be finite"),
    ],
)
def test_unfit_features_are_refused(real: torch.Tensor, generated: torch.Tensor, message: str) -> None:
    for distance in (frechet_distance, kernel_distance):
        with pytest.raises(InputError, match=message):
            distance(real, generated)


def test_too_few_samples_for_a_covariance_point_to_the_kernel_distance() -> None:
    with pytest.raises(InputError, match=r"generated has 4 samples and must have 5.*kernel_distance"):
        frechet_distance(noise(5, 4), noise(4, 4))
    assert kernel_distance(noise(5, 4), noise(4, 4)).samples == 4


# --- Inception score --------------------------------------------------------------------------------------


def test_inception_score_of_certain_and_of_undecided_classifiers() -> None:
    certain = torch.eye(4).repeat(50, 1)
    sure = inception_score(certain, splits=2)
    assert sure.value == pytest.approx(4, abs=0.1)
    assert sure.high <= 4
    assert sure.samples == 200
    same = inception_score(torch.tensor([[0.7, 0.2, 0.1]]).repeat(60, 1))
    assert (same.value, same.low, same.high) == pytest.approx((1, 1, 1))
    assert inception_score(torch.eye(4)[[2]].repeat(40, 1)).value == pytest.approx(1)  # one class only


def test_inception_score_is_the_mean_of_its_splits() -> None:
    rows = noise(60, 5).softmax(1)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(3))
    scores = []
    for part in rows[order].numpy().reshape(4, 15, 5):
        scores.append(np.exp(np.mean([entropy(row, part.mean(0)) for row in part])))
    found = inception_score(rows, splits=4, seed=3)
    assert found.value == pytest.approx(np.mean(scores))
    assert found.high - found.value == pytest.approx(3.182446 * np.std(scores, ddof=1) / 2, rel=1e-5)


def test_inception_score_refuses_logits_and_too_few() -> None:
    with pytest.raises(InputError, match="softmax"):
        inception_score(noise(60, 5))
    with pytest.raises(InputError, match="has 9 samples and must have 10"):
        inception_score(torch.full((9, 2), 0.5), splits=5)
    with pytest.raises(InputError, match="splits=1"):
        inception_score(torch.full((9, 2), 0.5), splits=1)


# --- memorisation -----------------------------------------------------------------------------------------


def test_copies_are_found_with_what_they_copy() -> None:
    training, held_out = noise(300, 8), noise(150, 8, seed=1)
    copied = [5, 299, 40, 0]
    found = memorisation(training[copied] + 1e-3 * noise(4, 8, seed=2), training, held_out)
    assert found.nearest.tolist() == copied
    assert found.duplicates.value == found.closer == 1
    assert found.ratio < 0.01
    assert found.p_value < 1e-3
    assert (found.held_out, found.training) == (150, 300)


def test_new_clips_are_as_far_as_held_out_ones() -> None:
    training, held_out, new = noise(300, 8), noise(400, 8, seed=1), noise(400, 8, seed=2)
    found = memorisation(new, training, held_out, quantile=0.05)
    assert found.ratio == pytest.approx(1, abs=0.05)
    assert found.closer == pytest.approx(0.5, abs=0.05)
    assert found.p_value > 0.01
    assert found.duplicates.low < 0.05 < found.duplicates.high


def test_half_copied_clips_are_counted() -> None:
    training, held_out = noise(300, 8), noise(200, 8, seed=1)
    mixed = torch.cat((training[:50], noise(50, 8, seed=2)))
    assert memorisation(mixed, training, held_out).duplicates.value == pytest.approx(0.5, abs=0.06)


def test_nearest_items_in_blocks_are_those_of_brute_force(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmdiff.media.memory._ROWS", 7)
    rng = np.random.default_rng(0)
    clips, training = (rng.integers(0, 256, (n, 3, 2, 4, 4), dtype=np.uint8) for n in (20, 31))
    distances = np.sqrt(((clips[:, None].astype(float) - training[None]) ** 2).mean((2, 3, 4, 5)))
    found, nearest = nearest_items(torch.from_numpy(clips), torch.from_numpy(training))
    np.testing.assert_allclose(found.numpy(), distances.min(1), rtol=1e-10)
    np.testing.assert_array_equal(nearest.numpy(), distances.argmin(1))


def test_memorisation_refuses_what_does_not_fit() -> None:
    with pytest.raises(InputError, match="held_out has 50 items and must have 100"):
        memorisation(noise(9, 4), noise(9, 4), noise(50, 4))
    with pytest.raises(InputError, match=r"generated of shape \(9, 3\)"):
        memorisation(noise(9, 3), noise(9, 4), noise(100, 4))
    with pytest.raises(InputError, match="convert one"):
        memorisation(noise(9, 4).float(), noise(9, 4), noise(100, 4))
    with pytest.raises(InputError, match="quantile=0"):
        memorisation(noise(9, 4), noise(9, 4), noise(100, 4), quantile=0)
    with pytest.raises(InputError, match="finite"):
        memorisation(noise(9, 4) / 0, noise(9, 4), noise(100, 4))


# --- features ---------------------------------------------------------------------------------------------


def test_any_callable_measures_clips_in_batches_from_memory_or_a_stream() -> None:
    video = torch.rand(7, 3, 4, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    sizes = []

    def network(batch: torch.Tensor) -> torch.Tensor:
        sizes.append(len(batch))
        return batch.mean((3, 4)).flatten(1)

    features = clip_features(network, video, batch_size=3)
    assert sizes == [3, 3, 1]
    assert features.dtype == torch.float64
    torch.testing.assert_close(features.float(), video.mean((3, 4)).flatten(1))
    assert torch.equal(clip_features(network, iter(video)), features)
    whole = ((video + 1) * 127.5).round().to(torch.uint8)
    torch.testing.assert_close(clip_features(network, whole), features, atol=2e-3, rtol=0)


@pytest.mark.parametrize(
    ("clips", "message"),
    [
        (torch.zeros(0, 3, 4, 8, 8), "empty"),
        (torch.zeros(3, 4, 8, 8), r"\(C, F, H, W\)"),
        ([torch.zeros(3, 4, 8, 8), torch.zeros(3, 5, 8, 8)], "must be alike"),
        (torch.full((1, 3, 4, 8, 8), 3.0), r"\[-1, 1\]"),
    ],
)
def test_unfit_clips_and_networks_are_refused(clips: torch.Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        clip_features(lambda video: video.mean((2, 3, 4)), clips)
    with pytest.raises(InputError, match=r"returned \(2, 3, 4\) for 2 clips"):
        clip_features(lambda video: video.mean((3, 4)), torch.zeros(2, 3, 4, 8, 8))
    with pytest.raises(InputError, match="batch_size=0"):
        clip_features(lambda video: video.mean((2, 3, 4)), torch.zeros(2, 3, 4, 8, 8), batch_size=0)


class LikeI3D(nn.Module):
    """Answers as the published I3D file does: to its switches, and with what it was given."""

    def forward(
        self, x: torch.Tensor, rescale: bool = True, resize: bool = True, return_features: bool = False
    ) -> torch.Tensor:
        if rescale:
            x = x / 127.5 - 1
        if resize:
            x = x[:, :, :, :2, :2]
        size = torch.full((x.shape[0], 1), float(x.shape[3] * x.shape[4]))
        pooled = torch.cat((x.mean((2, 3, 4)), size), 1)
        return pooled if return_features else pooled.softmax(1)


class Plain(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3, 4))


def test_a_torchscript_network_gets_resized_clips_and_gives_raw_features(tmp_path) -> None:
    video = torch.rand(2, 3, 5, 16, 20, generator=torch.Generator().manual_seed(0)) * 2 - 1
    torch.jit.script(LikeI3D()).save(tmp_path / "i3d.pt")
    features = clip_features(torchscript_network(tmp_path / "i3d.pt"), video)
    assert features[:, 3].tolist() == [224 * 224] * 2
    torch.testing.assert_close(features[:, :3].float(), video.mean((2, 3, 4)), atol=1e-2, rtol=0)
    torch.jit.script(Plain()).save(tmp_path / "plain.pt")
    same = clip_features(torchscript_network(tmp_path / "plain.pt", size=16), video[..., :16])
    torch.testing.assert_close(same.float(), video[..., :16].mean((2, 3, 4)))


def test_files_that_are_no_torchscript_are_named(tmp_path) -> None:
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(InputError, match=r"text\.pt' is no TorchScript"):
        torchscript_network(tmp_path / "text.pt")
    with pytest.raises(InputError, match="check the name"):
        torchscript_network(tmp_path / "missing.pt")


def test_torchvision_networks_are_used_with_weights_that_are_here_and_never_fetched(
    tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(InputError, match="name='resnet'"):
        torchvision_network("resnet")
    if importlib.util.find_spec("torchvision") is None:
        with pytest.raises(InputError, match="pip install torchvision"):
            torchvision_network()
        return
    with pytest.raises(InputError, match=r"mc3_18-.*\.pth"):
        torchvision_network("mc3_18")
    models = importlib.import_module("torchvision.models")
    file = tmp_path / "checkpoints" / models.get_model_weights("mc3_18").DEFAULT.url.rpartition("/")[2]
    file.parent.mkdir()
    torch.save(models.get_model("mc3_18", weights=None).state_dict(), file)
    assert clip_features(torchvision_network("mc3_18"), torch.zeros(1, 3, 2, 32, 32)).shape == (1, 512)


def test_distances_by_the_judges_features_tell_real_clips_from_broken_ones() -> None:
    judge = load_model("digit-judge")
    labels = crossed_captions()[1]
    train, test = (real_clips(labels[k::4], split, seed=k) for k, split in enumerate(("train", "test")))
    real = clip_features(judge.features, train)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(0))
    found = {"test": test, "jumping": test[:, :, order]}
    distance = {name: kernel_distance(real, clip_features(judge.features, v)) for name, v in found.items()}
    assert distance["test"].low < 0.05
    assert distance["jumping"].low > distance["test"].high

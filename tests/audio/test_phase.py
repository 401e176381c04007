"""Phase reconstruction against sounds whose phase is known, and against torchaudio's Griffin-Lim."""

from __future__ import annotations

import math

import pytest
import torch
import torchaudio

from mmdiff.audio.phase import PhaseNet, centred, griffin_lim, single_pass_phase
from mmdiff.audio.stft import Stft, hann

STFT = Stft()


def tone(frequency: float, samples: int = 16_384) -> torch.Tensor:
    return 0.3 * torch.cos(2 * math.pi * frequency * torch.arange(samples) / 16_000)[None]


def inconsistency(magnitude: torch.Tensor, spectrum: torch.Tensor, samples: int) -> float:
    """Relative distance of a spectrum from the STFT of its own inverse (Griffin & Lim's criterion)."""
    projected = STFT(STFT.inverse(spectrum, samples)).abs()
    return float((projected - magnitude).norm() / magnitude.norm())


def random_start(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    """Magnitude of noise, and phases that have nothing to do with it."""
    source = torch.Generator().manual_seed(0)
    magnitude = STFT(torch.randn(1, 16_384, generator=source, dtype=dtype)).abs()
    angles = 2 * torch.pi * torch.rand(magnitude.shape, generator=source, dtype=dtype)
    return magnitude, torch.polar(torch.ones_like(magnitude), angles)


def test_centred_is_its_own_inverse_and_zero_phase_for_an_impulse_in_the_window_centre():
    spectrum = torch.randn(2, 5, 513, dtype=torch.complex64)
    assert torch.equal(centred(centred(spectrum)), spectrum)
    impulse = torch.zeros(1, 4096)
    impulse[0, 1024] = 1.0  # the centre of frame 4
    frame = centred(STFT(impulse))[0, 4]
    torch.testing.assert_close(frame, torch.ones(513, dtype=torch.complex64), atol=1e-5, rtol=0)


def test_single_pass_phase_of_a_steady_tone_advances_at_its_frequency():
    wave = tone(1003.0)
    magnitude = STFT(wave).abs()
    _, turns = single_pass_phase(magnitude, STFT)
    peak = int(magnitude[0, 30].argmax())
    advance = (turns[0, 20:40, peak].diff() % 1.0).mean()
    assert (
        abs(float(advance) - 1003.0 * 256 / 16_000 % 1.0) < 5e-3
    )  # the bias of the parabola, 0.02 bins at most


def test_peaks_of_one_shape_turn_alike_in_low_and_high_bins_but_for_whole_turns():
    magnitude = torch.full((1, 500, 513), 1e-3)
    for peak in (8, 508):  # 500 bins apart are 125 turns a frame
        magnitude[..., peak - 1 : peak + 2] = torch.tensor([0.1, 1.0, 0.3])
    _, turns = single_pass_phase(magnitude, STFT)
    apart = turns[..., 8] - turns[..., 508]
    assert float((apart - apart.round()).abs().max()) < 1e-5


def test_single_pass_phase_carries_on_where_it_is_told_to():
    magnitude = STFT(torch.randn(1, 16_384, generator=torch.Generator().manual_seed(0))).abs()
    whole, turns = single_pass_phase(magnitude, STFT)
    rest, _ = single_pass_phase(magnitude[:, 30:], STFT, turns[:, 30])
    torch.testing.assert_close(rest[:, 1:], whole[:, 31:])


def test_griffin_lim_alone_never_gets_worse_and_gets_further_by_momentum_and_further_by_relaxation():
    magnitude, start = random_start()

    def left(iterations: int, momentum: float, relaxation: float) -> float:
        found = griffin_lim(magnitude, start, STFT, 16_384, iterations, momentum, relaxation)
        return inconsistency(magnitude, found, 16_384)

    plain = [left(n, 0.0, 1.0) for n in (1, 4, 16)]
    assert plain[0] >= plain[1] >= plain[2]
    fast, accelerated = left(16, 0.99, 1.0), left(16, 0.99, 1.25)
    assert accelerated < fast < plain[2]


@pytest.mark.parametrize(("momentum", "relaxation"), [(0.0, 1.0), (0.99, 1.0), (0.99, 1.25), (0.5, 1.6)])
def test_griffin_lim_is_the_papers_iteration(momentum, relaxation):
    """t = (1 - γ) d + γ P c, c = t + α (t - t'), d = t + β (t - t') of 2306.12504, with both projections in P."""
    magnitude, start = random_start(torch.float64)
    d = t = None
    phasors = start
    for _ in range(7):
        projected = STFT(STFT.inverse(magnitude * phasors, 16_384))
        after = projected if d is None else (1 - relaxation) * d + relaxation * projected
        d = after if t is None else after + momentum * (after - t)
        t, phasors = after, d / d.abs()
    found = griffin_lim(magnitude, start, STFT, 16_384, 7, momentum, relaxation)
    torch.testing.assert_close(found, magnitude * phasors)


def test_griffin_lim_is_as_good_as_torchaudios():
    wave = (
        tone(440.0) + tone(1234.5) + 0.01 * torch.randn(1, 16_384, generator=torch.Generator().manual_seed(0))
    )
    magnitude = STFT(wave).abs()
    torch.manual_seed(0)
    theirs = torchaudio.functional.griffinlim(
        magnitude.transpose(1, 2), hann(1024, magnitude.device), 1024, 256, 1024, 1.0, 32, 0.99, 16_384, True
    )
    start = torch.polar(torch.ones_like(magnitude), 6.28 * torch.rand_like(magnitude))
    ours = griffin_lim(magnitude, start, STFT, 16_384, 32)
    peer = float((STFT(theirs).abs() - magnitude).norm() / magnitude.norm())
    assert inconsistency(magnitude, ours, 16_384) < 1.2 * peer + 1e-3


def test_griffin_lims_differentiable_steps_give_the_same_phases_and_a_gradient():
    magnitude = STFT(torch.randn(1, 8192, generator=torch.Generator().manual_seed(0))).abs().requires_grad_()
    start, _ = single_pass_phase(magnitude.detach(), STFT)
    plain = griffin_lim(magnitude, start, STFT, 8192, 6)
    soft = griffin_lim(magnitude, start, STFT, 8192, 6, differentiable=2)
    cosine = (plain * soft.conj()).real.sum() / (plain.abs() * soft.abs()).sum()
    assert float(cosine.detach()) > 0.98
    STFT.inverse(soft, 8192).square().sum().backward()
    assert magnitude.grad is not None
    assert bool(magnitude.grad.isfinite().all())
    assert float(magnitude.grad.norm()) > 0


def test_phase_net_turns_with_its_input_and_does_not_care_when_a_sound_starts():
    torch.manual_seed(0)
    net = PhaseNet(STFT, channels=8, depth=1).eval()
    with torch.no_grad():
        net.network.write.weight.mul_(50)  # so that the correction is not negligible
    wave = tone(700.0) + 0.1 * torch.randn(1, 16_384)
    magnitude, context = STFT(wave).abs(), torch.randn(1, 65, 80)
    prior = magnitude.clamp_min(1e-2)
    phasor = torch.polar(torch.tensor(1.0), torch.tensor(0.7))
    once = net(STFT(wave), magnitude, prior, context)
    turned = net(STFT(wave) * phasor, magnitude, prior, context)
    torch.testing.assert_close(turned, once * phasor, atol=1e-4, rtol=1e-4)
    # Sound, magnitude, prior and context a frame later: the same answer a frame later (away from the ends).
    late = torch.roll(wave, 256, -1)
    shift = [torch.roll(x, 1, 1) for x in (magnitude, prior, context)]
    delayed = net(STFT(late), *shift)
    torch.testing.assert_close(delayed[:, 12:50], once[:, 11:49], atol=2e-3, rtol=1e-3)

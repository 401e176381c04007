"""Phase for a magnitude spectrogram: single-pass inversion, accelerated Griffin-Lim, and a network that corrects them.

Spectra are (B, T, K) as :class:`mmdiff.audio.stft.Stft` gives them: the phase of a frame refers to the first
sample of its window.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmdiff.audio.networks.spectral import SubBandNet
from mmdiff.audio.stft import Stft
from mmdiff.registry import register

LONGEST_TRACED = 4096
"""Frames that a traced graph follows phases through; 65 s at 16 ms a frame."""


def centred(spectrum: Tensor) -> Tensor:
    """Refer phases (B, T, K) to the window's centre instead of its start, or back: the map is its own inverse."""
    alternating = 1 - 2 * (torch.arange(spectrum.shape[-1], device=spectrum.device) % 2)
    return spectrum * alternating


def single_pass_phase(magnitude: Tensor, stft: Stft, start: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Start phases by following spectral peaks (single-pass spectrogram inversion, Beauregard et al. 2015).

    Every bin turns at the frequency of its nearest peak, found by parabolic interpolation of the log magnitude.

    Parameters
    ----------
    magnitude : Tensor, shape (B, T, K)
    stft : Stft
    start : Tensor, shape (B, K), optional
        Turns at the first frame, a slice of an earlier second result: carries an utterance on from one window
        to the next. Default: 0.

    Returns
    -------
    tuple of Tensor
        Unit phasors (B, T, K), complex, and the turns at every frame (B, T, K).
    """
    bins = magnitude.shape[-1]
    log = (magnitude + 1e-6).log()
    below, here, above = log[..., :-2], log[..., 1:-1], log[..., 2:]
    peak = F.pad((here > below) & (here >= above), (1, 1))
    curvature = (below - 2 * here + above).clamp_max(-1e-4)
    offset = F.pad((0.5 * (below - above) / curvature).clamp(-0.5, 0.5), (1, 1))
    index = torch.arange(bins, device=magnitude.device).expand_as(peak)
    lower = torch.where(peak, index, -bins).cummax(-1).values
    upper = torch.where(peak, index, 3 * bins).flip(-1).cummin(-1).values.flip(-1)
    nearest = torch.where(index - lower <= upper - index, lower, upper).clamp(0, bins - 1)
    offset = offset.gather(-1, nearest)
    # Means with the frame before; the first frame's is not used. Whole turns, up to a hundred and more, are left out
    # while they are integers: beside them, float32 would keep the rest of a turn that much coarser.
    steps = (nearest + nearest.roll(1, 1)) * stft.hop_length % (2 * stft.n_fft)
    advance = (steps + (offset + offset.roll(1, 1)) * stft.hop_length) / (2 * stft.n_fft)
    first = torch.zeros_like(magnitude[:, 0]) if start is None else start
    follow = _turns_by_doubling if torch.compiler.is_compiling() else _turns_by_frame
    turns = follow(nearest, advance, first)
    angle = 2 * math.pi * turns
    return centred(torch.complex(angle.cos(), angle.sin())), turns


def _turns_by_frame(nearest: Tensor, advance: Tensor, first: Tensor) -> Tensor:
    """Turns (B, T, K) of which every bin's are those that its peak's had a frame before, and the advance."""
    turns = torch.empty_like(advance)
    turns[:, 0] = current = first
    for frame in range(1, nearest.shape[1]):
        current = (current.gather(-1, nearest[:, frame]) + advance[:, frame]) % 1.0
        turns[:, frame] = current
    return turns


def _turns_by_doubling(nearest: Tensor, advance: Tensor, first: Tensor) -> Tensor:
    """As :func:`_turns_by_frame`, for a graph without loops, of at most :data:`LONGEST_TRACED` frames.

    A run of frames moves a bin to the one it comes from and adds to its turns, and two runs in a row are such a
    run: rounds of 1, 2, 4 ... frames know after each twice as much of the past.
    """
    bins = torch.arange(nearest.shape[2], device=nearest.device).expand_as(nearest[:, :1])
    sources = torch.cat([bins, nearest[:, 1:]], 1)
    turns = torch.cat([first[:, None], advance[:, 1:]], 1)
    reach = 1
    while reach < LONGEST_TRACED:
        nothing = torch.zeros_like(turns[:, :1]).expand(-1, reach, -1)
        before = torch.cat([nothing, turns], 1)[:, :-reach]
        turns = (turns + before.gather(-1, sources)) % 1.0
        sources = torch.cat([bins.expand(-1, reach, -1), sources], 1)[:, :-reach].gather(-1, sources)
        reach *= 2
    return turns


def griffin_lim(
    magnitude: Tensor,
    phasors: Tensor,
    stft: Stft,
    samples: int,
    iterations: int,
    momentum: float = 0.99,
    relaxation: float = 1.25,
    differentiable: int = 0,
    held: Tensor | None = None,
) -> Tensor:
    """Accelerated Griffin-Lim (Nenov et al. 2023, arXiv 2306.12504, with α = β) from given start phases.

    Every iteration goes beyond the consistent spectrum that it finds by ``relaxation``, and then on in the direction
    it came from by ``momentum``. Relaxation 1 is the fast algorithm of Perraudin et al. (2013), momentum 0 besides
    it that of Griffin and Lim.

    Parameters
    ----------
    magnitude : Tensor, shape (B, T, K)
    phasors : Tensor, shape (B, T, K), complex, of unit modulus
    stft : Stft
    samples : int
    iterations : int >= 0
    momentum : float in [0, 1)
    relaxation : float >= 1
    differentiable : int >= 0
        How many of the last iterations gradients flow through, with softened phasors so that they stay finite.
    held : Tensor, shape (B, n, K), complex, optional
        Spectrum that the first n frames keep, as in real-time inversion with look-ahead (Zhu et al. 2007); not
        for iterations that gradients flow through.

    Returns
    -------
    Tensor, shape (B, T, K), complex
        ``magnitude`` with the phases found.
    """
    assert held is None or not differentiable
    detached = magnitude.detach()
    # Real factors would be made complex anew at each product.
    factor = detached.to(phasors.dtype) if isinstance(phasors, Tensor) else detached
    with torch.no_grad():
        spectrum = detached * phasors
        ahead = reached = None  # reached by relaxation; further ahead by momentum
        for _ in range(iterations - differentiable):
            projected = stft(stft.inverse(begun_by(held, spectrum), samples))
            ahead, reached = _accelerated(projected, ahead, reached, momentum, relaxation)
            spectrum = torch.sgn(ahead)
            spectrum *= factor
    if differentiable:
        found = torch.sgn(spectrum)
        for _ in range(differentiable):
            projected = stft(stft.inverse(magnitude * found, samples))
            ahead, reached = _accelerated(projected, ahead, reached, momentum, relaxation)
            found = _soft_phasors(ahead, detached)
        return magnitude * found
    return begun_by(held, spectrum if iterations else magnitude * phasors)


def _accelerated(
    projected: Tensor, ahead: Tensor | None, reached: Tensor | None, momentum: float, relaxation: float
) -> tuple[Tensor, Tensor]:
    """Where an iteration that projected ``ahead`` goes next, and what it reached; of the first, just that."""
    if ahead is None or reached is None:
        return projected.clone(), projected
    came_to = _towards(ahead, projected, relaxation)
    return _towards(reached, came_to, 1 + momentum), came_to


def _towards(start: Tensor, end: Tensor, weight: float) -> Tensor:
    """Go from ``start`` to ``end`` and on, if ``weight`` is over 1. Where it can be, ``start`` is used again."""
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or not isinstance(start, Tensor):
        return torch.lerp(start, end, weight)
    # Fresh memory would take longer than the arithmetic, and arithmetic on complex numbers longer than on real ones.
    torch.view_as_real(start).lerp_(torch.view_as_real(end), weight)
    return start


def begun_by(held: Tensor | None, spectrum: Tensor) -> Tensor:
    """Put ``held`` (B, n, K), if there is any, in the place of the first frames of a spectrum (B, T, K)."""
    return spectrum if held is None else torch.cat([held, spectrum[:, held.shape[1] :]], 1)


def _soft_phasors(spectrum: Tensor, magnitude: Tensor) -> Tensor:
    return spectrum / (spectrum.abs() + 0.03 * magnitude + 1e-6)


@register
class PhaseNet(nn.Module):
    """Correct a phase estimate: a complex 3 × 3 filter per bin on the estimated spectrum, predicted from features.

    Equivariant to a rotation of all phases together: features are differences of phase along time and frequency.

    Parameters
    ----------
    stft : Stft
    context, channels, depth, bands, overlap : int
        As for :class:`SubBandNet`.
    """

    def __init__(
        self,
        stft: Stft,
        context: int = 80,
        channels: int = 96,
        depth: int = 8,
        bands: int = 16,
        overlap: int = 8,
    ) -> None:
        super().__init__()
        self.stft = stft
        self.network = SubBandNet(
            7, 18, stft.bins - 1, bands, overlap, context, channels, depth=depth, output_scale=0.02
        )

    def forward(
        self, spectrum: Tensor, magnitude: Tensor, prior: Tensor, context: Tensor, level: float = 0.0
    ) -> Tensor:
        """Refine an estimate.

        Parameters
        ----------
        spectrum : Tensor, shape (B, T, K), complex
            A consistent STFT, as after Griffin-Lim.
        magnitude : Tensor, shape (B, T, K)
            Generated magnitude.
        prior : Tensor, shape (B, T, K)
            Magnitude prior from the mel: the scale of everything.
        context : Tensor, shape (B, T, context)
        level : float in [0, 1]
            Which kind of estimate this is, where one training was for several.

        Returns
        -------
        Tensor, shape (B, T, K), complex
        """
        middle = centred(spectrum)
        loudness = middle.abs()
        unit = middle / loudness.clamp_min(1e-9)
        rotation = self._rotation(spectrum.device)
        kind = torch.full((spectrum.shape[0],), level, device=spectrum.device)
        taps = self.network(_features(unit, loudness, magnitude, prior, rotation), kind, context)
        correction = _filter(taps, unit, middle / prior, rotation)
        return centred(magnitude * unit + 0.7 * prior * F.pad(correction, (0, 1)))

    def _rotation(self, device: torch.device) -> Tensor:
        """By how much a tone in the middle of each bin turns from one frame to the next, undone; (K,), complex."""
        steps = torch.arange(self.stft.bins, device=device) * self.stft.hop_length % self.stft.n_fft
        angle = steps * (-2 * math.pi / self.stft.n_fft)
        return torch.polar(torch.ones_like(angle), angle)


def _features(unit: Tensor, loudness: Tensor, magnitude: Tensor, prior: Tensor, rotation: Tensor) -> Tensor:
    """Planes (B, 7, T, K-1): three log magnitudes, instantaneous frequency, group delay.

    Both phase differences are relative to what a tone in the middle of the bin, in the middle of the window,
    would give, so that they mean the same in every bin and frame.
    """
    across_time = F.pad(unit[:, 1:] * unit[:, :-1].conj() * rotation, (0, 0, 1, 0))
    across_bins = F.pad(unit[..., 1:] * unit[..., :-1].conj(), (1, 0))
    log_prior = prior.log()
    log_magnitude = (magnitude / prior + 0.05).log()
    planes = [
        log_magnitude,
        (loudness / prior + 0.05).log() - log_magnitude,
        (log_prior - log_prior.mean(-1, keepdim=True)) / 1.5,
        across_time.real,
        across_time.imag,
        across_bins.real,
        across_bins.imag,
    ]
    return torch.stack(planes, 1)[..., :-1]


def _filter(taps: Tensor, unit: Tensor, spectrum: Tensor, rotation: Tensor) -> Tensor:
    """Sum of complex taps (B, 18, T, K-1) times the unit phasor and the eight neighbours in ``spectrum``."""
    batch, _, frames, bins = taps.shape
    # unbind, not indexing: the gradient of an index is a zero-filled copy of everything
    real, imaginary = (taps.view(batch, 9, 2, frames, bins)).unbind(2)
    weights = [torch.complex(r, i) for r, i in zip(real.unbind(1), imaginary.unbind(1), strict=True)]
    total = weights[0] * unit[..., :bins]
    padded = F.pad(spectrum, (1, 1, 1, 1))
    turn = (rotation.conj()[:bins], None, rotation[:bins])
    neighbours = [(dt, dk) for dt in range(3) for dk in range(3) if (dt, dk) != (1, 1)]
    for tap, (dt, dk) in enumerate(neighbours, start=1):
        neighbour = padded[:, dt : dt + frames, dk : dk + bins]
        by = turn[dt]
        total = total + weights[tap] * (neighbour if by is None else neighbour * by)
    return total

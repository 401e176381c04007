"""Distances of waveforms on several time-frequency resolutions."""

from __future__ import annotations

from torch import Tensor, nn

from mmdiff.audio.mel import MelSpec
from mmdiff.audio.stft import Stft
from mmdiff.devices import full_precision


class MultiResolutionLoss(nn.Module):
    """Log-magnitude, spectral-convergence and log-mel distance, averaged over window lengths.

    The first two are those of Yamamoto et al. (2020), eqs. 4-5; the third weighs them as hearing does.

    Parameters
    ----------
    sample_rate : int, Hz
    windows : tuple of int, samples
        Each with a hop of a quarter.
    bands : tuple of int
        Mel bands for each window.
    """

    def __init__(
        self,
        sample_rate: int,
        windows: tuple[int, ...] = (256, 512, 1024, 2048),
        bands: tuple[int, ...] = (32, 56, 80, 110),
    ) -> None:
        super().__init__()
        self.stfts = [Stft(sample_rate, n, n // 4) for n in windows]
        for i, (n, count) in enumerate(zip(windows, bands, strict=True)):
            mel = MelSpec(sample_rate, n, n, n // 4, count, f_max=sample_rate / 2)
            self.register_buffer(f"filters_{i}", mel.filterbank().T.contiguous(), persistent=False)

    def forward(self, estimate: Tensor, reference: Tensor) -> Tensor:
        """Distance of waveforms (B, samples), averaged over the batch; a scalar."""
        total = estimate.new_zeros(())
        for i, stft in enumerate(self.stfts):
            filters = getattr(self, f"filters_{i}")
            ours, theirs = _magnitude(stft(estimate)), _magnitude(stft(reference))
            error = (ours - theirs).square().sum((1, 2)) / (theirs.square().sum((1, 2)) + 1e-6)
            total = total + 0.5 * _log_distance(ours, theirs, 1e-4) + 0.25 * (error + 1e-9).sqrt().mean()
            with full_precision(estimate.device):
                ours, theirs = ours @ filters, theirs @ filters
            total = total + _log_distance(ours, theirs, 1e-5)
        return total / len(self.stfts)


def _magnitude(spectrum: Tensor) -> Tensor:
    return (spectrum.real.square() + spectrum.imag.square() + 1e-9).sqrt()


def _log_distance(ours: Tensor, theirs: Tensor, floor: float) -> Tensor:
    # One per cent of the item's level as floor: what is 40 dB below it hardly counts.
    reference = theirs.square().mean((1, 2), keepdim=True).sqrt()
    offset = 0.01 * reference + floor
    return ((ours + offset).log() - (theirs + offset).log()).abs().mean()

"""A network made into the one thing samplers and guidance see: ``denoiser(x, t, **cond) -> x0``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from mmdiff.diffusion.denoiser_checks import check_noise_input, check_prediction, check_range, table_length
from mmdiff.diffusion.process import expand, to_x0
from mmdiff.diffusion.scalings import dynamic_threshold, edm_scalings
from mmdiff.diffusion.schedules import BetaTable, Levels, Schedule
from mmdiff.errors import InputError
from mmdiff.registry import register

DenoiserFunction = Callable[..., Tensor]
"""Anything called as ``denoiser(x, t, **cond)`` that returns the expected clean data, shaped like x."""

LOG_SNR_LIMIT = 20.0
"""Log-SNR given to networks is clamped to ±20: beyond it float32 data and noise are indistinguishable."""


def per_item_time(t: Tensor | float, x: Tensor) -> Tensor:
    """Return t as one time for each item: shape (B,), on x's device.

    Parameters
    ----------
    t : Tensor or float, in [0, 1]
        A scalar for the whole batch, or shape (B,).
    x : Tensor, shape (B, ...)

    Raises
    ------
    InputError
        The shape of t is neither () nor (B,).
    """
    if not isinstance(t, Tensor):
        t = torch.tensor(t, device=x.device, dtype=_state_dtype(x))
    t = t.to(x.device) if t.is_floating_point() else t.to(x.device, torch.float32)
    if t.ndim == 0 or t.shape == (1,):
        return t.expand(x.shape[0])
    if t.shape != x.shape[:1]:
        raise InputError(
            f"t.shape={tuple(t.shape)} must be () or (B,) with B={len(x)}, the length of x; "
            f"pass one time for the batch or one for each item"
        )
    return t


@register
class Denoiser(nn.Module):
    """Turn a network of any parameterisation into the denoiser x0-hat(x_t, t).

    Parameters
    ----------
    network : nn.Module
        Called as ``network(x_in, level, **cond)`` with x_in (B, C, *space) in the network's own dtype and
        level (B,) in float32 (float64 for a float64 network; a half-precision index could not tell 998
        from 999). It returns (B, C, *space), or (B, 2C, *space) with ``learned_variance``.
    schedule : Schedule
        The noise levels the network is trained for.
    prediction : {"eps", "x0", "v", "velocity", "score", "edm"}, default "v"
        What the network predicts. "edm" is the preconditioning of Karras et al. (2022), generalised to
        any alpha: x0 = c_skip x + c_out network(c_in x, level).
    noise_input : {"t", "index", "aligned_index", "sqrt_alpha_bar", "log_snr", "sigma", "c_noise"}, default "t"
        The level the network is told. "index" is t N - 1, the 0-based step of a :class:`BetaTable` (as
        DiffWave and diffusers count; at least 0). "aligned_index" is the same at the table's points and between
        them linear in alpha, as DiffWave aligns the steps of a shorter table. "sqrt_alpha_bar" is
        alpha / sqrt(alpha^2 + sigma^2), the noise level of WaveGrad. "log_snr" and "c_noise" =
        ln(sigma / alpha) / 4 come from a log-SNR clamped to ±20.
    sigma_data : float > 0, default 1
        Standard deviation of the data, used by "edm".
    learned_variance : bool, default False
        The network also predicts where the reverse variance lies between its two bounds
        (Nichol & Dhariwal 2021, eq. 15).
    clamp : (float, float), optional
        Lowest and highest value of x0.
    dynamic_threshold : float in (0, 1], optional
        Quantile for the dynamic thresholding of Saharia et al. (2022), section 2.3: an item whose |x0|
        has this quantile above the limit is clipped there and scaled back to the limit. The limit is that
        of ``clamp``, which must then be symmetric, or 1.

    Raises
    ------
    InputError
        An argument is out of range; "eps" or "score" is asked of a schedule that ends without signal; an index of one
        that is no table; or the schedule is one of pairs, which have a denoiser of their own
        (:class:`mmdiff.diffusion.langevin_denoiser.LangevinDenoiser`).

    Examples
    --------
    >>> import torch
    >>> from mmdiff.diffusion.schedules import CosineVP
    >>> class Zero(torch.nn.Module):
    ...     def forward(self, x, level):
    ...         return torch.zeros_like(x)
    >>> denoiser = Denoiser(Zero(), CosineVP(), prediction="v")
    >>> denoiser(torch.ones(1, 1, 4), torch.tensor(0.5)).shape
    torch.Size([1, 1, 4])
    """

    def __init__(
        self,
        network: nn.Module,
        schedule: Schedule,
        prediction: str = "v",
        noise_input: str = "t",
        sigma_data: float = 1.0,
        learned_variance: bool = False,
        clamp: tuple[float, float] | None = None,
        dynamic_threshold: float | None = None,
    ) -> None:
        super().__init__()
        self._check(prediction, schedule)
        check_noise_input(noise_input, schedule)
        check_range(clamp, dynamic_threshold)
        if not sigma_data > 0:
            raise InputError(f"sigma_data={sigma_data} must be above 0; give the data's standard deviation")
        self.network = network
        self.schedule = schedule
        self.prediction = prediction
        self.noise_input = noise_input
        self.sigma_data = sigma_data
        self.learned_variance = learned_variance
        self.clamp = clamp
        self.dynamic_threshold = dynamic_threshold

    def forward(self, x: Tensor, t: Tensor | float, **cond: Any) -> Tensor:
        """Estimate the clean data.

        Parameters
        ----------
        x : Tensor, shape (B, C, *space)
            Noisy data x_t.
        t : Tensor or float, shape (B,) or (), in [0, 1]
        **cond
            Passed to the network.

        Returns
        -------
        Tensor, shape (B, C, *space)
            x0-hat in x's dtype, at least float32, whatever the network's dtype.
        """
        return self.x0_and_variance(x, t, **cond)[0]

    def x0_and_variance(self, x: Tensor, t: Tensor | float, **cond: Any) -> tuple[Tensor, Tensor | None]:
        """Estimate the clean data and, where it is learned, the variance's place between its bounds.

        Returns
        -------
        x0 : Tensor, shape (B, C, *space)
        fraction : Tensor, shape (B, C, *space), in [0, 1], or None
            0 is the lower bound of the log variance (the posterior's), 1 the upper one; see
            ``GaussianProcess.posterior_variance``. None without ``learned_variance``.
        """
        t = per_item_time(t, x)
        output, fraction = self.split(self.raw(x, t, **cond))
        x0 = self.restrict(self.convert(output, x, t))
        return x0, None if fraction is None else fraction.clamp(0, 1)

    def raw(self, x: Tensor, t: Tensor | float, *, told: Tensor | None = None, **cond: Any) -> Tensor:
        """Return what the network says, in x's dtype (at least float32): its own prediction, unconverted.

        Parameters
        ----------
        x, t, **cond
            As for :meth:`forward`, which passes on ``told`` too.
        told : Tensor, shape (B,) or (), optional
            The time whose noise level the network is told, if not t: some networks are used with another.

        Raises
        ------
        InputError
            The network's result has a wrong shape.
        """
        t = per_item_time(t, x)
        dtype = self._network_dtype(x)
        shape, seen = self._data_shape(x), self._seen(x, t)
        level = self.level(t if told is None else per_item_time(told, x))
        level = level.to(torch.promote_types(dtype, torch.float32))
        output: Tensor = self.network(seen.to(dtype), level, **cond)
        channels = shape[1] * (2 if self.learned_variance else 1)
        expected = (shape[0], channels, *shape[2:])
        if output.shape != expected:
            raise InputError(
                f"network returned shape {tuple(output.shape)}; it must be {expected} for "
                f"x.shape={tuple(x.shape)} and learned_variance={self.learned_variance}"
            )
        return output.to(_state_dtype(x))

    def split(self, output: Tensor) -> tuple[Tensor, Tensor | None]:
        """Separate the prediction (B, C, *space) from the variance's fraction, unclamped, or None."""
        if not self.learned_variance:
            return output, None
        prediction, place = output.chunk(2, dim=1)
        return prediction, (place + 1) / 2

    def convert(self, output: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """Turn the network's prediction into x0, neither clamped nor thresholded."""
        levels = self._levels(x, t)
        x = x.to(_state_dtype(x))
        if self.prediction == "edm":
            c_skip, c_out, _ = edm_scalings(levels, self.sigma_data)
            return c_skip * x + c_out * output
        return to_x0(output, self.prediction, x, levels)  # type: ignore[arg-type]

    def restrict(self, x0: Tensor) -> Tensor:
        """Apply dynamic thresholding, then the clamp, where asked for."""
        if self.dynamic_threshold is not None:
            limit = 1.0 if self.clamp is None else self.clamp[1]
            x0 = dynamic_threshold(x0, self.dynamic_threshold, limit)
        if self.clamp is not None:
            x0 = x0.clamp(*self.clamp)
        return x0

    def level(self, t: Tensor) -> Tensor:
        """Return the noise level told to the network, shape and dtype of t."""
        if self.noise_input == "t":
            return t
        if self.noise_input == "index":
            return _snap(t * table_length(self.schedule) - 1).clamp_min(0)
        if self.noise_input == "aligned_index":
            assert isinstance(self.schedule, BetaTable)
            return self.schedule.aligned_point(t).sub(1).clamp_min(0)
        if self.noise_input == "sigma":
            return self.schedule(t).sigma
        if self.noise_input == "sqrt_alpha_bar":
            alpha, sigma, *_ = self.schedule(t)
            return alpha / (alpha**2 + sigma**2).sqrt()
        log_snr = self.schedule.log_snr(t).clamp(-LOG_SNR_LIMIT, LOG_SNR_LIMIT)
        return log_snr if self.noise_input == "log_snr" else -log_snr / 8

    def extra_repr(self) -> str:
        """Say what the module's printed form should add: the parameterisation."""
        schedule = type(self.schedule).__name__
        return f"schedule={schedule}, prediction={self.prediction!r}, noise_input={self.noise_input!r}"

    def _seen(self, x: Tensor, t: Tensor) -> Tensor:
        """What of the state the network is shown, (B, C, *space)."""
        return x * edm_scalings(self._levels(x, t), self.sigma_data)[2] if self.prediction == "edm" else x

    def _data_shape(self, x: Tensor) -> torch.Size:
        """Shape of the data that belong to a state."""
        return x.shape

    def _check(self, prediction: str, schedule: Schedule) -> None:
        if schedule.paired:
            raise InputError(
                f"schedule={type(schedule).__name__} must not be one of pairs; they have a LangevinDenoiser"
            )
        check_prediction(prediction, schedule)

    def _levels(self, x: Tensor, t: Tensor) -> Levels:
        return expand(self.schedule(t), x)

    def _network_dtype(self, x: Tensor) -> torch.dtype:
        for parameter in self.network.parameters():
            if parameter.is_floating_point():
                return parameter.dtype
        return _state_dtype(x)


def _state_dtype(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def _snap(index: Tensor) -> Tensor:
    # t N in float32 may come out as 998.9999; a network that looks up an embedding would take 998.
    nearest = index.round()
    return torch.where((index - nearest).abs() < 1e-3, nearest, index)

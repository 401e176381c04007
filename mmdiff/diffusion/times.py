"""Where on the way from data to noise a network is trained: distributions over t."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mmdiff.diffusion.schedules import BetaTable, CosineVP, Schedule
from mmdiff.errors import InputError


@dataclass(frozen=True)
class Times(ABC):
    """A distribution over t in [0, 1], given by its quantile function."""

    @abstractmethod
    def quantile(self, u: Tensor, schedule: Schedule) -> Tensor:
        """Return the time below which a share u of all draws lies.

        Parameters
        ----------
        u : Tensor, float64, in (0, 1)
        schedule : Schedule
            Gives noise levels their times.

        Returns
        -------
        Tensor, float64, shape of u, in [0, 1]
        """

    def density(self, t: Tensor, schedule: Schedule) -> Tensor:
        """Return the density of drawn times at t, where it is known: a loss over it estimates one of uniform times.

        Parameters
        ----------
        t : Tensor, in (0, 1]
        schedule : Schedule

        Returns
        -------
        Tensor, float64, shape of t, > 0

        Raises
        ------
        InputError
            It is not known of this distribution.
        """
        raise InputError(f"times={type(self).__name__} must have a known density; take Uniform or Importance")

    def uniforms(self, count: int, device: torch.device, generator: torch.Generator | None) -> Tensor:
        """Return the numbers in (0, 1], shape (count,), whose quantiles :meth:`draw` takes."""
        # 1 - [0, 1): t = 0, where nothing can be learned and weights may be infinite, is never drawn.
        return 1 - torch.rand(count, generator=generator, device=device, dtype=torch.float64)

    def draw(
        self,
        count: int,
        schedule: Schedule,
        *,
        generator: torch.Generator | None = None,
        device: torch.device | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """Draw times.

        Parameters
        ----------
        count : int > 0
        schedule : Schedule
        generator : torch.Generator, optional
            Numbers are drawn on its device; without one, on ``device`` from torch's own generator.
        device : torch.device, optional
            Where the result lies; the generator's by default.
        dtype : torch.dtype, default torch.float32

        Returns
        -------
        Tensor, shape (count,), in [0, 1]
        """
        source = generator.device if generator is not None else device or torch.device("cpu")
        u = self.uniforms(count, source, generator)
        return self.quantile(u, schedule).clamp(0, 1).to(device or source, dtype)


@dataclass(frozen=True)
class Uniform(Times):
    """t uniform in (first, last].

    Parameters
    ----------
    first, last : float, 0 <= first < last <= 1
        A positive ``first`` keeps a weight that is infinite at t = 0 from dominating.
    """

    first: float = 0.0
    last: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.first < self.last <= 1:
            raise InputError(
                f"first={self.first}, last={self.last} must satisfy 0 <= first < last <= 1; try 0 and 1"
            )

    def quantile(self, u: Tensor, schedule: Schedule) -> Tensor:
        """Return first + u (last - first)."""
        return self.first + u * (self.last - self.first)

    def density(self, t: Tensor, schedule: Schedule) -> Tensor:
        """Return 1 / (last - first)."""
        return torch.full_like(t, 1 / (self.last - self.first), dtype=torch.float64)


@dataclass(frozen=True)
class TablePoints(Times):
    """t uniform over the points n / count, n = 1 ... count: the discrete steps of DDPM and DiffWave.

    Parameters
    ----------
    count : int > 0
        Length of the table of betas.
    """

    count: int

    def __post_init__(self) -> None:
        if self.count < 1:
            raise InputError(f"count={self.count} must be at least 1; give the length of the table of betas")

    def quantile(self, u: Tensor, schedule: Schedule) -> Tensor:
        """Return ceil(u count) / count."""
        return (u * self.count).ceil().clamp_min(1) / self.count


@dataclass(frozen=True)
class LogNormal(Times):
    """ln(sigma / alpha) normal, truncated to the levels of the schedule.

    Parameters
    ----------
    mean, std : float
        Of ln(sigma / alpha); std > 0. The defaults are those of Karras et al. (2022), table 1.

    References
    ----------
    Karras et al. (2022), "Elucidating the design space of diffusion-based generative models",
    section 5, https://arxiv.org/abs/2206.00364
    """

    mean: float = -1.2
    std: float = 1.2

    def __post_init__(self) -> None:
        _check_std(self.std)

    def quantile(self, u: Tensor, schedule: Schedule) -> Tensor:
        """Return the time whose ln(sigma / alpha) is the u-quantile of the truncated normal."""
        ends = torch.tensor([0.0, 1.0], dtype=u.dtype, device=u.device)
        lowest, highest = ((-schedule.log_snr(ends) / 2 - self.mean) / self.std).unbind()
        below, above = torch.special.ndtr(lowest), torch.special.ndtr(highest)
        z = torch.special.ndtri(below + u * (above - below)).clamp(lowest, highest)
        return schedule.time_of_log_snr(-2 * (self.mean + self.std * z))


@dataclass(frozen=True)
class LogitNormal(Times):
    """logit(t) normal: more training at middle times.

    Parameters
    ----------
    mean, std : float
        Of ln(t / (1 - t)); std > 0. A positive mean moves training towards noise.

    References
    ----------
    Esser et al. (2024), "Scaling rectified flow transformers for high-resolution image synthesis",
    section 3.1, https://arxiv.org/abs/2403.03206
    """

    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self) -> None:
        _check_std(self.std)

    def quantile(self, u: Tensor, schedule: Schedule) -> Tensor:
        """Return sigmoid(mean + std Phi^-1(u))."""
        return torch.sigmoid(self.mean + self.std * torch.special.ndtri(u))


@dataclass(frozen=True)
class ContinuousTable(Times):
    """WaveGrad's continuous noise levels: sqrt(alpha_bar) uniform inside a uniformly drawn table segment.

    Parameters
    ----------
    betas : tuple of float, optional
        The table; by default the schedule's own, which must then be a :class:`BetaTable`.

    Raises
    ------
    InputError
        On drawing: no table was given and the schedule has none.

    References
    ----------
    Chen et al. (2021), "WaveGrad: estimating gradients for waveform generation", section 2.2 and
    algorithm 1, https://arxiv.org/abs/2009.00713
    """

    betas: tuple[float, ...] | None = None

    def quantile(self, u: Tensor, schedule: Schedule) -> Tensor:
        """Return the time of the level at place u N, counted in segments from clean to noisy."""
        # 1 - l_n with l_0 = 1, l_n = sqrt(alpha_bar_n); kept as 1 - l, exact where l is close to 1.
        betas = torch.tensor(self._table(schedule), dtype=u.dtype, device=u.device)
        loss = -torch.expm1(torch.log1p(-betas).cumsum(0) / 2)
        loss = torch.cat([loss.new_zeros(1), loss])
        place = u * len(betas)
        segment = place.long().clamp_max(len(betas) - 1)
        loss = torch.lerp(loss[segment], loss[segment + 1], place - segment)
        log_snr = 2 * torch.log1p(-loss) - torch.log(loss * (2 - loss))
        return schedule.time_of_log_snr(log_snr)

    def _table(self, schedule: Schedule) -> tuple[float, ...]:
        if self.betas is not None:
            return tuple(self.betas)
        if isinstance(schedule, BetaTable):
            return schedule.betas
        raise InputError(
            f"betas=None must come with a BetaTable; got schedule={type(schedule).__name__}; "
            f"give ContinuousTable the table, as in ContinuousTable(wavegrad_betas())"
        )


@dataclass(frozen=True)
class LevelsOf(Times):
    """Noise levels as uniform times of another schedule have them, for data of some deviation.

    What is learned then does not depend on how the schedule's own times run. With four of five uniform times of
    :class:`~mmdiff.diffusion.langevin.CriticallyDamped` there is more noise than data.

    Parameters
    ----------
    other : Schedule, default CosineVP()
    data_std : float > 0, default 1
        Standard deviation of the data; the other schedule's are of deviation 1.
    """

    other: Schedule = field(default_factory=CosineVP)
    data_std: float = 1.0

    def __post_init__(self) -> None:
        _check_std(self.data_std)

    def quantile(self, u: Tensor, schedule: Schedule) -> Tensor:
        """Return the time at which this schedule's log-SNR, for such data, is the other's at u."""
        return schedule.time_of_log_snr(self.other.log_snr(u) - 2 * math.log(self.data_std))


@dataclass(frozen=True)
class Stratified(Times):
    """One draw from each of ``count`` equally likely strata of another distribution, in random order.

    A batch then covers all noise levels evenly, which lowers the variance of its loss; each item alone
    is still distributed as ``base``.

    Parameters
    ----------
    base : Times, default Uniform()

    References
    ----------
    Kingma et al. (2021), "Variational diffusion models", appendix I.1, is the variant with one shared
    offset, https://arxiv.org/abs/2107.00630
    """

    base: Times = field(default_factory=Uniform)

    def quantile(self, u: Tensor, schedule: Schedule) -> Tensor:
        """Return the base distribution's quantile."""
        return self.base.quantile(u, schedule)

    def density(self, t: Tensor, schedule: Schedule) -> Tensor:
        """Return the base distribution's density."""
        return self.base.density(t, schedule)

    def uniforms(self, count: int, device: torch.device, generator: torch.Generator | None) -> Tensor:
        """Return one number from each of count equal parts of (0, 1], shuffled."""
        part = torch.randperm(count, generator=generator, device=device)
        return (part + super().uniforms(count, device, generator)) / count


def _check_std(std: float) -> None:
    if not (std > 0 and math.isfinite(std)):
        raise InputError(f"std={std} must be positive and finite; 1.0 is usual")

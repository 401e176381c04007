"""Train a denoising diffusion GAN: a generator of reverse steps and its critic, in the trainer's one loop."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mmdiff.diffusion.adversarial import (
    Critic,
    Step,
    draw_step,
    gradient_penalty,
    logistic_critic,
    logistic_generator,
    reverse_step,
)
from mmdiff.diffusion.schedules import Schedule
from mmdiff.diffusion.solver_tools import check_grid, draw_noise
from mmdiff.errors import InputError
from mmdiff.training.adversarial import frozen


class DenoisingGAN(nn.Module):
    """The game of a generator G(x_t, z, t) and a critic of the steps that it makes.

    Both are trained in every update, on the same steps: see :mod:`mmdiff.training.adversarial`. Give the critic a rate
    of its own by ``Trainer(parts={"critic": Part(rate, betas)})``; the average that the trainer keeps holds the
    generator's, under ``denoiser``.

    Parameters
    ----------
    denoiser : nn.Module
        ``denoiser(x, t, z=z, **cond) -> x0``, such as a :class:`mmdiff.diffusion.denoiser.Denoiser` of a
        :class:`mmdiff.nn.latents.LatentNetwork`.
    critic : nn.Module
        ``critic(x_s, x_t, t, **shown) -> score`` (B,), such as :class:`mmdiff.nn.critic.StepCritic`.
    schedule : Schedule
    grid : Tensor, shape (steps + 1,)
        Times at which the sampler will stop, falling to 0.
    latents : int > 0
        Size of z.
    penalty : float >= 0
        γ of the penalty on the critic's gradient at data, γ/2 |∇ score|² (R1).
    every : int > 0
        Batches of which the penalty is computed on one, times so many: lazy regularisation (Karras et al. 2020,
        arXiv:1912.04958, section 3.1), the same on average.
    distance : float >= 0
        Weight of :meth:`distance_of` what the generator draws and the data; much of it silences the critic.
    begin : int >= 0
        Batches by this distance alone (by its value, if the weight is 0), before there is a critic: one that judges
        noise teaches little (as in Yamamoto et al. 2020, arXiv:1910.11480, section 3.2).
    guide : nn.Module, optional
        ``guide(x, t, **cond) -> x0``, a denoiser that is trained already and stays as it is. What it makes of x_s the
        critic is shown beside it, as ``planes``, and so it sees through the noise from the first batch on (as critics
        of trained features do: Sauer et al. 2021, arXiv:2111.01007).
    read : callable, optional
        ``read(batch, generator) -> (x0, cond, shown)``: data (B, C, *space), what the generator is told and what the
        critic is shown, as keywords. By default the batch is x0.

    Raises
    ------
    InputError
        A number is out of range, or the grid does not fall.

    References
    ----------
    Xiao et al. 2022, arXiv:2112.07804; its appendix C has γ = 0.05 and every 15 for CIFAR-10, Adam's betas
    (0.5, 0.9), and rates of 1.6e-4 for the generator and 1.25e-4 for the critic.

    Examples
    --------
    >>> from mmdiff.diffusion.denoiser import Denoiser
    >>> from mmdiff.diffusion.grids import make_grid
    >>> from mmdiff.diffusion.schedules import BetaTable, vp_betas
    >>> from mmdiff.nn.critic import StepCritic
    >>> from mmdiff.nn.latents import LatentNetwork
    >>> class Shift(nn.Module):
    ...     def forward(self, x, level, *, vector):
    ...         return x + vector[..., None]
    >>> schedule = BetaTable(vp_betas(4))
    >>> generator = Denoiser(LatentNetwork(Shift(), 8, width=2), schedule, prediction="x0", noise_input="t")
    >>> game = DenoisingGAN(generator, StepCritic(1, 2), schedule, make_grid("uniform", schedule, 4), latents=8)
    >>> sorted(game(torch.zeros(3, 2, 16), torch.Generator().manual_seed(0)))
    ['critical', 'deceived', 'loss', 'penalty']
    """

    def __init__(
        self,
        denoiser: nn.Module,
        critic: nn.Module,
        schedule: Schedule,
        grid: Tensor,
        *,
        latents: int,
        penalty: float = 0.05,
        every: int = 16,
        distance: float = 0.0,
        begin: int = 0,
        guide: nn.Module | None = None,
        read: Callable[[Any, torch.Generator], tuple[Tensor, Mapping[str, Any], Mapping[str, Any]]]
        | None = None,
    ) -> None:
        super().__init__()
        if penalty < 0 or every < 1 or latents < 1:
            raise InputError(
                f"penalty={penalty} must be at least 0, every={every} and latents={latents} at least 1; "
                "try 0.05, 16 and 64"
            )
        if distance < 0 or begin < 0:
            raise InputError(f"distance={distance} and begin={begin} must be at least 0; 0 is without")
        self.denoiser, self.critic = denoiser, critic
        self.guide = None if guide is None else guide.requires_grad_(False)
        self.schedule, self.grid, self.latents = schedule, check_grid(grid), latents
        self.penalty, self.every, self.read = penalty, every, read
        self.distance, self.begin = distance, begin
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))  # stored, so that resuming is exact

    calls: Tensor

    def forward(self, batch: Any, generator: torch.Generator) -> dict[str, Tensor]:
        """Losses of both players: "loss", their sum, and "deceived" of the generator, "critical" and "penalty"."""
        x0, cond, shown = (batch, {}, {}) if self.read is None else self.read(batch, generator)
        return self.play(x0, generator, cond, shown)

    def play(
        self, x0: Tensor, generator: torch.Generator, cond: Mapping[str, Any], shown: Mapping[str, Any]
    ) -> dict[str, Tensor]:
        """Draw steps of data, and let both players have a go at them: :meth:`make`, then :meth:`judge`.

        Parameters
        ----------
        x0 : Tensor, shape (B, C, *space)
        generator : torch.Generator
            On x0's device.
        cond, shown : mapping
            Keywords of the generator and of the critic.

        Returns
        -------
        dict of str to Tensor
            As :meth:`forward` gives them, and "distance" where that counts.
        """
        made, step = self.make(x0, generator, cond)
        number = int(self.calls)  # waits for a GPU, once an update
        self.calls += 1
        alone = number < self.begin
        turn = number % self.every == 0
        losses = self._wait() if alone else self.judge(made, step, generator, cond, shown, penalise=turn)
        weight = self.distance or float(alone)
        if weight == 0:
            return losses
        distance = self.distance_of(made, x0, step)
        return {**losses, "loss": losses["loss"] + weight * distance, "distance": distance.detach()}

    def distance_of(self, made: Tensor, x0: Tensor, step: Step) -> Tensor:
        """Compare what the generator made with the data: squared error times the signal α² that is left at the time."""
        signal = self.schedule(step.t).alpha.square().to(x0.dtype)
        return (signal * (made - x0).square().flatten(1).mean(1)).mean()

    def make(self, x0: Tensor, generator: torch.Generator, cond: Mapping[str, Any]) -> tuple[Tensor, Step]:
        """Draw steps of data, and what the generator makes of their noisy ends."""
        step = draw_step(self.schedule, self.grid, x0, generator)
        z = draw_noise((len(x0), self.latents), x0, generator)
        return self.denoiser(step.x_t, _told(step.t, step), z=z, **cond), step

    def judge(
        self,
        made: Tensor,
        step: Step,
        generator: torch.Generator,
        cond: Mapping[str, Any],
        shown: Mapping[str, Any],
        *,
        penalise: bool,
    ) -> dict[str, Tensor]:
        """Losses of both players when the generator made x0 of steps, with the penalty where it is its turn."""
        rest = (step.x_t, _told(step.t, step))
        data = self._seen(step.x_s, step, cond)
        drawn = self._seen(reverse_step(self.schedule, step, made, generator), step, cond)
        deceived = logistic_generator(_score(frozen(self.critic), drawn, *rest, **shown))
        critical = logistic_critic(
            _score(self.critic, data, *rest, **shown), _score(self.critic, drawn.detach(), *rest, **shown)
        )
        penalty = self._penalty(data, *rest, **shown) if penalise else deceived.new_zeros(())
        losses = {"deceived": deceived.detach(), "critical": critical.detach(), "penalty": penalty.detach()}
        return {"loss": deceived + critical + penalty, **losses}

    def _wait(self) -> dict[str, Tensor]:
        # Distributed training wants to see all parameters.
        return {"loss": torch.stack([p.sum() for p in self.critic.parameters()]).sum() * 0.0}

    def _seen(self, x_s: Tensor, step: Step, cond: Mapping[str, Any]) -> Tensor:
        """x_s, and in further channels what the guide makes of it, if there is one; data are left as they are."""
        if self.guide is None:
            return x_s
        noisy = step.s > 0
        clean = self.guide(x_s, _told(torch.where(noisy, step.s, step.t), step), **cond)
        chosen = torch.where(noisy.view(-1, *(1,) * (x_s.ndim - 1)), clean.to(x_s.dtype), x_s)
        return torch.cat([x_s, chosen], 1)

    def _penalty(self, data: Tensor, *rest: Tensor, **shown: Any) -> Tensor:
        if self.penalty == 0:
            return data.new_zeros(())
        squares = gradient_penalty(functools.partial(_score, self.critic), data, *rest, **shown)
        return self.every * self.penalty / 2 * squares.mean()


def _score(critic: Critic, seen: Tensor, x_t: Tensor, t: Tensor, **shown: Any) -> Tensor:
    """Call a critic with what :meth:`DenoisingGAN._seen` gave."""
    x_s, planes = seen.tensor_split([x_t.shape[1]], 1)
    return critic(x_s, x_t, t, **shown, **({"planes": planes} if planes.shape[1] else {}))


def _told(times: Tensor, step: Step) -> Tensor:
    """Times as networks are told them."""
    return times.to(torch.promote_types(step.x_t.dtype, torch.float32))

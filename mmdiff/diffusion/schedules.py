"""Noise schedules: alpha(t), sigma(t), their derivatives, lambda(t) = log(alpha²/sigma²) and its inverse.

==================== ==================== =============================================
name                 curve                after
==================== ==================== =============================================
LinearBetaVP         alpha² + sigma² = 1  Song et al. 2021 (DDPM in continuous time)
CosineVP             alpha² + sigma² = 1  Nichol and Dhariwal 2021
SigmoidVP            alpha² + sigma² = 1  Jabri et al. 2022
LaplaceVP            alpha² + sigma² = 1  Hang and Gu 2024
GeometricVP          alpha² + sigma² = 1  Vahdat et al. 2021
BetaTable            alpha² + sigma² = 1  any table of beta: DDPM, WaveGrad, DiffWave, GAN
SubVP                sigma = 1 - alpha²   Song et al. 2021
EDM                  alpha = 1            Karras et al. 2022
VarianceExploding    alpha = 1            Song et al. 2021
LinearFlow           alpha + sigma = 1    rectified flow, flow matching
Shifted(base)        as its base          Hoogeboom et al. 2023, Esser et al. 2024
ZeroTerminalSNR      alpha² + sigma² = 1  Lin et al. 2024
==================== ==================== =============================================

:class:`mmdiff.diffusion.langevin.CriticallyDamped` is one more, of pairs of data and velocity (Dockhorn et al. 2022).
"""

from __future__ import annotations

from mmdiff.diffusion.schedules_base import Levels, Schedule, UnitSignal, VariancePreserving
from mmdiff.diffusion.schedules_free import EDM, LinearFlow, SubVP, VarianceExploding
from mmdiff.diffusion.schedules_table import (
    BetaTable,
    betas_of_alpha_bars,
    cosine_betas,
    ddpm_betas,
    diffwave_betas,
    diffwave_fast_betas,
    linear_betas,
    log_snr_betas,
    scaled_linear_betas,
    vp_betas,
    wavegrad_betas,
)
from mmdiff.diffusion.schedules_transforms import Shifted, ZeroTerminalSNR
from mmdiff.diffusion.schedules_vp import CosineVP, GeometricVP, LaplaceVP, LinearBetaVP, SigmoidVP

__all__ = [
    "EDM",
    "BetaTable",
    "CosineVP",
    "GeometricVP",
    "LaplaceVP",
    "Levels",
    "LinearBetaVP",
    "LinearFlow",
    "Schedule",
    "Shifted",
    "SigmoidVP",
    "SubVP",
    "UnitSignal",
    "VarianceExploding",
    "VariancePreserving",
    "ZeroTerminalSNR",
    "betas_of_alpha_bars",
    "cosine_betas",
    "ddpm_betas",
    "diffwave_betas",
    "diffwave_fast_betas",
    "linear_betas",
    "log_snr_betas",
    "scaled_linear_betas",
    "vp_betas",
    "wavegrad_betas",
]

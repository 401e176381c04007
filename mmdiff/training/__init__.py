"""Training: one loop for every task, with averages, exact resume and logs."""

from mmdiff.training.checkpoint import load_weights
from mmdiff.training.ema import EMA
from mmdiff.training.log import Validation
from mmdiff.training.optim import Part
from mmdiff.training.trainer import Trainer

__all__ = ["EMA", "Part", "Trainer", "Validation", "load_weights"]

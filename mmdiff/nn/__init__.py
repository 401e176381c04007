"""Layers written once for 1, 2 and 3 dimensions: sound, images and spectrograms, clips."""

from mmdiff.nn.convolution import conv as conv
from mmdiff.nn.critic import StepCritic as StepCritic
from mmdiff.nn.embeddings import LevelEmbedding as LevelEmbedding
from mmdiff.nn.embeddings import sinusoidal as sinusoidal
from mmdiff.nn.film import FiLM as FiLM
from mmdiff.nn.film import modulate as modulate
from mmdiff.nn.latents import LatentMapping as LatentMapping
from mmdiff.nn.latents import LatentNetwork as LatentNetwork
from mmdiff.nn.lines import LineConv as LineConv
from mmdiff.nn.lines import as_line as as_line
from mmdiff.nn.lines import keep_as_lines as keep_as_lines
from mmdiff.nn.resample import condense as condense
from mmdiff.nn.resample import decimate as decimate
from mmdiff.nn.resample import fold as fold
from mmdiff.nn.resample import stretch as stretch
from mmdiff.nn.resample import unfold as unfold

"""The vocoder pipeline: mel spectrogram in, waveform out, whatever the model behind it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from mmdiff.audio.mel import MelSpec, preset
from mmdiff.audio.mel.check import Checked, check
from mmdiff.audio.mel.lengths import longest_length, whole_length
from mmdiff.audio.resampling import resample
from mmdiff.audio.sampling import Sampling, decide_sampling, item_seeds
from mmdiff.audio.stream import BLOCK, LOOKAHEAD, VocoderStream
from mmdiff.audio.vocoder_model import VocoderModel
from mmdiff.devices import pick_compute_dtype, pick_device, set_compute_dtype
from mmdiff.errors import InputError
from mmdiff.media.grid_tables import GridSource
from mmdiff.progress import track


class Vocoder:
    """Generate waveforms from mel spectrograms with a diffusion model.

    Parameters
    ----------
    model : VocoderModel
    device : str, optional
        Default: the fastest there is.
    dtype : {"auto", "float32", "bfloat16", "float16"}, optional
        Of the networks' matrix products.

    Attributes
    ----------
    sample_rate : int, Hz
        Of the waveforms generated.
    mel_spec : MelSpec
        The definition :meth:`mel` computes and spectrograms are expected in.
    notes : list of str
        What the latest call did to its input to make it fit; also raised as warnings by the command line.

    Examples
    --------
    >>> import mmdiff
    >>> voc = mmdiff.load("vocoder-16k")
    >>> wave = voc(voc.mel(torch.zeros(1, 22_050), sample_rate=22_050), seed=0)
    >>> wave.shape
    torch.Size([1, 15872])
    """

    def __init__(self, model: VocoderModel, device: str | None = None, dtype: str | None = None) -> None:
        self.device = pick_device(device)
        self.model = model.to(self.device).eval()
        set_compute_dtype(self.model, pick_compute_dtype(self.device, dtype))
        self.notes: list[str] = []

    @property
    def sample_rate(self) -> int:
        """Sampling rate of the output in Hz."""
        return self.model.sample_rate

    @property
    def mel_spec(self) -> MelSpec:
        """The model's own mel definition."""
        return self.model.mel

    @torch.inference_mode()
    def mel(self, wave: Tensor, sample_rate: int) -> Tensor:
        """Mel spectrogram of sound, by the model's own definition.

        Parameters
        ----------
        wave : Tensor, shape (B, samples) or (samples,), in [-1, 1]
        sample_rate : int, Hz
            Of ``wave``, which is resampled where the model's differs.

        Returns
        -------
        Tensor, shape (B, n_mels, frames)

        Raises
        ------
        InputError
            The wave is of whole numbers.
        """
        wave = wave if wave.ndim == 2 else wave[None]
        wave = wave.float() if wave.is_floating_point() else wave  # resampling refuses whole numbers
        return self.mel_spec(resample(wave.to(self.device), sample_rate, self.mel_spec.sample_rate))

    def __call__(
        self,
        mel: Tensor | Sequence[Tensor],
        *,
        mel_spec: MelSpec | str | None = None,
        steps: int | None = None,
        sampler: str | None = None,
        grid: GridSource | None = None,
        seed: int | Sequence[int] = 0,
        temperature: float = 1.0,
        samples: int | None = None,
        progress: bool = False,
    ) -> Tensor | list[Tensor]:
        """Generate waveforms.

        Parameters
        ----------
        mel : Tensor, shape (B, n_mels, frames) or (n_mels, frames), or a list of (n_mels, frames)
            A list may mix lengths; no item hears another's padding, since none is padded.
        mel_spec : MelSpec or str, optional
            Definition of ``mel``, or a preset's name; default: the model's own.
        steps : int > 0, optional
            Network evaluations; default: the model's.
        sampler : str, optional
            Name of a sampler; default: that of the grid's table, or the model's.
        grid : str, Path, GridTable, Tensor or sequence of float, optional
            Where the sampler stops: a file that ``mmdiff search`` wrote, the name of a grid, or times; default:
            the model's. Without ``steps`` it decides on their number.
        seed : int or sequence of int
            One per item, or the first one's (the others count on). An item depends on its seed alone, but for
            rounding, which in half precision depends on the batch and can be heard in a tensor of several items; those
            of a list are made one by one.
        temperature : float >= 0
            Factor on the initial noise; 0 gives the model's regression.
        samples : int, optional
            Length of the result; default: what the frames stand for.
        progress : bool
            Show a progress bar.

        Returns
        -------
        Tensor, shape (B, samples), float32 in [-1, 1], or a list of (samples_i,)

        Raises
        ------
        InputError
            The spectrogram does not fit its definition; the message names the preset it looks like.
        """
        sampling = self.sampling(steps, sampler, grid)._asdict()
        options = {"mel_spec": mel_spec, "temperature": temperature, **sampling}
        if isinstance(mel, Tensor):
            blocks = self.blocks(mel, seed=seed, samples=samples, progress=progress, **options)
            return torch.cat(list(blocks), -1)
        seeds = item_seeds(seed, len(mel))
        results = []
        for item, own in zip(mel, seeds, strict=True):
            blocks = self.blocks(item, seed=[own], samples=samples, progress=progress, **options)
            results.append(torch.cat(list(blocks), -1)[0])
        return results

    def blocks(
        self,
        mel: Tensor,
        *,
        mel_spec: MelSpec | str | None = None,
        steps: int | None = None,
        sampler: str | None = None,
        grid: GridSource | None = None,
        seed: int | Sequence[int] = 0,
        temperature: float = 1.0,
        samples: int | None = None,
        measured: bool = False,
        progress: bool = False,
    ) -> Iterator[Tensor]:
        """Generate the waveform of :meth:`__call__` block by block, in memory that does not grow with its length.

        All of the spectrogram must be there; see :meth:`stream` for one that is still coming.

        Parameters
        ----------
        mel : Tensor, shape (B, n_mels, frames) or (n_mels, frames)
        mel_spec, steps, sampler, grid, seed, temperature, samples, progress
            As for :meth:`__call__`.
        measured : bool
            ``mel`` (B, n_mels, frames) has just been computed by ``mel_spec``: there is nothing to check.

        Yields
        ------
        Tensor, shape (B, samples of the block)
        """
        spec = preset(mel_spec) if isinstance(mel_spec, str) else mel_spec or self.mel_spec
        checked = Checked(mel, []) if measured else check(mel, spec, declared=mel_spec is not None)
        if samples is not None:  # of the frames given: what they are converted to may have fewer
            self._check_length(spec, checked.mel.shape[-1], samples)
        mel, spec, notes = self.model.accept(checked.mel.to(self.device), spec)
        self.notes = [*checked.notes, *notes]
        if not 0 <= temperature < math.inf:
            raise InputError(f"temperature={temperature} must be at least 0; 1 is usual")
        sampling = self.sampling(steps, sampler, grid)
        length = samples or whole_length(spec, mel.shape[-1], self.sample_rate)
        blocks = self.model.blocks(
            mel,
            spec,
            seeds=item_seeds(seed, len(mel)),
            samples=length,
            temperature=temperature,
            **sampling._asdict(),
        )
        total = self.model.count_blocks(spec, mel.shape[-1], sampling.steps)
        with torch.inference_mode():
            for block in track(blocks, "vocoding", total=total, show=progress):
                yield block.clamp(-1, 1)

    def stream(
        self,
        chunks: Iterable[Tensor] | None = None,
        *,
        lookahead: int = LOOKAHEAD,
        block: int = BLOCK,
        mel_spec: MelSpec | str | None = None,
        steps: int | None = None,
        sampler: str | None = None,
        grid: GridSource | None = None,
        seed: int | Sequence[int] = 0,
        temperature: float = 1.0,
    ) -> VocoderStream:
        """Generate sound of a spectrogram that is still coming, with little delay.

        The sound is not that of :meth:`__call__`, which hears all of the spectrogram, but nearly as good, and as
        long; the recipes' README has what is lost at which look-ahead.

        Parameters
        ----------
        chunks : Tensor or iterable of Tensor, shape (B, n_mels, frames) or (n_mels, frames), optional
            Pieces of a spectrogram: iterating the result then gives the sound. Without them, call its
            ``push(frames)`` as frames come and ``flush()`` at the end.
        lookahead : int > 0
            Frames (the model's, 16 ms at 16 kHz) beyond a block that are heard before it is given out. More sound
            better and come later. As many as the spectrogram has give the sound of :meth:`__call__`, where no fresh
            noise is drawn (models of waveforms with "ddpm" draw it elsewhere).
        block : int > 0
            Frames given out together. More cost less computation and come later.
        mel_spec, steps, sampler, grid, seed, temperature
            As for :meth:`__call__`.

        Returns
        -------
        VocoderStream
            Its ``latency`` says how long samples wait.

        Raises
        ------
        InputError
            A number or name makes no sense, or the model cannot do so.

        Examples
        --------
        >>> import mmdiff
        >>> voc = mmdiff.load("vocoder-16k")
        >>> stream = voc.stream(lookahead=4, block=2)
        >>> stream.latency
        Latency(frames=5, samples=1280, seconds=0.08)
        >>> mel = voc.mel(torch.zeros(1, 16_000), sample_rate=16_000)
        >>> [stream.push(mel[..., n : n + 7]).shape[1] for n in (0, 7)], stream.flush().shape[1]
        ([512, 2048], 768)
        """
        if lookahead < 1 or block < 1 or not 0 <= temperature < math.inf:
            raise InputError(
                f"lookahead={lookahead} and block={block} must be at least 1 frame, temperature={temperature} "
                f"at least 0; {LOOKAHEAD}, {BLOCK} and 1 are usual"
            )
        spec = preset(mel_spec) if isinstance(mel_spec, str) else mel_spec or self.mel_spec
        sampling = self.sampling(steps, sampler, grid)._asdict()
        maker = self.model.block_maker(
            spec, temperature=temperature, lookahead=lookahead, block=block, **sampling
        )
        pieces = [chunks] if isinstance(chunks, Tensor) else chunks
        return VocoderStream(self.model, maker, spec, seed, pieces)

    def sampling(
        self, steps: int | None = None, sampler: str | None = None, grid: GridSource | None = None
    ) -> Sampling:
        """Decide how :meth:`__call__` samples with these options.

        Raises
        ------
        InputError
            A name or number makes no sense, or the grid has another number of steps.
        """
        return decide_sampling(self.model, steps, sampler, grid)

    def _check_length(self, spec: MelSpec, frames: int, samples: int) -> None:
        longest = longest_length(spec, frames, self.sample_rate)
        if not 0 < samples <= longest:
            raise InputError(
                f"samples={samples} must be between 1 and {longest}: {frames} frames of {spec.hop_length} samples "
                f"at {spec.sample_rate} Hz last no longer at {self.sample_rate} Hz"
            )

"""Speech to test with: words in many languages, recorded apart from what shipped models were trained on."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from pathlib import Path

import torch
from rich.progress import track
from torch import Tensor

from mmdiff.audio.datasets import debian
from mmdiff.audio.datasets.layouts import SUFFIXES
from mmdiff.audio.io import info, read, write
from mmdiff.audio.resampling import resample
from mmdiff.errors import InputError

SOURCE, PACKAGE = "ktuberling", "ktuberling-data"
SAMPLE_RATE = 16_000  # Hz
SOURCE_RATE = 44_100  # Hz, lowest accepted: slower recordings lack the upper octave, or come from telephones
FEWEST = 40  # usable words, below which a language is left out
UTTERANCES = 4  # per language
UTTERANCE_SECONDS = (2.5, 5.0)
WORD_SECONDS = (0.3, 4.5)
LEVEL = -26.0  # dBFS: root mean square of an utterance
PEAK = 0.95
GAP = SAMPLE_RATE // 4  # samples between two words
FADE = SAMPLE_RATE // 100  # samples in which a word gives way to its background
FRAME = 512  # samples: 32 ms, for measuring

LOUDEST, QUIETEST = 0.99, 0.03  # peaks, between which a recording is neither clipped nor next to nothing
TREBLE = (7_000, 7_500)  # Hz, just below where resampling to 16 kHz cuts off
LEAST_TREBLE = -56.0  # dB in that band, relative to the whole of the same frame
LEAST_CLEARANCE = 20.0  # dB from the quietest frame up to the level of the word
LEAST_BACKGROUND = -85.0  # dBFS of the quietest frame: below it a noise gate was at work
WORD_ABOVE = (15.0, -30.0)  # dB over the quietest and the loudest frame: what lies above both is the word
MARGIN = SAMPLE_RATE // 10  # samples kept before and after it
INTRODUCTION = f"""\
Words spoken for the KDE game KTuberling, as packaged by Debian; the speakers are not named. Changes made
here: the usable recordings of each language were resampled to {SAMPLE_RATE} Hz and joined in the order of
their file names. Usable is what was sampled at {SOURCE_RATE} Hz or more, is neither clipped nor next to
silent, reaches beyond {TREBLE[0]} Hz, and has a background {LEAST_CLEARANCE:g} dB or more below the word
that no gate cut to digital silence. Of it, what lies more than {1000 * MARGIN // SAMPLE_RATE} ms before or
after the word was cut off. The quarter of a second between two words is made, not recorded: noise with
the spectrum and the level of each word's quietest {1000 * FRAME // SAMPLE_RATE} ms, cross-faded from one
word's to the next one's. Of each language {UTTERANCES} utterances, evenly spaced, were brought to
{LEVEL:g} dBFS and written as 16-bit FLAC.

The licence is that of the game. It is for testing, not for training: a model that has heard it cannot be
tested with it any more."""


def fetch_outside_speech(folder: str | Path, debs: str | Path | None = None, progress: bool = True) -> Path:
    """Build a folder of 16 kHz speech for tests, out of recordings that no shipped model was trained on.

    Single words in eight languages, from different voices, rooms and microphones, joined to utterances of up
    to five seconds. Between two words lies a quarter of a second of noise with the spectrum and level of
    their own backgrounds, cross-faded: digital silence would be nothing that was recorded, and would
    dominate distances between logarithmic spectra.

    The result holds ``{language}/utt{number}.flac`` (mono, 16 bit, -26 dBFS, four per language), ``test.txt``
    that lists them, ``ATTRIBUTION.md``, ``LICENSES/`` and ``SHA256SUMS``. Figures compare only between
    folders made of the same version of the package, which ``ATTRIBUTION.md`` names. As with
    :func:`mmdiff.audio.datasets.fetch.fetch_debian_speech`, a finished folder is returned as it is, and an interrupted
    run goes on from its ``.partial`` folder.

    Parameters
    ----------
    folder : str | Path
        Where the dataset goes; must not exist, be empty, or be what an earlier call made.
    debs : str | Path | None
        Folder that already holds ``ktuberling-data_*.deb``. None downloads it with ``apt-get download``
        (47 MB).
    progress : bool
        Show a progress bar.

    Returns
    -------
    Path
        The finished folder.

    Raises
    ------
    InputError
        The package or a tool is missing, the package holds too few usable recordings, or the folder holds
        something else.

    Examples
    --------
    >>> folder = fetch_outside_speech("data/outside-16k")
    """

    def write_all(unpacked: Path, partial: Path) -> None:
        names = list(_write_utterances(unpacked / "usr/share/ktuberling/sounds", partial, progress))
        if not names:
            raise InputError(
                f"{PACKAGE} has no language with {FEWEST} usable recordings: try another version"
            )
        (partial / "test.txt").write_text("".join(f"{name}\n" for name in names), encoding="utf-8")

    what = f"the speech of {PACKAGE}"
    return debian.build_folder(folder, what, PACKAGE, {PACKAGE: SOURCE}, INTRODUCTION, write_all, debs)


def _write_utterances(sounds: Path, out: Path, progress: bool) -> Iterator[str]:
    """Write what every language has to offer; yield the names relative to ``out``."""
    candidates = {place.name: _candidates(place) for place in sorted(sounds.iterdir()) if place.is_dir()}
    languages = [language for language, files in candidates.items() if len(files) >= FEWEST]
    for language in track(languages, "Joining words", disable=not progress):
        words = [word for word in map(_word, candidates[language]) if word is not None]
        if len(words) < FEWEST:
            continue
        utterances = group(words)
        count = min(UTTERANCES, len(utterances))
        for number in range(count):
            name = f"{language}/utt{number + 1:02}.flac"
            if not (out / name).exists():
                (out / language).mkdir(exist_ok=True)
                chosen = utterances[int((number + 0.5) * len(utterances) / count)]
                generator = torch.Generator().manual_seed(number)
                write(out / name, _levelled(join(chosen, generator)), SAMPLE_RATE)
            yield name


def _candidates(place: Path) -> list[Path]:
    """List a language's recordings of sufficient rate and useful length, each of them once."""
    found: dict[bytes, Path] = {}
    shortest, longest = WORD_SECONDS
    for path in sorted(path for path in place.iterdir() if path.suffix in SUFFIXES):
        about = info(path)
        if about.sample_rate >= SOURCE_RATE and shortest <= about.seconds <= longest:
            found.setdefault(hashlib.sha256(path.read_bytes()).digest(), path)
    return list(found.values())


def _word(path: Path) -> Tensor | None:
    """Read a recording as (samples,) at 16 kHz; None if it is not fit to be heard as a reference."""
    wave, rate = read(path, mono=False)
    if not QUIETEST <= wave.abs().max() < LOUDEST:  # in every channel, before a mean of two hides clipping
        return None
    word = resample(wave.mean(0), rate, SAMPLE_RATE)
    background, level = _levels(word).min(), 10 * word.square().mean().log10()
    clear = LEAST_BACKGROUND <= background <= level - LEAST_CLEARANCE
    return _trimmed(word) if clear and treble(word) >= LEAST_TREBLE else None


def _frames(word: Tensor, size: int = FRAME) -> Tensor:
    return word.unfold(-1, size, size // 2)


def _levels(word: Tensor) -> Tensor:
    """Return the level of every frame, dBFS."""
    return 10 * _frames(word).square().mean(-1).clamp_min(1e-12).log10()


def _trimmed(word: Tensor) -> Tensor:
    levels = _levels(word)
    over_quietest, over_loudest = WORD_ABOVE
    threshold = max(float(levels.min()) + over_quietest, float(levels.max()) + over_loudest)
    spoken = (levels >= threshold).nonzero().flatten() * (FRAME // 2)
    return word[max(0, int(spoken[0]) - MARGIN) : int(spoken[-1]) + FRAME + MARGIN]


def treble(word: Tensor) -> float:
    """Measure what a recording has at 7 kHz, where upsampled telephone sound has nothing.

    Vowels have little there in any recording, therefore the frames count that have most: fricatives and
    breaths. Clicks reach everywhere but are short, therefore only what lasts for 36 ms counts.

    Parameters
    ----------
    word : Tensor, shape (samples,)
        Sound at 16 kHz, 36 ms or longer.

    Returns
    -------
    float, dB
        Share of energy from 7 to 7.5 kHz, exceeded in a tenth of the frames within 40 dB of the loudest one.
    """
    size, lasting = 128, 9  # frames of 8 ms, half overlapping
    power = torch.fft.rfft(_frames(word, size) * torch.hann_window(size)).abs().square()
    total = power.sum(-1)
    low, high = (edge * size // SAMPLE_RATE for edge in TREBLE)
    band = power[:, low:high].sum(-1)
    lasts = -torch.nn.functional.max_pool1d(-band[None], lasting, 1, lasting // 2)[0]
    share = (lasts / total.clamp_min(1e-20))[total >= 1e-4 * total.max()]
    return 10 * math.log10(max(float(share.quantile(0.9)), 1e-20))


def group(words: list[Tensor]) -> list[list[Tensor]]:
    """Divide words into utterances, in order, as many as fit into five seconds; leave out those too short."""
    shortest, longest = UTTERANCE_SECONDS
    utterances: list[list[Tensor]] = []
    length = math.inf
    for word in words:
        if length + len(word) + GAP > longest * SAMPLE_RATE:
            utterances.append([])
            length = 0
        utterances[-1].append(word)
        length += len(word) + GAP
    return [u for u in utterances if sum(len(word) + GAP for word in u) >= shortest * SAMPLE_RATE]


def join(words: list[Tensor], generator: torch.Generator) -> Tensor:
    """Join words with a quarter of a second of their own background between them, half of it at the ends.

    Every word is continued to both sides by noise like its background; neighbours overlap there, one fading
    out while the other fades in, with constant power.

    Parameters
    ----------
    words : list of Tensor, shape (samples,)
        Sound at 16 kHz.
    generator : torch.Generator
        For the noise.

    Returns
    -------
    Tensor, shape (sum of (samples + GAP),)
    """
    ramp = torch.sin(torch.linspace(0, math.pi / 2, GAP))
    joined = torch.zeros(GAP + sum(len(word) + GAP for word in words))
    start = 0
    for word in words:
        continued = _continued(word, generator)
        continued[:GAP] *= ramp
        continued[-GAP:] *= ramp.flip(0)
        joined[start : start + len(continued)] += continued
        start += len(word) + GAP
    return joined[GAP // 2 : -(GAP // 2)]


def _continued(word: Tensor, generator: torch.Generator) -> Tensor:
    """Lengthen a word by GAP on both sides, with white noise filtered by its quietest frame."""
    frames = _frames(word)
    quietest = frames[frames.square().mean(-1).argmin()]
    length = len(word) + 2 * GAP
    white = torch.randn(length + FRAME, generator=generator)
    spectrum = torch.fft.rfft(white) * torch.fft.rfft(quietest * torch.hann_window(FRAME), length + FRAME)
    noise = torch.fft.irfft(spectrum, length + FRAME)[:length]
    noise *= quietest.square().mean().sqrt() / noise.square().mean().sqrt().clamp_min(1e-12)
    inside = (torch.arange(length) - GAP).minimum(GAP + len(word) - 1 - torch.arange(length))
    angle = (inside / FADE).clamp(0, 1) * (math.pi / 2)
    padded = torch.nn.functional.pad(word, (GAP, GAP))
    continued: Tensor = angle.sin() * padded + angle.cos() * noise
    return continued


def _levelled(wave: Tensor) -> Tensor:
    gain = 10 ** (LEVEL / 20) / float(wave.square().mean().sqrt())
    return wave * min(gain, PEAK / float(wave.abs().max()))

"""``mmdiff evaluate``: measures of quality, of a model or of files."""

from __future__ import annotations

from typing import Any, Literal

import mmdiff
from mmdiff.commands.report import check_report
from mmdiff.errors import InputError


def evaluate(
    reference: str | None = None,
    estimate: str | None = None,
    *,
    model: str = "vocoder-16k",
    split: str | None = None,
    steps: list[int] = [],  # noqa: B006, read only
    mel_presets: list[str] = [],  # noqa: B006
    seeds: int | None = None,
    measures: list[str] = [],  # noqa: B006
    limit: int | None = None,
    no_baselines: bool = False,
    lookaheads: list[int] = [],  # noqa: B006
    block: int | None = None,
    captions: Literal["crossed", "held-out", "none"] | None = None,
    num: int | None = None,
    seed: int | None = None,
    sampler: str | None = None,
    guidance: float | None = None,
    features: str | None = None,
    edits: bool = False,
    likelihood: bool = False,
    device: str | None = None,
    dtype: str = "auto",
    out: str | None = None,
    json: bool = False,
) -> int:
    """Measure a model, beside real sound or clips and what needs no model; or given sound files.

    Vocoders: how close copy-synthesis comes to recordings, beside Griffin-Lim from the same spectrogram, the
    model's pipeline without its network, and with zero noise. It runs on one thread. The table has the mean of
    each measure, the real-time factor (RTF) and the diversity: the log-spectral distance in dB between two
    seeds' results.

    Models of spoken digits: what a recogniser hears of them; with the folder of "mmdiff fetch digits-16k", beside
    recordings of voices that neither has heard and variations of the training recordings, with distances between
    the distributions, and whether the model repeats its training recordings.

    Models of clips: without a reference, moving digits made of captions, judged frame by frame beside real clips
    of the same captions; with a folder of videos, the loss on them, distances between the distributions, and
    prediction of what follows; with --edits, filling in what is missing of real clips, by each way the model
    has, beside copying, blending and black. Intervals are of 95 %; arrows point to what is better.

    With --likelihood, of models of clips, of sound or spectrograms, and of vocoders that diffuse waveforms: how many
    bits per dimension the model needs for files, by the variational bound, and how a second folder ranks beside the
    first, of what it was trained on; models of moving digits have those for their first set.

    Parameters
    ----------
    reference : str, optional
        Recordings: a file, a folder, or a manifest (one path per line). For a model of clips: videos.
    estimate : str, optional
        Sound file or folder of the same names to measure, instead of a model; with --likelihood, other files.
    model : str
        Shipped model, model folder, or Hugging Face hub id; its kind decides what is measured.
    split : str, optional
        Part of the recordings or videos that is named so in the folder: test, for test.txt or test/.
    steps : list of int, optional
        Numbers of network evaluations, or sampler's steps, to try. Default: 1 2 4 8; for clips, and for generators
        of reverse steps, the model's own.
    mel_presets : list of str, optional
        Vocoders: also give them spectrograms of these definitions, at the default number of steps; "all" for all.
    seeds : int, optional
        Vocoders: how many seeds (0, 1, ...) to average over. Default: 2.
    measures : list of str, optional
        Sound: pesq, stoi, log_mel_l1, mcd, lsd, mr_stft (these are the default), si_sdr, f0_error, voicing_error, wer.
    limit : int, optional
        Use only so many recordings, evenly spaced in the list; or captions; or clips (default: 16 of a folder,
        8 with --edits).
    no_baselines : bool
        Vocoders: leave out what needs no model.
    lookaheads : list of int, optional
        Vocoders: also make the sound as Vocoder.stream does of frames that come one by one, hearing so many beyond
        what is given out; the table then has the latency and the time that computing a block takes.
    block : int, optional
        Vocoders: frames given out together with --lookaheads. Default: 4.
    captions : str, optional
        Moving digits: "crossed", all 300 (default), or "held-out", the 30 that training leaves out. With --edits
        the model is told nothing unless one of them is given; of a folder's captions it is told unless this is
        "none".
    num : int, optional
        Moving digits: clips for each caption. Default: 1; 10 for held-out captions. Spoken digits: sounds of each
        label. Default: 4.
    seed : int, optional
        Clips and --edits: of the first one's noise; the next has the next number. Default: 0.
    sampler : str, optional
        Clips and --edits: sampler by name; default: the model's.
    guidance : float, optional
        Clips: how closely to follow the caption; default: the model's.
    features : str, optional
        Clips: network for distances between distributions: judge (of moving digits, and their default),
        torchvision:NAME such as torchvision:r3d_18, or a TorchScript file such as the published I3D. Spoken
        digits: the recogniser, word-judge or a folder of the recipe word_judge.
    edits : bool
        Clips: measure prediction, interpolation, in- and outpainting, and upsampling in space and time. Sound: gaps,
        continuation, a doubled rate and declipping of the first 4 s of recordings, by vocoders gaps alone; by models
        of spectrograms gaps, the second half and the doubled rate, told what the recordings of "mmdiff fetch
        digits-16k" say.
    likelihood : bool
        Measure bits per dimension of files: of "reference" and, as files of another kind, "estimate"; 16 of each unless
        --limit says more; --split is of the first. --steps is the number of evaluations for a file's estimate.
        Default: 16.
    device : str, optional
        As for "mmdiff vocode".
    dtype : str
        As for "mmdiff vocode".
    out : str, optional
        File for the results: .json for all numbers, of sound those of each recording among them, or .md for
        the table.
    json : bool
        Print one JSON object for each system or file instead of a table.

    Examples
    --------
    mmdiff evaluate recordings/ --limit 20
    mmdiff evaluate data/speech-16k --split test --mel-presets all -o results.json
    mmdiff evaluate recordings/ --steps 2 --lookaheads 2 4 8 16 --no-baselines
    mmdiff evaluate recordings/ recordings.vocoded/ --measures pesq stoi f0_error
    mmdiff evaluate recordings/ --edits --limit 8
    mmdiff evaluate data/digits-16k --split test --edits --model digits-16k
    mmdiff evaluate data/digits-16k --model runs/digits-16k/model
    mmdiff evaluate --model clips-32 -o results.md
    mmdiff evaluate --model clips-32 --captions held-out --steps 10 20 -o results.json
    mmdiff evaluate --model clips-32 --edits --limit 32
    mmdiff evaluate videos/ --model clips-32 --edits --captions none
    mmdiff evaluate videos/ --split test --model runs/folder/model --features torchvision:r3d_18
    mmdiff evaluate videos/ --model clips-32 --likelihood --limit 8
    mmdiff evaluate data/digits-16k data/speech-16k --model digits-16k --likelihood -o bits.json
    """
    check_report(out)
    if seed is not None and not 0 <= seed < 2**62:
        raise InputError(f"seed={seed} must be a whole number from 0 to 2^62")
    asked: dict[str, Any] = {
        "reference": reference,
        "estimate": estimate,
        "model": model,
        "split": split,
        "steps": steps,
        "limit": limit,
        "mel_presets": mel_presets,
        "seeds": seeds,
        "measures": measures,
        "no_baselines": no_baselines,
        "lookaheads": lookaheads,
        "block": block,
        "captions": captions,
        "num": num,
        "seed": seed,
        "sampler": sampler,
        "guidance": guidance,
        "features": features,
        "edits": edits,
        "likelihood": likelihood,
        "out": out,
        "json": json,
    }
    if likelihood:
        from mmdiff.commands.evaluate_likelihood import evaluate_likelihood

        return evaluate_likelihood(mmdiff.load(model, device, dtype), asked)
    if estimate is not None:
        from mmdiff.commands.evaluate_sound import evaluate_sound_files

        return evaluate_sound_files(asked)
    from mmdiff.commands.pipelines import evaluate_pipeline

    return evaluate_pipeline(mmdiff.load(model, device, dtype), asked)

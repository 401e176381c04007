from __future__ import annotations

import importlib.util
import json
from dataclasses import replace

import librosa
import numpy as np
import pytest
import torch
import torchaudio
from torch import Tensor
from vocos.feature_extractors import MelSpectrogramFeatures

from mmdiff.audio.mel import PRESETS, MelSpec, preset, preset_name, with_log
from mmdiff.audio.mel.check import check
from mmdiff.audio.mel.identify import identify
from mmdiff.audio.resampling import resample
from mmdiff.errors import InputError
from mmdiff.registry import from_config, to_config

INSTALLED = [name for name in ("wavegrad", "diffwave", "speechbrain") if importlib.util.find_spec(name)]


def hifigan(wave: Tensor, rate: int, n_mels: int, f_max: float) -> Tensor:
    """HiFi-GAN's mel_spectrogram, which BigVGAN kept."""
    side = (1024 - 256) // 2
    padded = torch.nn.functional.pad(wave[:, None], (side, side), mode="reflect")[:, 0]
    window = torch.hann_window(1024, dtype=wave.dtype)
    spectrum = torch.stft(padded, 1024, 256, 1024, window, center=False, return_complex=True)
    magnitude = (spectrum.real**2 + spectrum.imag**2 + 1e-9).sqrt()
    basis = librosa.filters.mel(sr=rate, n_fft=1024, n_mels=n_mels, fmin=0, fmax=f_max)
    return (torch.from_numpy(basis).to(wave.dtype) @ magnitude).clamp_min(1e-5).log()


def lmnt(wave: Tensor, rate: int, n_fft: int, hop: int, n_mels: int, **filters) -> Tensor:
    """WaveGrad's and DiffWave's preprocess.py: torchaudio with these arguments, then normalised decibels."""
    sizes = {"n_fft": n_fft, "win_length": 4 * hop, "hop_length": hop, "n_mels": n_mels}
    mel = torchaudio.transforms.MelSpectrogram(
        rate, f_min=20.0, f_max=rate / 2, power=1.0, normalized=True, **sizes, **filters
    )
    decibels = 20 * mel.to(wave.dtype)(wave).clamp_min(1e-5).log10() - 20
    return ((decibels + 100) / 100).clamp(0, 1)


def speechbrain(wave: Tensor) -> Tensor:
    """SpeechBrain's mel_spectrogram with the arguments of its LJSpeech recipes."""
    sizes = {"n_fft": 1024, "win_length": 1024, "hop_length": 256, "n_mels": 80}
    kind = {"f_min": 0.0, "f_max": 8000.0, "power": 1, "norm": "slaney", "mel_scale": "slaney"}
    mel = torchaudio.transforms.MelSpectrogram(22_050, normalized=False, **sizes, **kind)
    return mel.to(wave.dtype)(wave).clamp_min(1e-5).log()


def librosa_log(wave: Tensor, spec: MelSpec) -> Tensor:
    sizes = {"n_fft": spec.n_fft, "hop_length": spec.hop_length, "n_mels": spec.n_mels, "fmax": spec.f_max}
    bands = librosa.feature.melspectrogram(
        y=wave.double().numpy(), sr=spec.sample_rate, power=1.0, pad_mode="reflect", **sizes
    )
    return torch.from_numpy(np.log(np.maximum(bands, 1e-5))).to(wave.dtype)


ORIGINS = {
    "mmdiff-16k": lambda wave: librosa_log(wave, PRESETS["mmdiff-16k"]),
    "mmdiff-44k": lambda wave: librosa_log(wave, PRESETS["mmdiff-44k"]),
    "hifigan-22k": lambda wave: hifigan(wave, 22_050, 80, 8000),
    "bigvgan-24k-100": lambda wave: hifigan(wave, 24_000, 100, 12_000),
    "vocos-24k-100": lambda wave: MelSpectrogramFeatures().to(wave.dtype)(wave),
    "lmnt-wavegrad-22k": lambda wave: lmnt(wave, 22_050, 2048, 300, 128),
    "lmnt-wavegrad-24k": lambda wave: lmnt(wave, 24_000, 2048, 300, 128, norm="slaney", mel_scale="slaney"),
    "lmnt-diffwave-22k": lambda wave: lmnt(wave, 22_050, 1024, 256, 80),
    "speechbrain": speechbrain,
}


@pytest.fixture(params=PRESETS)
def name(request) -> str:
    return request.param


def analysed(wave: Tensor, spec: MelSpec) -> Tensor:
    return spec(resample(wave, 16_000, spec.sample_rate))


# --- agreement with the origins -------------------------------------------------------------------------------


def test_every_preset_has_an_origin():
    assert set(ORIGINS) == set(PRESETS)


@pytest.mark.parametrize("cut", [0, 1, 137])
def test_presets_agree_with_their_origins_on_speech(english, name, cut):
    spec = PRESETS[name]
    wave = resample(english, 16_000, spec.sample_rate)[:, cut // 2 :]
    wave = wave[:, : wave.shape[1] - cut]
    if name.startswith(
        "mmdiff"
    ):  # librosa sums in another order, which 16 bits of float at -100 dB would show
        wave = wave.double()
    torch.testing.assert_close(spec(wave), ORIGINS[name](wave), atol=1e-4, rtol=0)


@pytest.mark.parametrize("samples", [4096, 5001, 7777])
def test_presets_agree_with_their_origins_on_tones_and_clicks_in_noise(name, samples):
    spec = PRESETS[name]
    time = torch.arange(samples, dtype=torch.float64) / spec.sample_rate
    wave = 0.5 * torch.sin(2 * torch.pi * 440 * time) + 0.3 * torch.sin(2 * torch.pi * 3333 * time)
    wave[samples // 2] = 0.9
    noise = torch.randn(2, samples, dtype=torch.float64, generator=torch.Generator().manual_seed(samples))
    wave = wave + 1e-2 * noise  # covers what torchaudio's float32 window leaks
    torch.testing.assert_close(spec(wave), ORIGINS[name](wave).double(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("package", INSTALLED)
def test_presets_agree_with_the_packages_themselves(english, package, tmp_path, monkeypatch):
    """Run each project's own code where it is installed; its published arguments are always tested above."""
    wave = resample(english, 16_000, 22_050)
    if package == "speechbrain":
        from speechbrain.lobes.models.HifiGAN import mel_spectrogram

        published = (22_050, 256, 1024, 1024, 80, 0.0, 8000.0, 1, False, "slaney", "slaney", True)
        theirs, ours = mel_spectrogram(*published, wave), PRESETS["speechbrain"](wave)
    else:
        preprocess = importlib.import_module(f"{package}.preprocess")
        monkeypatch.setattr(torchaudio, "load", lambda path: (wave, 22_050))
        monkeypatch.setattr(torchaudio, "load_wav", lambda path: (wave * 32_767.5, 22_050), raising=False)
        preprocess.transform(str(tmp_path / "clip.wav"))
        theirs = torch.from_numpy(np.load(tmp_path / "clip.wav.spec.npy"))[None]
        ours = PRESETS[f"lmnt-{package}-22k"](wave)
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


# --- the value itself -----------------------------------------------------------------------------------------


def test_definitions_survive_json(name):
    spec = PRESETS[name]
    assert from_config(json.loads(json.dumps(to_config(spec)))) == spec
    assert hash(replace(spec, clip=[0.0, 1.0])) == hash(replace(spec, clip=(0.0, 1.0)))


def test_frame_counts_are_those_of_the_analysis(name):
    spec = PRESETS[name]
    for samples in (1200, 2048, 4801, 5000):
        frames = spec(torch.zeros(1, samples)).shape[-1]
        assert spec.frames(samples) == frames
        assert 0 <= samples - spec.samples(frames) < spec.hop_length


def test_frame_centres_are_where_a_click_peaks(name):
    spec = PRESETS[name]
    wave = torch.zeros(1, 20 * spec.hop_length)
    frame = 9
    centre = round(float(spec.frame_seconds(20)[frame]) * spec.sample_rate)
    wave[0, centre] = 1.0
    assert int(spec(wave)[0].sum(0).argmax()) == frame


def test_compress_and_expand_are_inverse_above_the_floor(name):
    spec = PRESETS[name]
    bands = torch.logspace(-3, 0.9, 50, dtype=torch.float64)
    torch.testing.assert_close(spec.expand(spec.compress(bands)), bands)


def test_silence_gives_the_lowest_value_and_no_wave_exceeds_the_highest(name):
    spec = PRESETS[name]
    assert spec(torch.zeros(1, 4096)).unique().tolist() == pytest.approx([spec.lowest_value])
    time = torch.arange(8192) / spec.sample_rate
    noise = torch.rand(8192, generator=torch.Generator().manual_seed(0))
    loud = torch.stack([torch.sin(2 * torch.pi * f * time).sign() for f in (60, 500, 4000)] + [noise.round()])
    mel = spec(loud)
    assert float(mel.max()) <= spec.highest_value
    assert float(spec.expand(mel).sum(1).max()) <= spec.loudest_frame


def test_filters_at_other_frequencies_are_the_same_triangles(name):
    spec = PRESETS[name]
    bins = torch.arange(spec.n_fft // 2 + 1, dtype=torch.float64) * spec.sample_rate / spec.n_fft
    torch.testing.assert_close(spec.filters_at(bins), spec.filterbank())
    fine = torch.arange(0, spec.sample_rate / 2, 0.5, dtype=torch.float64)
    if spec.norm == "slaney":
        torch.testing.assert_close(
            spec.filters_at(fine).sum(1) * 0.5, torch.ones(spec.n_mels), rtol=2e-3, atol=0
        )


def test_analysis_is_differentiable_also_after_use_in_inference_mode():
    spec = MelSpec(n_fft=64, win_length=48, hop_length=16, n_mels=5)
    with torch.inference_mode():
        spec(torch.zeros(1, 200))
    wave = torch.randn(
        1, 200, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True
    )
    assert torch.autograd.gradcheck(spec, (wave,))


def test_logarithms_differ_by_their_definitions(english):
    spec = PRESETS["hifigan-22k"]
    ln = analysed(english, spec)
    torch.testing.assert_close(analysed(english, with_log(spec, "log10")), ln / np.log(10))
    decibels = torch.from_numpy(librosa.amplitude_to_db(ln.exp().numpy(), amin=1e-5, top_db=None))
    torch.testing.assert_close(analysed(english, with_log(spec, "db")), decibels, atol=1e-3, rtol=0)
    power = replace(spec, power=2.0, floor=1e-10)
    powers = power.expand(analysed(english, power)).numpy()
    decibels = torch.from_numpy(librosa.power_to_db(powers, amin=1e-10, top_db=None))
    torch.testing.assert_close(analysed(english, with_log(power, "db")), decibels, atol=1e-3, rtol=0)
    normalised = PRESETS["lmnt-diffwave-22k"]
    round_trip = with_log(with_log(normalised, "ln"), "lmnt")
    torch.testing.assert_close(analysed(english, round_trip), analysed(english, normalised))


def test_presets_are_found_by_name_alias_and_logarithm(name):
    assert preset(name) is PRESETS[name]
    assert preset_name(PRESETS[name]) == name
    assert preset_name(with_log(PRESETS[name], "db")) == f"{name}:db"
    assert preset("matcha:log10") == with_log(PRESETS["hifigan-22k"], "log10")
    assert preset_name(MelSpec(n_mels=7)) is None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: preset("hifi"), r"preset='hifi' must be one of mmdiff-16k"),
        (lambda: preset("vocos-24k-100:lg"), r"logarithm='lg' must be one of ln"),
        (lambda: MelSpec(f_max=9000.0), r"f_max=9000.0 must satisfy"),
        (lambda: MelSpec(win_length=2048), r"win_length=2048"),
        (lambda: MelSpec(power=3.0), r"power=3.0 must be 1 or 2"),
        (lambda: MelSpec(floor=float("nan")), r"floor=nan"),
        (lambda: MelSpec(mel_scale="bark"), r"mel_scale='bark' must be slaney or htk"),
        (lambda: MelSpec(clip=(1.0, 0.0)), r"clip=\(1.0, 0.0\) must be"),
        (lambda: MelSpec()(torch.zeros(100)), r"\(100,\).* must be .*\(B, samples\)"),
        (lambda: MelSpec()(torch.zeros(1, 100, dtype=torch.int16)), r"int16"),
        (lambda: PRESETS["hifigan-22k"](torch.zeros(1, 99)), r"samples=99 is too short"),
    ],
)
def test_impossible_definitions_and_sounds_are_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()


# --- identification -------------------------------------------------------------------------------------------

FAMILIES = {
    n: {"mmdiff-16k", "hifigan-22k", "speechbrain"} for n in ("mmdiff-16k", "hifigan-22k", "speechbrain")
}


@pytest.mark.parametrize("flipped", [False, True])
def test_presets_are_identified_on_speech(speech, name, flipped):
    mel = analysed(speech, PRESETS[name])
    guess = identify(mel.mT if flipped else mel)[0]
    family = FAMILIES.get(name, {name})
    assert guess.name in family
    assert (guess.scale, guess.transposed) == ("preset", flipped)
    assert sum(g.score for g in identify(mel) if g.name in family and g.scale == "preset") > 0.5
    if len(family) > 1:
        assert all(other in guess.reasons[-1] for other in family - {guess.name})


@pytest.mark.parametrize("name", ["hifigan-22k", "bigvgan-24k-100", "mmdiff-44k"])
@pytest.mark.parametrize("scale", ["log10", "db", "linear", "standardised", "db_below_peak"])
def test_other_scales_are_identified_on_speech(speech, name, scale):
    guess = identify(in_scale(analysed(speech, PRESETS[name]), scale))[0]
    assert guess.scale == scale
    assert PRESETS[guess.name].n_mels == PRESETS[name].n_mels


def in_scale(mel: Tensor, scale: str) -> Tensor:
    """Natural logarithms in a foreign scale."""
    decibels = 20 / np.log(10) * mel
    return {
        "log10": mel / np.log(10),
        "db": decibels,
        "linear": mel.exp(),
        "standardised": (mel - mel.mean()) / mel.std(),
        "db_below_peak": (decibels - decibels.max()).clamp_min(-80),
    }[scale]


def test_no_preset_has_seven_bands():
    assert identify(torch.zeros(1, 7, 9)) == []


# --- checks ---------------------------------------------------------------------------------------------------


def sounds(english: Tensor) -> dict[str, Tensor]:
    """What a microphone, a synthesiser or a broken cable can give; none of it may be refused."""
    generator = torch.Generator().manual_seed(0)
    time = torch.arange(16_000) / 16_000
    noise = torch.randn(1, 16_000, generator=generator)
    tail = torch.randn(1, 4000, generator=generator) * torch.exp(-torch.arange(4000) / 1000)
    reverberant = torchaudio.functional.fftconvolve(english, tail)
    return {
        "speech": english,
        "quiet speech": 0.003 * english,
        "clipped speech": (20 * english).clamp(-1, 1),
        "speech in noise": 0.8 * english + 0.05 * torch.randn(english.shape, generator=generator),
        "telephone speech": torchaudio.functional.lowpass_biquad(english, 16_000, 3000),
        "reverberant speech": reverberant / reverberant.abs().max(),
        "a syllable": english[:, 16_000:20_000],
        "noise": 0.2 * noise,
        "faint noise": 1e-4 * noise,
        "brown noise": noise.cumsum(1) / noise.cumsum(1).abs().max(),
        "a tone": torch.sin(2 * torch.pi * 440 * time)[None],
        "a chirp": 0.5 * torch.sin(2 * torch.pi * (100 + 3000 * time) * time)[None],
        "a square wave": torch.sin(2 * torch.pi * 200 * time).sign()[None],
        "a click": (torch.arange(16_000) == 8000).float()[None],
        "silence": torch.zeros(1, 16_000),
    }


def test_honest_spectrograms_pass_unchanged(english, name):
    spec = PRESETS[name]
    for kind, wave in sounds(english).items():
        mel = analysed(wave, spec)
        assert torch.equal(check(mel, spec).mel, mel), kind


def test_smooth_predictions_pass(speech, name):
    """Text-to-speech predicts blurred spectrograms that stray a little below the floor."""
    spec = PRESETS[name]
    mel = torch.nn.functional.avg_pool1d(analysed(speech, spec), 3, 1, 1)
    stray = mel - 0.3 * spec.gain * (mel < spec.lowest_value + spec.gain)
    checked = check(stray, spec)
    assert float(checked.mel.min()) >= spec.lowest_value - 1e-6
    assert not any("although" in note for note in checked.notes)


def test_harmless_differences_are_mended_and_told(english):
    spec = PRESETS["hifigan-22k"]
    mel = analysed(english, spec)
    checked = check(mel[0].mT.double().numpy(), spec)
    torch.testing.assert_close(checked.mel, mel)
    assert [note.split()[0] for note in checked.notes] == ["changed", "added", "transposed"]
    assert torch.equal(check(mel[:, None], spec).mel, mel)
    padded = check(torch.nn.functional.pad(mel, (0, 5)), spec)
    assert torch.equal(padded.mel[..., -5:], torch.full((1, 80, 5), spec.lowest_value))
    assert "5 frames are 0 in every band" in padded.notes[0]


@pytest.mark.parametrize("name", ["hifigan-22k", "vocos-24k-100", "mmdiff-44k", "mmdiff-16k"])
@pytest.mark.parametrize("scale", ["db", "linear", "db_below_peak"])
def test_foreign_scales_are_refused_with_the_way_out(speech, name, scale):
    mel = in_scale(analysed(speech, PRESETS[name]), scale)
    way = f"mel_spec='{name}:db'" if scale == "db" else f"rebase\\(mel, '{scale}'"
    with pytest.raises(InputError, match=way):
        check(mel, PRESETS[name])


@pytest.mark.parametrize("name", ["hifigan-22k", "bigvgan-24k-100", "mmdiff-44k", "mmdiff-16k"])
@pytest.mark.parametrize("scale", ["log10", "standardised"])
def test_subtle_scales_are_refused_or_at_least_told(speech, name, scale):
    """They shrink everything that is seen by 2.2, which noise and blur can do as well: hence the notes."""
    mel = in_scale(analysed(speech, PRESETS[name]), scale)
    try:
        said = check(mel, PRESETS[name]).notes[0]
    except InputError as error:
        said = str(error)
    assert {"log10": f"mel_spec='{name}:log10'", "standardised": "rebase(mel, 'standardised'"}[scale] in said
    assert f"used the values as {name}" in check(mel, PRESETS[name], declared=True).notes[0]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("vocos-24k-100", "hifigan-22k"),
        ("lmnt-diffwave-22k", "hifigan-22k"),
        ("bigvgan-24k-100", "vocos-24k-100"),
        ("mmdiff-44k", "lmnt-wavegrad-24k"),
        ("lmnt-wavegrad-22k", "mmdiff-16k"),
    ],
)
def test_spectrograms_of_another_model_are_named(speech, given, expected):
    with pytest.raises(InputError, match=f"look like {given} .*mel_spec='{given}'"):
        check(analysed(speech, PRESETS[given]), PRESETS[expected])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda mel: mel.index_fill(2, torch.tensor([3]), torch.nan),
            r"80 values .* not finite, the first nan in item 0, band 0, frame 3",
        ),
        (
            lambda mel: mel.index_fill(1, torch.tensor([2]), -torch.inf),
            r"-inf is the logarithm of zero: .*floor=1e-05.* -11.51",
        ),
        (lambda mel: mel + 0j, r"complex64 must be real"),
        (lambda mel: mel.round().byte(), r"uint8 must be real and floating point"),
        (lambda mel: mel[..., :0], r"\(1, 80, 0\) must not be empty"),
        (lambda mel: mel[0, 0], r"must be \(B, n_mels, frames\)"),
        (lambda mel: mel[:, :77], r"must have n_mels=80 bands, as hifigan-22k has; no preset fits"),
        (lambda mel: mel.mT[:, :100], r"either axis could be the bands"),
        (lambda mel: mel + 20, r"must follow hifigan-22k, whose values lie between -11.51 and 2.97"),
        (lambda mel: mel - 20, r"must follow hifigan-22k"),
    ],
)
def test_what_cannot_be_mended_is_refused(english, spoil, message):
    with pytest.raises(InputError, match=message):
        check(spoil(analysed(english, PRESETS["hifigan-22k"])), PRESETS["hifigan-22k"])

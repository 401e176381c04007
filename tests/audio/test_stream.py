"""Streams of sound: the same whatever the pieces, as long as the whole, and nearer to it with more look-ahead."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from tiny_vocoders import SHORT, diffwave
from torch import Tensor

import mmdiff
from mmdiff.audio.magnitude import MagnitudeNet
from mmdiff.audio.mel import MelSpec, preset
from mmdiff.audio.phase import PhaseNet, griffin_lim, single_pass_phase
from mmdiff.audio.prior import bands_on_grid, frames_for
from mmdiff.audio.spectral import SpectralVocoder
from mmdiff.audio.stft import Stft
from mmdiff.audio.stream import VocoderStream, whole_length
from mmdiff.audio.vocoder import Vocoder
from mmdiff.errors import InputError

STFT, MEL = Stft(), preset("mmdiff-16k")


def spectral() -> Vocoder:
    torch.manual_seed(0)
    networks = (net(STFT, channels=8, depth=1) for net in (MagnitudeNet, PhaseNet))
    return Vocoder(SpectralVocoder(STFT, MEL, *networks, iterations=4).eval(), "cpu", "float32")


def waveform() -> Vocoder:
    return Vocoder(diffwave(), "cpu", "float32")


def speechlike(spec: MelSpec, frames: int, batch: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    wave = 0.1 * torch.randn(batch, frames * spec.hop_length, generator=generator)
    return spec(wave * torch.linspace(0, 30, wave.shape[1]).sin().square())[..., :frames]


def pushed(stream: VocoderStream, mel: Tensor, sizes: list[int]) -> Tensor:
    pieces = mel.split([*sizes, mel.shape[-1] - sum(sizes)], -1)
    return torch.cat([*(stream.push(piece) for piece in pieces), stream.flush()], -1)


def blocks(model: SpectralVocoder, spec: MelSpec, mel: Tensor, seeds: list[int]) -> Tensor:
    """Sound of a stream in the model's own dtype; what users push is float32."""
    maker = model.block_maker(
        spec, steps=2, grid=model.grid(2), sampler="ddim", temperature=1.0, lookahead=4, block=3
    )
    made = []
    with torch.inference_mode():
        while maker.span[1] <= mel.shape[-1]:
            made.append(maker(mel[..., slice(*maker.span)], seeds))
        rest = mel[..., maker.span[0] :]
        made.append(maker(rest, seeds, whole_length(spec, mel.shape[-1], model.sample_rate)))
    return torch.cat(made, -1)


def distance(one: Tensor, other: Tensor) -> float:
    """Energy of the difference of two sounds, as part of the first one's."""
    return float((one - other).square().mean() / one.square().mean())


@pytest.mark.parametrize(
    ("build", "name"),
    [(spectral, "mmdiff-16k"), (spectral, "hifigan-22k"), (spectral, "lmnt-wavegrad-22k"), (waveform, None)],
)
def test_sound_is_the_same_however_the_frames_come_and_as_long_as_the_whole(build, name):
    voc = build()
    spec = preset(name) if name else SHORT
    mel = speechlike(spec, 30, batch=2)
    options = {"mel_spec": spec, "seed": [3, 8], "steps": 2}
    at_once = torch.cat(list(voc.stream(mel, block=3, **options)), -1)
    for sizes in ([1] * 29, [13, 1, 1]):
        assert torch.equal(pushed(voc.stream(block=3, **options), mel, sizes), at_once)
    assert at_once.shape == voc(mel, **options).shape
    alone = torch.cat(list(voc.stream(mel[1], block=3, **{**options, "seed": 8})), -1)
    # Batches of other sizes round otherwise, which phase retrieval magnifies: see the next test. Other noise gives 2.
    assert distance(alone, at_once[1:]) < (1e-2 if build is spectral else 1e-10)


@pytest.mark.parametrize("name", ["mmdiff-16k", "hifigan-22k", "lmnt-wavegrad-22k"])
def test_what_sounds_of_a_batch_differ_by_is_rounding(name):
    spec, model = preset(name), spectral().model.double()
    mel, seeds = speechlike(spec, 30, batch=2).double(), [3, 8]
    together = blocks(model, spec, mel, seeds)
    assert together.dtype == torch.float64
    for n in range(2):
        alone = blocks(model, spec, mel[n : n + 1], seeds[n : n + 1])
        # float64 rounds 2^29 times finer than float32, so that this bound is as 0.003 of the energy there
        assert distance(alone, together[n : n + 1]) < 1e-20
        assert distance(blocks(model, spec, mel[n : n + 1], [5]), alone) > 0.5


@pytest.mark.parametrize("name", ["mmdiff-16k", "hifigan-22k", "vocos-24k-100"])
@pytest.mark.parametrize(("lookahead", "block"), [(1, 1), (4, 3)])
def test_latency_is_how_long_samples_wait(name, lookahead, block):
    voc, spec = spectral(), preset(name)
    mel = speechlike(spec, 24)
    stream = voc.stream(mel_spec=spec, lookahead=lookahead, block=block, temperature=0.0, steps=1)
    waits, given = [], 0
    for n in range(24):
        given_before, given = given, given + stream.push(mel[..., n : n + 1]).shape[1]
        if given > given_before:  # the first of these samples has waited longest
            own = given_before / voc.sample_rate / spec.hop_seconds - (0.0 if spec.centred else 0.5)
            waits.append((n - own) * spec.hop_seconds)
    assert max(waits) <= stream.latency.seconds + 1e-9
    assert max(waits) > stream.latency.seconds - spec.hop_seconds
    assert stream.latency.frames == math.ceil(stream.latency.seconds / spec.hop_seconds - 1e-6)
    assert stream.latency.samples == round(stream.latency.seconds * 16_000)


def test_a_look_ahead_over_everything_gives_the_whole():
    for voc, mel in ((spectral(), speechlike(MEL, 20)), (waveform(), speechlike(SHORT, 20))):
        whole = voc(mel, seed=5, sampler="ddim", steps=3)
        torch.testing.assert_close(
            pushed(voc.stream(lookahead=20, seed=5, sampler="ddim", steps=3), mel, [9]), whole
        )


def test_more_look_ahead_comes_nearer_to_the_whole(english):
    voc = mmdiff.load("vocoder-16k", device="cpu", dtype="float32")
    mel = voc.mel(english[:, 4000:14_000], 16_000)
    whole = MEL(voc(mel))
    distances = []
    for lookahead in (1, 4, 12):
        made = torch.cat(list(voc.stream(mel, lookahead=lookahead)), -1)
        distances.append(float((MEL(made) - whole).abs().mean()))
    assert distances == sorted(distances, reverse=True)
    assert distances[-1] < 0.1 < 0.15 < distances[0]  # nepers


def test_waveform_windows_that_hear_all_they_can_agree_even_with_fresh_noise():
    voc, mel = waveform(), speechlike(SHORT, 40)
    reach = voc.model.network.reach * 3
    streams = [
        voc.stream(mel, lookahead=reach + n, block=4, seed=2, steps=3, sampler="ddpm") for n in (0, 5, 40)
    ]
    near, far, all_at_once = (torch.cat(list(stream), -1) for stream in streams)
    torch.testing.assert_close(near, far, atol=1e-5, rtol=0)
    torch.testing.assert_close(near, all_at_once, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["mmdiff-16k", "hifigan-22k", "lmnt-wavegrad-22k", "mmdiff-44k"])
def test_bands_of_a_window_are_those_of_the_whole(name):
    spec = preset(name)
    mel = speechlike(spec, 60)
    whole = bands_on_grid(mel, spec, STFT).values
    for first, last in ((0, 5), (11, 12), (17, 30)):
        low, high = frames_for(spec, STFT, first, last)
        part = bands_on_grid(mel[..., low:high], spec, STFT, last - first, first=first, offset=low)
        assert high <= 60
        assert torch.equal(part.values, whole[:, first:last])


def test_griffin_lim_keeps_what_is_held():
    spectrum = STFT(torch.randn(1, 256 * 12, generator=torch.Generator().manual_seed(0)))
    magnitude = spectrum.abs()
    start = single_pass_phase(magnitude, STFT)[0]
    found = griffin_lim(magnitude, start, STFT, 256 * 12, 20, held=spectrum[:, :9])
    free = griffin_lim(magnitude, start, STFT, 256 * 12, 20)
    assert torch.equal(found[:, :9], spectrum[:, :9])
    torch.testing.assert_close(found.abs(), magnitude)

    def error(estimate: Tensor) -> float:
        return float((estimate[:, 9] * spectrum[:, 9].conj()).sgn().real.mean())

    assert error(found) > error(free) + 0.1  # true neighbours tell the phases of the next frame


def test_frames_of_other_types_and_lone_frames_are_taken():
    voc, mel = spectral(), speechlike(MEL, 12)
    plain = pushed(voc.stream(steps=2), mel, [5])
    assert plain.dtype == torch.float32
    double = voc.stream(steps=2)
    torch.testing.assert_close(pushed(double, mel[0].double(), [5]), plain, atol=1e-4, rtol=0)
    assert sorted(double.notes) == sorted(set(double.notes))
    assert any("float64" in note for note in double.notes)
    for spec in (MEL, preset("hifigan-22k")):
        lone = speechlike(spec, 8)[..., :1]
        assert pushed(voc.stream(mel_spec=spec), lone, []).shape == voc(lone, mel_spec=spec).shape
        silence = torch.full((1, spec.n_mels, 9), spec.lowest_value)
        assert bool(pushed(voc.stream(mel_spec=spec), silence, [2]).isfinite().all())


def test_a_few_values_that_predicted_spectrograms_may_have_pass_in_every_piece():
    voc, mel = spectral(), speechlike(MEL, 30)
    mel[0, 40:44, 17] = MEL.lowest_value - 3.1
    at_once = torch.cat(list(voc.stream(mel, steps=2)), -1)
    assert torch.equal(pushed(voc.stream(steps=2), mel, [1] * 29), at_once)


def test_no_frames_make_no_samples_and_change_nothing():
    voc, mel = spectral(), speechlike(MEL, 12, batch=2)
    stream = voc.stream(steps=2)
    for none in (mel[..., :0], mel[0, :, :0]):
        made = stream.push(none)
        assert (made.shape, made.dtype) == ((len(none) if none.dim() == 3 else 1, 0), torch.float32)
    assert torch.equal(pushed(stream, mel, [0, 5, 0, 4, 0]), pushed(voc.stream(steps=2), mel, [5]))


def test_what_makes_no_sense_is_refused_and_the_stream_goes_on():
    voc, mel = spectral(), speechlike(MEL, 12)
    stream = voc.stream(steps=2)
    with pytest.raises(InputError, match="no frame"):
        stream.flush()
    stream.push(mel[..., :5])
    broken = mel.clone()
    broken[0, 3, 2] = math.nan
    for bad, message in (
        (mel[:, :70], "n_mels=80"),
        (broken, "not finite"),
        (mel[:, :70, :0], "empty"),
        (mel[:0], "empty"),
        (mel.repeat(2, 1, 1), "as many items"),
        (40 + mel, "must follow mmdiff-16k"),
        (mel.long(), "floating point"),
    ):
        with pytest.raises(InputError, match=message):
            stream.push(bad)
    rest = torch.cat([stream.push(mel[..., 5:]), stream.flush()], -1)
    assert torch.equal(rest, pushed(voc.stream(steps=2), mel, []))
    for late in (lambda: stream.push(mel), stream.flush):
        with pytest.raises(InputError, match=r"flush\(\) was called"):
            late()
    with pytest.raises(InputError, match="chunks=None"):
        list(voc.stream())
    for options in ({"lookahead": 0}, {"block": 0}, {"temperature": -1.0}, {"steps": 0}, {"mel_spec": "x"}):
        with pytest.raises(InputError):
            voc.stream(**options)
    with pytest.raises(InputError, match="own definition"):
        waveform().stream(mel_spec=replace(SHORT, n_mels=10))

from __future__ import annotations

import math
import struct
import warnings
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
import torch
import torchaudio

from mmdiff.audio import io
from mmdiff.audio.decode import MAX_CHANNELS
from mmdiff.audio.resampling import BETA, ROLLOFF, WIDTH, _interpolate, resample_blocks
from mmdiff.errors import InputError
from mmdiff.files import TEMPORARY

RATE = 16_000
ENCODERS = {"m4a": "aac", "mkv": "aac", "aac": "aac", "webm": "libopus", "g722": "g722"}


def encode(path: Path, wave: torch.Tensor, codec: str, pictures: bool = False) -> Path:
    """Write with FFmpeg, so that what mmdiff reads was not written by it."""
    layout = "stereo" if len(wave) == 2 else "mono"
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=25) if pictures else None
        sound = container.add_stream(codec, rate=RATE, layout=layout) if codec else None
        if video is not None:
            video.width, video.height, video.pix_fmt = 32, 32, "yuv420p"
            for _ in range(25):
                picture = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
                container.mux(video.encode(picture))
            container.mux(video.encode(None))
        if sound is not None:
            convert = av.AudioResampler(sound.codec_context.format, layout, RATE)
            for first in range(0, wave.shape[1], 1024):
                block = np.ascontiguousarray(wave[:, first : first + 1024].numpy())
                frame = av.AudioFrame.from_ndarray(block, format="fltp", layout=layout)
                frame.rate, frame.pts, frame.time_base = RATE, first, Fraction(1, RATE)
                for ready in convert.resample(frame):
                    container.mux(sound.encode(ready))
            container.mux(sound.encode(None))
    return path


def snr(clean: torch.Tensor, noisy: torch.Tensor) -> float:
    return float(10 * torch.log10(clean.square().sum() / (clean - noisy).square().sum()))


# reading and writing


@pytest.mark.parametrize(
    ("suffix", "bits"), [("wav", 16), ("wav", 24), ("wav", 32), ("flac", 16), ("flac", 24)]
)
@pytest.mark.parametrize("channels", [1, 2, 6])
def test_lossless_round_trip_is_exact_on_the_files_grid(tmp_path, noise, suffix, bits, channels):
    wave = noise(channels, 5000)
    if bits < 32:
        wave = (wave * 2 ** (bits - 1)).round() / 2 ** (bits - 1)
    wave[0, 0] = -1.0
    io.write(tmp_path / f"a.{suffix}", wave, RATE, bits=bits)
    back, rate = io.read(tmp_path / f"a.{suffix}", mono=False)
    assert rate == RATE
    assert torch.equal(back, wave)
    second = io.write(tmp_path / f"b.{suffix}", back, rate, bits=bits)
    assert second.read_bytes() == (tmp_path / f"a.{suffix}").read_bytes()


@pytest.mark.parametrize("suffix", ["ogg", "mp3"])
def test_lossy_round_trip_keeps_time_length_and_sound(tmp_path, english, suffix):
    io.write(tmp_path / f"a.{suffix}", english, RATE)
    back, rate = io.read(tmp_path / f"a.{suffix}")
    assert (rate, back.shape) == (RATE, english.shape)
    assert snr(english, back) > 8


def test_a_large_vorbis_file_is_written_in_pieces(tmp_path):
    io.write(tmp_path / "long.ogg", torch.zeros(RATE * 120) + 0.01, RATE)  # crashes libvorbis in one piece
    assert io.info(tmp_path / "long.ogg").frames == RATE * 120


@pytest.mark.parametrize("suffix", sorted(ENCODERS))
def test_formats_of_ffmpeg(tmp_path, english, suffix):
    wave = english if suffix == "g722" else english.repeat(2, 1) * torch.tensor([[1.0], [0.5]])
    path = encode(tmp_path / f"a.{suffix}", wave, ENCODERS[suffix])
    back, _ = io.read(path, mono=False, sample_rate=RATE)
    assert len(back) == len(wave)
    # encoders of MPEG audio may delay the sound by up to two frames
    length = wave.shape[1] - 4096
    window = back[:, : wave.shape[1] + 4096].unfold(1, length, 1)[:, :4096]
    best = max(
        range(min(window.shape[1], 2200)), key=lambda d: float((window[:, d] * wave[:, :length]).sum())
    )
    assert best <= 2048
    assert snr(wave[:, :length], window[:, best]) > 6
    described = io.info(path)
    assert described.frames == io.read(path)[0].shape[1]
    assert described.channels == len(wave)


def test_sound_of_a_video(tmp_path, english):
    path = encode(tmp_path / "film.mp4", english, "aac", pictures=True)
    wave, rate = io.read(path)
    assert rate == RATE
    assert abs(wave.shape[1] - english.shape[1]) < 4096
    assert io.info(path).codec == "mov/aac"


def test_info_states_what_the_header_says(tmp_path, noise):
    io.write(tmp_path / "a.flac", noise(2, 12_345), 22_050)
    assert io.info(tmp_path / "a.flac") == io.AudioInfo(22_050, 2, 12_345, 12_345 / 22_050, "flac/pcm_16")


def test_mono_is_the_mean_of_the_channels(tmp_path, noise):
    wave = noise(3, 2000)
    io.write(tmp_path / "a.wav", wave, RATE, bits=32)
    assert torch.allclose(io.read(tmp_path / "a.wav")[0], wave.mean(0, keepdim=True))


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg", "a.mp3", "a.m4a", "a.mkv", "a.aac", "a.g722"])
def test_a_part_equals_the_same_part_of_the_whole(tmp_path, noise, name):
    wave = noise(1, RATE * 6)
    suffix = name.split(".")[1]
    if suffix in ENCODERS:
        encode(tmp_path / name, wave, ENCODERS[suffix])
    else:
        io.write(tmp_path / name, wave, RATE)
    whole, _ = io.read(tmp_path / name)
    for start in (0.0, 0.3, 4.4321):
        part, _ = io.read(tmp_path / name, start=start, duration=0.75)
        first = round(start * RATE)
        assert part.shape == (1, 12_000)
        assert torch.allclose(part, whole[:, first : first + 12_000], atol=1e-6)
    tail, _ = io.read(tmp_path / name, start=5.0, duration=100.0)
    assert torch.allclose(tail, whole[:, 5 * RATE :], atol=1e-6)


@pytest.mark.parametrize("sample_rate", [None, 8000, 11_025, 44_100, 16_001])
@pytest.mark.parametrize("block_seconds", [0.01, 0.333, 100.0])
def test_a_stream_is_the_whole_in_blocks(tmp_path, noise, sample_rate, block_seconds):
    io.write(tmp_path / "a.flac", noise(2, 150_000 if sample_rate != 16_001 else 20_000), RATE)
    whole, rate = io.read(tmp_path / "a.flac", mono=False, sample_rate=sample_rate)
    blocks = list(io.stream(tmp_path / "a.flac", block_seconds, mono=False, sample_rate=sample_rate))
    assert torch.equal(torch.cat(blocks, -1), whole)
    assert {block.shape[1] for block in blocks[:-1]} <= {round(block_seconds * rate)}


def test_a_streamed_copy_holds_only_a_few_blocks(tmp_path, noise):
    import tracemalloc

    block = noise(1, RATE)
    with io.writer(tmp_path / "long.wav", RATE) as file:
        for _ in range(600):
            file.write(block)
    assert io.info(tmp_path / "long.wav").seconds == 600
    tracemalloc.start()  # counts NumPy's arrays, which is where decoded sound begins
    count = sum(part.shape[1] for part in io.stream(tmp_path / "long.wav", 1.0, sample_rate=8000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 600 * 8000
    assert peak < 4e6  # the whole is 38 MB


# resampling


@pytest.mark.parametrize(
    ("old", "new"), [(44_100, 16_000), (16_000, 44_100), (22_050, 16_000), (8000, 16_000)]
)
def test_resampling_against_torchaudio_and_against_direct_evaluation(noise, old, new):
    wave = noise(2, 9000)
    ours = io.resample(wave, old, new)
    theirs = torchaudio.functional.resample(
        wave.double(), old, new, WIDTH, ROLLOFF, "sinc_interp_kaiser", BETA
    )
    assert torch.allclose(ours, theirs.float(), atol=3e-6)
    common = math.gcd(old, new)
    reach = math.ceil(WIDTH * old / (min(old, new) * ROLLOFF))
    direct = _interpolate(wave, old // common, new // common, reach)
    assert torch.allclose(ours, direct, atol=3e-6)


@pytest.mark.parametrize(("old", "new"), [(48_000, 16_000), (16_000, 22_050), (44_100, 15_999)])
def test_a_tone_below_the_lower_nyquist_passes_and_one_above_vanishes(old, new):
    def tone(frequency: float, rate: int) -> torch.Tensor:
        return torch.sin(2 * math.pi * frequency * torch.arange(rate, dtype=torch.float64) / rate)

    low, inner = 0.4 * min(old, new), slice(500, -500)
    passed = io.resample(tone(low, old), old, new)
    assert torch.allclose(passed[inner], tone(low, new)[inner], atol=1e-5)
    if old > new:
        assert io.resample(tone(0.55 * new, old), old, new)[inner].abs().max() < 1e-5


def test_resampling_is_differentiable_and_linear(noise):
    wave = noise(1, 300).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: io.resample(x, 3, 2), (wave[:, :40].detach().requires_grad_(),))
    assert torch.allclose(io.resample(3 * wave, 5, 7), 3 * io.resample(wave, 5, 7))


def test_resampling_any_block_sizes_gives_the_same_samples(noise):
    wave = noise(1, 30_000)
    whole = io.resample(wave, 22_050, 16_000)
    for sizes in ([1, 7, 29_992], [10_000] * 3, [30_000], [0, 15_000, 0, 15_000]):
        blocks = resample_blocks(torch.split(wave, sizes, -1), 22_050, 16_000)
        assert torch.allclose(torch.cat(list(blocks), -1), whole, atol=1e-6)


# bad input


def riff(frames: int = 100, *, rate: int = RATE, channels: int = 1, claimed: int | None = None) -> bytes:
    size = frames * 2 * channels
    stated = size if claimed is None else claimed
    header = struct.pack("<4sI4s4sIHHIIHH", b"RIFF", min(36 + stated, 2**32 - 1), b"WAVE", b"fmt ", 16, 1,
                         channels, rate, rate * 2 * channels % 2**32, 2 * channels % 2**16, 16)  # fmt: skip
    return header + struct.pack("<4sI", b"data", min(stated, 2**32 - 1)) + b"\1\2" * (size // 2)


BAD = {
    "empty.wav": (b"", "empty"),
    "noise.wav": (bytes(range(256)) * 20, "no known sound format"),
    "text.txt": (b"hello world\n" * 50, "no known sound format"),
    "list.m3u8": (b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n/etc/passwd\n", "no known sound format"),
    "list.ffconcat": (b"ffconcat version 1.0\nfile good.wav\n", "no known sound format"),
    "rate0.wav": (riff(rate=0), "no known sound format"),
    "fast.wav": (riff(rate=2_000_000), "sample_rate=2000000"),
    "wide.wav": (riff(channels=200), "channels=200"),
    "cut.wav": (riff(claimed=4000), "cut short after 0.01 s"),
    "absurd.wav": (riff(claimed=1_900_000_000), "cannot hold"),
    "strange.wav": (riff()[:20] + b"\x34\x12" + riff()[22:], "unknown way"),
    "header_only.wav": (riff(frames=0), "no sound in it"),
}


@pytest.mark.parametrize("name", sorted(BAD))
def test_bad_files_are_named_with_the_reason(tmp_path, name):
    content, reason = BAD[name]
    (tmp_path / "good.wav").write_bytes(riff())
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=reason) as caught:
        io.read(tmp_path / name)
    assert name in str(caught.value)
    assert caught.value.__cause__ is None
    with pytest.raises(InputError):
        list(io.stream(tmp_path / name, sample_rate=8000))


def test_missing_folder_and_silent_video(tmp_path, noise):
    with pytest.raises(InputError, match=r"No such file.*Check the name"):
        io.read(tmp_path / "nowhere.wav")
    with pytest.raises(InputError, match="is a folder"):
        io.info(tmp_path)
    path = encode(tmp_path / "mute.mp4", noise(1, 10), "", pictures=True)
    with pytest.raises(InputError, match="no sound in it"):
        io.read(path)
    with pytest.raises(InputError, match="cannot be read"):
        io.read("nul\0byte.wav")


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg", "a.mp3", "a.m4a"])
def test_half_a_file_is_never_taken_for_a_whole_one(tmp_path, noise, name):
    wave = noise(1, RATE * 4)
    whole = tmp_path / name
    if name == "a.m4a":
        encode(whole, wave, "aac")
    else:
        io.write(whole, wave, RATE)
    half = tmp_path / f"half_{name}"
    half.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(InputError, match=r"damaged"):
        io.read(half)
    if name in ("a.wav", "a.flac"):  # what is there can still be had
        part, _ = io.read(half, duration=1.0)
        assert torch.equal(part, io.read(whole, duration=1.0)[0])


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_numbers_that_are_none(tmp_path, noise, value):
    wave = noise(1, 1000)
    wave[0, 500] = value
    soundfile.write(tmp_path / "a.wav", wave[0].numpy(), RATE, subtype="FLOAT")
    with pytest.raises(InputError, match="1 samples that are NaN or infinite"):
        io.read(tmp_path / "a.wav")
    assert io.read(tmp_path / "a.wav", duration=0.02)[0].isfinite().all()
    with pytest.raises(InputError, match="NaN or infinite"):
        io.write(tmp_path / "b.wav", wave, RATE)
    with pytest.raises(InputError, match="NaN or infinite"):
        io.check(wave)
    assert [p.name for p in tmp_path.iterdir()] == ["a.wav"]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"start": -1.0}, "start=-1.0"),
        ({"start": math.nan}, "start=nan"),
        ({"start": 1.0}, r"start=1.0 must be before the end.*0.50 s"),
        ({"duration": 0.0}, "duration=0.0"),
        ({"sample_rate": 0}, "sample_rate=0"),
        ({"sample_rate": 2_000_000}, "sample_rate=2000000"),
    ],
)
def test_bad_arguments_of_read(tmp_path, noise, arguments, reason):
    io.write(tmp_path / "a.wav", noise(1, RATE // 2), RATE)
    with pytest.raises(InputError, match=reason):
        io.read(tmp_path / "a.wav", **arguments)


@pytest.mark.parametrize(
    ("name", "shape", "rate", "bits", "reason"),
    [
        ("a.aiff", (1, 9), RATE, 16, "must end in .flac, .mp3, .ogg, .wav"),
        ("a.wav", (1, 9), RATE, 20, r"bits=20 must be one of \[16, 24, 32\]"),
        ("a.flac", (1, 9), RATE, 32, r"bits=32 must be one of \[16, 24\]"),
        ("a.wav", (1, 9), 0, 16, "sample_rate=0"),
        ("a.mp3", (1, 9), 17_000, 16, "sample_rate=17000 must be one of"),
        ("a.mp3", (3, 9), RATE, 16, "channels=3 must be 1 to 2"),
        ("a.wav", (MAX_CHANNELS + 1, 2), RATE, 16, "transposed"),
        ("a.wav", (1, 0), RATE, 16, "no sound"),
        ("a.wav", (1, 2, 3), RATE, 16, r"wave.shape=\(1, 2, 3\)"),
        ("none/a.wav", (1, 9), RATE, 16, "folder that exists"),
    ],
)
def test_bad_arguments_of_write(tmp_path, name, shape, rate, bits, reason):
    with pytest.raises(InputError, match=reason):
        io.write(tmp_path / name, torch.zeros(shape), rate, bits=bits)
    assert not list(tmp_path.iterdir())


def test_integer_samples_are_refused(tmp_path):
    with pytest.raises(InputError, match="divide int16"):
        io.write(tmp_path / "a.wav", torch.zeros(10, dtype=torch.int16), RATE)
    with pytest.raises(InputError, match="divide int16"):
        io.resample(torch.zeros(10, dtype=torch.int16), 2, 3)


def test_a_wav_file_stays_under_its_limit(tmp_path, monkeypatch):
    monkeypatch.setattr("mmdiff.audio.encode._WAV_LIMIT", 1000)
    with pytest.raises(InputError, match=r"use \.flac"), io.writer(tmp_path / "a.wav", RATE) as file:
        file.write(torch.zeros(501))
    assert not list(tmp_path.iterdir())


def test_a_file_too_long_to_be_read_at_once(tmp_path, monkeypatch, noise):
    io.write(tmp_path / "a.wav", noise(1, 70_000), RATE)
    monkeypatch.setattr(io, "MAX_READ", 50_000)
    with pytest.raises(InputError, match=r"use stream\(\)"):
        io.read(tmp_path / "a.wav")
    assert io.read(tmp_path / "a.wav", duration=1.0)[0].shape == (1, RATE)


# safety of writing


def test_loud_sound_is_clipped_with_a_warning_that_states_the_peak(tmp_path):
    wave = torch.tensor([[0.5, 1.5, -2.5]])
    with pytest.warns(UserWarning, match=r"a.wav: clipped, its peak was 2.5"):
        io.write(tmp_path / "a.wav", wave, RATE)
    assert torch.allclose(io.read(tmp_path / "a.wav")[0], wave.clamp(-1, 1), atol=1e-4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # float files hold it as it is
        io.write(tmp_path / "b.wav", wave, RATE, bits=32)
        io.write(tmp_path / "c.wav", torch.ones(10), RATE)
    assert torch.equal(io.read(tmp_path / "b.wav")[0], wave)


def test_an_interrupted_writer_leaves_the_old_file(tmp_path, noise):
    io.write(tmp_path / "a.wav", noise(1, 100), RATE)
    before = (tmp_path / "a.wav").read_bytes()

    def interrupted() -> None:
        with io.writer(tmp_path / "a.wav", RATE) as file:
            file.write(noise(1, 50))
            assert len([p for p in tmp_path.iterdir() if p.name.startswith(TEMPORARY)]) == 1
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [p.name for p in tmp_path.iterdir()] == ["a.wav"]
    assert (tmp_path / "a.wav").read_bytes() == before


def test_pieces_written_equal_the_whole(tmp_path, noise):
    wave = noise(2, 10_000)
    io.write(tmp_path / "a.flac", wave, RATE)
    with io.writer(tmp_path / "b.flac", RATE, 2) as file:
        for piece in torch.split(wave, 1234, -1):
            file.write(piece.numpy())
        assert file.frames == 10_000
        with pytest.raises(InputError, match="channels=2"):
            file.write(wave[0])
    assert torch.equal(io.read(tmp_path / "a.flac")[0], io.read(tmp_path / "b.flac")[0])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_any_floating_type_and_a_gradient_can_be_written(tmp_path, noise, dtype):
    wave = noise(1, 500).to(dtype).requires_grad_()
    io.write(tmp_path / "a.wav", wave, RATE)
    assert torch.allclose(io.read(tmp_path / "a.wav")[0], wave.detach().float(), atol=2e-5)


# checking


def test_check_passes_sound_on_and_tells_silence(noise):
    wave = noise(1, 100)
    assert io.check(wave) is wave
    with pytest.raises(InputError, match=r"what.wav has shape \(1, 0\)"):
        io.check(wave[:, :0], what="what.wav")
    with pytest.warns(UserWarning, match="silent"):
        io.check(wave * 1e-5)
    with pytest.raises(InputError, match="silent"):
        io.check(wave * 0, allow_silence=False)
    with pytest.warns(UserWarning, match=r"scaled to \[-1, 1\]"):
        io.check(wave * 32768)

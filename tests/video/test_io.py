from __future__ import annotations

import itertools
import math
import shutil
import struct
import tracemalloc
import zlib
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from mmdiff.errors import InputError
from mmdiff.files import TEMPORARY
from mmdiff.video import io, pictures
from mmdiff.video.timing import at_times, measure

BITS = 8
SIDE = 16  # pixels of a square that shows one bit
MATRICES = {1: (0.2126, 0.0722), 5: (0.299, 0.114), 9: (0.2627, 0.0593)}  # BT.709, 601, 2020: Kr, Kb


def picture(number: int) -> np.ndarray:
    """A picture (32, 64, 3) that shows its number in black and white squares, and so survives any codec."""
    bits = np.array([number >> n & 1 for n in range(BITS)], np.uint8).reshape(2, 4) * 255
    return np.repeat(bits.repeat(SIDE, 0).repeat(SIDE, 1)[..., None], 3, -1)


def numbers(video: torch.Tensor) -> list[int]:
    """Read the numbers off a clip (3, F, H, W) of any size."""
    height, width = video.shape[-2:]
    grey = video.float().mean(0)
    centres = grey[:, height // 4 :: height // 2, width // 8 :: width // 4][:, :2, :4].reshape(-1, BITS)
    middle = 127.5 if video.dtype == torch.uint8 else 0.0
    return [int(sum(2**n * int(bit > middle) for n, bit in enumerate(row))) for row in centres]


def film(
    path: Path,
    stamps: Sequence[int],
    codec: str = "libx264",
    base: Fraction = Fraction(1, 1000),
    rate: int = 25,
    **options: str,
) -> Path:
    """Write numbered pictures with these time stamps by FFmpeg, so that mmdiff did not write what it reads."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options=options)
        stream.width, stream.height, stream.pix_fmt = 64, 32, "yuv420p"
        stream.codec_context.time_base = base
        for number, stamp in enumerate(stamps):
            frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
            frame.pts, frame.time_base = stamp, base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def even_film(path: Path, count: int = 60, codec: str = "libx264", rate: int = 25, **options: str) -> Path:
    return film(path, range(count), codec, Fraction(1, rate), rate, **options)


def waves(frames: int = 10, height: int = 48, width: int = 64) -> torch.Tensor:
    """A smooth colourful clip in [-0.8, 0.8]."""
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    f = torch.arange(frames)[:, None, None]
    return 0.8 * torch.stack(
        [torch.sin(6 * x + 0.2 * f), torch.cos(5 * y - 0.1 * f), torch.sin(4 * (x + y) + 0.3 * f)]
    )


def psnr(one: torch.Tensor, other: torch.Tensor) -> float:
    return float(10 * torch.log10(4 / (one - other).square().mean()))


# round trips


@pytest.mark.parametrize(
    ("name", "least"),
    [("a.mp4", 42), ("a.mov", 42), ("a.mkv", 42), ("a.webm", 38), ("a.gif", 29), ("a.npz", 58)],
)
def test_round_trip_keeps_pictures_rate_and_size(tmp_path, name, least):
    video = waves()
    assert io.write(tmp_path / name, video, 12) == tmp_path / name
    clip = io.read(tmp_path / name)
    assert (clip.fps, clip.video.shape, clip.sound) == (12.0, video.shape, None)
    assert psnr(clip.video, video) > least
    about = io.info(tmp_path / name)
    assert (about.frames, about.fps, about.width, about.height) == (10, 12.0, 64, 48)
    assert about.seconds == pytest.approx(10 / 12)
    assert (about.rotation, about.sound, about.variable_rate) == (0, False, False)


@pytest.mark.parametrize("name", ["a.png", "a.tiff", "a.bmp", "a.npz", "s_%03d.png", "s/%d.png"])
def test_lossless_formats_keep_every_level(tmp_path, name):
    count = 12 if "%" in name or name == "a.npz" else 1
    levels = torch.arange(3 * count * 16 * 16) % 256
    video = levels.reshape(3, count, 16, 16).to(torch.uint8)
    io.write(tmp_path / name, video, 25)
    clip = io.read(tmp_path / name, dtype=torch.uint8)
    assert torch.equal(clip.video, video)
    assert torch.equal(io.read(tmp_path / name).video, video / 127.5 - 1)
    io.write(tmp_path / f"again_{Path(name).name}", io.read(tmp_path / name).video, 25)
    assert torch.equal(io.read(tmp_path / f"again_{Path(name).name}", dtype=torch.uint8).video, video)


@pytest.mark.parametrize("fps", [1, 8, 12.5, 24000 / 1001, 24, 30000 / 1001, 30, 60])
@pytest.mark.parametrize("name", ["a.mp4", "a.webm", "a.gif"])
def test_every_picture_comes_back_once_at_its_rate(tmp_path, name, fps):
    if name == "a.gif":
        fps = min(fps, 50)
    video = torch.from_numpy(np.stack([picture(n) for n in range(40)])).permute(3, 0, 1, 2)
    io.write(tmp_path / name, video, fps)
    clip = io.read(tmp_path / name)
    assert numbers(clip.video) == list(range(40))
    assert clip.fps == pytest.approx(fps, rel=2e-3)  # 29.97 and 30 round to the same hundredths
    assert not io.info(tmp_path / name).variable_rate
    assert numbers(io.read(tmp_path / name, fps=2 * fps).video) == sorted([*range(40)] * 2)
    assert numbers(io.read(tmp_path / name, fps=fps / 2).video) == list(range(0, 40, 2))


def test_odd_sizes(tmp_path):
    video = waves(3, 33, 47)
    io.write(tmp_path / "a.mp4", video, 10)
    padded = io.read(tmp_path / "a.mp4").video  # players need even sizes: the last row and column twice
    assert padded.shape == (3, 3, 34, 48)
    assert psnr(padded, torch.nn.functional.pad(video, (0, 1, 0, 1), mode="replicate")) > 40
    for name in ("a.webm", "a.gif"):
        io.write(tmp_path / name, video, 10)
        assert psnr(io.read(tmp_path / name).video, video) > 28


def test_h264_is_what_players_open(tmp_path):
    io.write(tmp_path / "a.mp4", waves(), 10)
    with av.open(str(tmp_path / "a.mp4")) as container:
        context = container.streams.video[0].codec_context
        assert (context.name, context.pix_fmt) == ("h264", "yuv420p")
        assert (context.colorspace, context.color_range) == (1, 1)
    io.write(tmp_path / "a.mp4", waves(90), 20)
    with av.open(str(tmp_path / "a.mp4")) as container:
        keys = [p.pts * p.time_base for p in container.demux(video=0) if p.is_keyframe]
    assert max(later - earlier for earlier, later in itertools.pairwise(keys)) <= 2  # seconds
    content = (tmp_path / "a.mp4").read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")  # plays while it loads


def test_quality_trades_size_for_fidelity(tmp_path):
    video = waves()
    sizes = []
    for quality in (4, 20, 40):
        io.write(tmp_path / "a.mp4", video, 10, quality=quality)
        sizes.append((tmp_path / "a.mp4").stat().st_size)
    assert sizes == sorted(sizes, reverse=True)


def test_gif_of_few_colours_is_faithful_loops_and_does_not_drift(tmp_path):
    colours = torch.randint(0, 256, (200, 3), generator=torch.Generator().manual_seed(0))
    index = torch.arange(12 * 20 * 20).reshape(12, 20, 20) * 7 % 200
    video = colours[index].permute(3, 0, 1, 2).to(torch.uint8)
    io.write(tmp_path / "a.gif", video, 24)
    back = io.read(tmp_path / "a.gif", dtype=torch.uint8).video
    assert (back.int() - video.int()).abs().max() <= 1
    with Image.open(tmp_path / "a.gif") as image:
        delays = []
        for n in range(image.n_frames):
            image.seek(n)
            delays.append(image.info["duration"])
        assert image.info["loop"] == 0
    ends = np.cumsum(delays)
    assert np.abs(ends[:-1] - 1000 / 24 * np.arange(1, 12)).max() <= 5
    assert set(delays) == {40, 50}


def test_types_and_grey(tmp_path):
    video = waves(4)
    io.write(tmp_path / "a.npz", video.double(), 5)
    io.write(tmp_path / "b.npz", video.bfloat16(), 5)
    io.write(tmp_path / "c.npz", video.numpy(), np.float32(5))
    one, other, third = (io.read(tmp_path / name).video for name in ("a.npz", "b.npz", "c.npz"))
    assert torch.equal(one, third)
    assert psnr(one, other) > 45
    io.write(tmp_path / "grey.npz", video[:1], 5)
    assert torch.equal(io.read(tmp_path / "grey.npz").video, one[:1].expand(3, -1, -1, -1))
    io.write(tmp_path / "loud.npz", 2 * video, 5)
    assert io.read(tmp_path / "loud.npz").video.abs().max() == 1


def test_a_long_film_is_written_piece_by_piece(tmp_path):
    with io.writer(tmp_path / "a.mkv", 25, (32, 64)) as file:
        for first in range(0, 100, 7):
            block = np.stack([picture(n) for n in range(first, min(first + 7, 100))])
            file.write(np.moveaxis(block, -1, 0))
        assert file.frames == 100
        assert not (tmp_path / "a.mkv").exists()
    assert numbers(io.read(tmp_path / "a.mkv").video) == list(range(100))


# time


def on_screen(stamps: list[float], end: float, fps: float, start: float, late: float) -> list[int]:
    """The rule, said plainly: at each time the latest picture that has begun."""
    times = itertools.takewhile(lambda t: t < end - 1e-6, (start + n / fps for n in itertools.count()))
    return [max(k for k, s in enumerate(stamps) if s <= t + late) for t in times]


@pytest.mark.parametrize("name", ["a.mkv", "a.mp4", "a.webm", "a.mov"])
@pytest.mark.parametrize("fps", [5.0, 12.0, 25.0, 30000 / 1001, 100.0])
def test_variable_rates_are_read_by_time(tmp_path, name, fps):
    stamps = [0, 40, 81, 300, 310, 555, 600, 1000, 1033, 1066, 1700]
    codec = "libvpx-vp9" if name == "a.webm" else "libx264"
    path = film(tmp_path / name, stamps, codec)
    seconds = [stamp / 1000 for stamp in stamps]
    about = io.info(path)
    assert about.variable_rate
    assert about.frames == 11
    for start in (0.0, 0.2, 1.05):
        clip = io.read(path, fps=fps, start=start)
        expected = on_screen(seconds, about.seconds, fps, start, 0.0005)
        assert numbers(clip.video) == expected
        assert clip.fps == fps
    average = io.read(path)
    assert average.fps == about.fps
    assert average.video.shape[1] / average.fps == pytest.approx(about.seconds, abs=1 / about.fps)


def test_a_film_with_pictures_left_out_keeps_its_rate(tmp_path):
    kept = [n for n in range(60) if n not in (7, 20, 21, 40)]
    path = film(tmp_path / "a.mp4", [40 * n for n in kept])
    about = io.info(path)
    assert (about.variable_rate, about.fps, about.frames) == (True, 25.0, 56)
    shown = numbers(io.read(path).video)
    assert shown == [max(k for k, n in enumerate(kept) if n <= at) for at in range(60)]
    shaken = [33 * n + n // 3 + (n % 4 == 1) for n in range(40)]
    about = io.info(film(tmp_path / "b.mkv", shaken))
    assert (about.variable_rate, about.fps) == (True, 30.0)


def test_variable_rate_of_a_gif(tmp_path):
    frames = [Image.fromarray(picture(n)) for n in range(5)]
    delays = [100, 300, 50, 200, 500]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=delays, loop=0)
    clip = io.read(tmp_path / "a.gif", fps=20)
    assert numbers(clip.video) == [0] * 2 + [1] * 6 + [2] + [3] * 4 + [4] * 10
    assert io.info(tmp_path / "a.gif").variable_rate
    assert io.info(tmp_path / "a.gif").seconds == pytest.approx(1.15)


SOUGHT = {
    "b_frames.mp4": ("libx264", {"bf": "3", "g": "250"}),
    "b_frames.mkv": ("libx264", {"bf": "3", "g": "20", "x264-params": "open-gop=1:keyint=20:scenecut=0"}),
    "refresh.mkv": ("libx264", {"x264-params": "intra-refresh=1:keyint=30:bframes=0"}),
    "delayed.ts": ("libx264", {"bf": "2", "g": "24"}),
    "old.ts": ("mpeg2video", {"g": "18", "bf": "2"}),
    "old.mpg": ("mpeg2video", {"g": "12"}),
    "old.avi": ("mpeg4", {"g": "30"}),
    "b_frames.avi": ("libx264", {"g": "30"}),
    "a.webm": ("libvpx-vp9", {"g": "40", "lag-in-frames": "16", "auto-alt-ref": "1", "cpu-used": "8"}),
    "a.flv": ("libx264", {"g": "40"}),
    "hevc.mp4": ("libx265", {"x265-params": "keyint=40:bframes=3:log-level=none", "preset": "ultrafast"}),
}


@pytest.mark.parametrize("name", sorted(SOUGHT))
def test_a_part_equals_the_same_part_of_the_whole(tmp_path, name):
    codec, options = SOUGHT[name]
    path = even_film(tmp_path / name, 150, codec, **options)
    whole = io.read(path, dtype=torch.uint8)
    assert numbers(whole.video) == list(range(150))
    assert whole.fps == 25
    for first in (0, 1, 29, 30, 61, 97, 119, 149):
        part = io.read(path, start=first / 25, frames=9, dtype=torch.uint8).video
        assert torch.equal(part, whole.video[:, first : first + 9]), first
    between = io.read(path, start=3.29, frames=3, dtype=torch.uint8).video  # 82 is on screen until 3.32
    assert numbers(between) == [82, 83, 84]


def test_a_late_part_is_read_without_decoding_what_comes_before(tmp_path):
    path = even_film(tmp_path / "a.mp4", 200, g="50", bf="2", preset="ultrafast")
    expected = io.read(path, start=6.5, frames=5, dtype=torch.uint8).video
    with av.open(str(path)) as container:
        packets = [p for p in container.demux(video=0) if p.size]
    content = bytearray(path.read_bytes())
    for packet in packets[3:140]:
        content[packet.pos : packet.pos + packet.size] = bytes(packet.size)
    (tmp_path / "ruined.mp4").write_bytes(content)
    part = io.read(tmp_path / "ruined.mp4", start=6.5, frames=5, dtype=torch.uint8).video
    assert torch.equal(part, expected)
    assert numbers(part) == [162, 163, 164, 165, 166]


def test_time_begins_with_the_first_picture(tmp_path):
    path = film(tmp_path / "late.mkv", [5000 + 40 * n for n in range(30)])
    assert numbers(io.read(path, start=0.4, frames=2).video) == [10, 11]
    assert io.info(path).seconds == pytest.approx(1.2)


def test_how_much_is_read(tmp_path):
    path = even_film(tmp_path / "a.mp4", 50)
    assert io.read(path, seconds=0.4).video.shape[1] == 10
    assert io.read(path, seconds=0.4, fps=10).video.shape[1] == 4
    assert numbers(io.read(path, start=1.9, seconds=10).video) == [47, 48, 49]
    with pytest.raises(InputError, match=r"start=2\.0 must be before the end of .*which has 2\.00 s"):
        io.read(path, start=2.0)


@pytest.mark.parametrize("arguments", [{}, {"fps": 7.0}, {"start": 0.5, "frames": 21}, {"size": 20}])
@pytest.mark.parametrize("block", [1, 8, 1000])
def test_a_stream_is_the_whole_in_blocks(tmp_path, arguments, block):
    path = even_film(tmp_path / "a.mp4", 50)
    whole = io.read(path, **arguments).video
    blocks = list(io.stream(path, block, **arguments))
    assert torch.equal(torch.cat(blocks, 1), whole)
    assert {part.shape[1] for part in blocks[:-1]} <= {block}


def test_at_times_and_measure_on_their_own():
    shown = [(0.0, 0.1, "a"), (0.1, 0.2, "b"), (0.5, 0.9, "c")]
    assert "".join(at_times(shown, 0.0, 10, 1e-6)) == "abbbbcccc"
    assert "".join(at_times(shown, 0.35, 5, 1e-6)) == "bcc"
    ntsc = [round(n * 1001 / 30) for n in range(300)]  # milliseconds
    assert measure(ntsc, 33, 1e-3, [], True)[:2] == (pytest.approx(30000 / 1001), False)
    assert measure([0, 10, 35], 5, 0.01, [50], True)[:2] == (pytest.approx(7.5), True)
    assert measure([3], 0, 0.04, [0, 1e9], True)[:2] == (25.0, False)


# what the file asks for


def turned(path: Path, matrix: tuple[int, int, int, int]) -> Path:
    """Write a display matrix a, b, c, d into the track header of an mp4."""
    content = bytearray(path.read_bytes())
    at = content.index(b"tkhd") + 4 + 40
    a, b, c, d = (value << 16 for value in matrix)
    content[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("matrix", "rotation", "oracle"),
    [
        ((0, 1, -1, 0), 90, lambda v: v.rot90(-1, (2, 3))),
        ((-1, 0, 0, -1), 180, lambda v: v.rot90(2, (2, 3))),
        ((0, -1, 1, 0), 270, lambda v: v.rot90(1, (2, 3))),
        ((-1, 0, 0, 1), 180, lambda v: v.flip(3)),
        ((1, 0, 0, -1), 0, lambda v: v.flip(2)),
    ],
)
def test_rotation_and_mirroring_are_applied(tmp_path, matrix, rotation, oracle):
    path = io.write(tmp_path / "a.mp4", waves(4, 32, 64), 10)
    plain = io.read(path, dtype=torch.uint8).video
    about = io.info(turned(path, matrix))
    assert about.rotation == rotation
    clip = io.read(path, dtype=torch.uint8).video
    assert torch.equal(clip, oracle(plain))
    assert clip.shape[2:] == (about.height, about.width)


def test_pixels_are_made_square(tmp_path):
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 32, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(3, 2)
        for n in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(n + 200), format="rgb24")))
        container.mux(stream.encode(None))
    clip = io.read(tmp_path / "a.mkv")
    assert clip.video.shape == (3, 3, 32, 96)
    assert numbers(clip.video) == [200, 201, 202]


def write_yuv(path: Path, colours: list, codec: str, pix_fmt: str, space: int, full: bool, bits: int) -> None:
    """Write plain colours as Y'CbCr by the formulas of ITU-R BT.601, 709 or 2020."""
    kr, kb = MATRICES[space]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=5, options={"crf": "1", "b": "0"})
        stream.width = stream.height = 32
        stream.pix_fmt = pix_fmt
        stream.codec_context.colorspace, stream.codec_context.color_range = space, 1 + full
        for colour in colours:
            red, green, blue = (level / 255 for level in colour)
            luma = kr * red + (1 - kr - kb) * green + kb * blue
            chroma = (blue - luma) / (2 - 2 * kb), (red - luma) / (2 - 2 * kr)
            top, step = (1 << bits) - 1, 1 << bits - 8
            y = luma * top if full else (16 + 219 * luma) * step
            uv = [(128 * step + c * top) if full else (128 + 224 * c) * step for c in chroma]
            frame = av.VideoFrame(32, 32, pix_fmt)
            frame.colorspace, frame.color_range = space, 1 + full
            for plane, level in zip(frame.planes, (y, *uv), strict=True):
                count = plane.buffer_size // (2 if bits > 8 else 1)
                level = min(top, round(level))
                plane.update(np.full(count, level, np.uint16 if bits > 8 else np.uint8).tobytes())
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


@pytest.mark.parametrize("space", sorted(MATRICES))
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt", "bits"),
    [("a.mp4", "libx264", "yuv420p", 8), ("a.webm", "libvpx-vp9", "yuv420p", 8),
     ("a.mkv", "libx264", "yuv420p10le", 10)],
)  # fmt: skip
def test_colours_follow_the_matrix_and_range_of_the_file(tmp_path, space, full, name, codec, pix_fmt, bits):
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (200, 120, 40), (10, 10, 10)]
    write_yuv(tmp_path / name, colours, codec, pix_fmt, space, full, bits)
    video = io.read(tmp_path / name, dtype=torch.uint8).video.int()
    error = (video[:, :, 16, 16].T - torch.tensor(colours)).abs().max()
    assert error <= 2


def test_ten_bits_are_kept(tmp_path):
    levels = np.arange(64, 64 + 256)  # a quarter of the range: 8 bits hold 64 of these
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=5)
        stream.width, stream.height, stream.pix_fmt = 256, 16, "yuv422p10le"
        frame = av.VideoFrame(256, 16, "yuv422p10le")
        for plane, row in zip(frame.planes, (levels, np.full(128, 512), np.full(128, 512)), strict=True):
            padded = np.zeros((plane.height, plane.line_size // 2), np.uint16)
            padded[:, : len(row)] = row
            plane.update(padded.tobytes())
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    row = io.read(tmp_path / "a.mkv").video[:, 0, 8]
    expected = torch.from_numpy((levels - 64) / 876).float() * 2 - 1
    assert (row - expected).abs().max() < 0.25 / 255 * 2
    assert len(row[1].unique()) == 256
    eight = io.read(tmp_path / "a.mkv", dtype=torch.uint8).video[:, 0, 8]
    assert (eight - (row + 1) * 127.5).abs().max() <= 0.51


def test_sixteen_bit_images(tmp_path):
    ramp = (np.arange(64 * 64, dtype=np.uint16) * 16).reshape(64, 64)
    Image.fromarray(ramp).save(tmp_path / "a.png")
    video = io.read(tmp_path / "a.png").video
    assert torch.allclose(video[1, 0], torch.from_numpy(ramp.astype(np.float32)) / 32767.5 - 1, atol=1e-6)


TRANSPARENT = {"a.png": "png", "a.mov": "qtrle", "a.mkv": "ffv1", "a.webm": "libvpx-vp9"}


@pytest.mark.parametrize("name", sorted(TRANSPARENT))
def test_what_is_transparent_becomes_black(tmp_path, name):
    pixels = np.zeros((32, 64, 4), np.uint8)
    pixels[..., :3] = (200, 100, 60)
    pixels[..., 3] = np.repeat([0, 85, 170, 255], 16)
    if name == "a.png":
        Image.fromarray(pixels, "RGBA").save(tmp_path / name)
    else:
        layout = {"qtrle": "argb", "ffv1": "bgra", "libvpx-vp9": "yuva420p"}[TRANSPARENT[name]]
        with av.open(str(tmp_path / name), "w") as container:
            options = {"crf": "1", "b": "0", "auto-alt-ref": "0"} if "vp9" in TRANSPARENT[name] else {}
            stream = container.add_stream(TRANSPARENT[name], rate=5, options=options)
            stream.width, stream.height, stream.pix_fmt = 64, 32, layout
            for _ in range(3):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgba")))
            container.mux(stream.encode(None))
    assert io.info(tmp_path / name).alpha
    video = io.read(tmp_path / name, dtype=torch.uint8).video.int()
    expected = torch.tensor([200, 100, 60])[:, None] * torch.tensor([0, 85, 170, 255]) / 255
    assert (video[:, 0, 16, 8::16] - expected).abs().max() <= 4


def test_a_gif_with_holes(tmp_path):
    frames = []
    for n in range(3):
        image = Image.new("RGBA", (30, 20), (0, 0, 0, 0))
        image.paste((255, 0, 0, 255), (10 * n, 0, 10 * n + 10, 20))
        frames.append(image)
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=100, disposal=2)
    video = io.read(tmp_path / "a.gif", dtype=torch.uint8).video
    expected = torch.zeros(3, 3, 20, 30, dtype=torch.uint8)
    for n in range(3):
        expected[0, n, :, 10 * n : 10 * n + 10] = 255
    assert torch.equal(video, expected)
    assert io.info(tmp_path / "a.gif").alpha


# sound


def tone(seconds: float, rate: int, channels: int = 1) -> torch.Tensor:
    """A rising whistle, so that a shift in time shows."""
    t = torch.arange(round(seconds * rate), dtype=torch.float64) / rate
    wave = 0.5 * torch.sin(2 * math.pi * (300 + 200 * t) * t).float()
    return torch.stack([wave * 0.6**c for c in range(channels)])


def snr(clean: torch.Tensor, noisy: torch.Tensor) -> float:
    return float(10 * torch.log10(clean.square().sum() / (clean - noisy).square().sum()))


@pytest.mark.parametrize(
    ("name", "rate", "channels"),
    [("a.mp4", 16_000, 1), ("a.mp4", 48_000, 2), ("a.mov", 44_100, 1), ("a.mkv", 16_000, 2),
     ("a.webm", 48_000, 1), ("a.mkv", 22_050, 1), ("a.npz", 11_111, 2)],
)  # fmt: skip
def test_sound_comes_back_in_time_with_the_pictures(tmp_path, name, rate, channels):
    wave = tone(3.0, rate, channels)
    io.write(tmp_path / name, waves(30), 10, sound=wave, sample_rate=rate)
    clip = io.read(tmp_path / name, sound=True)
    assert io.info(tmp_path / name).sound
    assert clip.sound.shape == (channels, 3 * clip.sample_rate)
    expected = tone(3.0, clip.sample_rate, channels)
    inner = slice(None, -clip.sample_rate // 10)  # filters ring where the sound stops
    assert snr(expected[:, inner], clip.sound[:, inner]) > 20
    part = io.read(tmp_path / name, sound=True, start=1.5, frames=7)
    first = round(1.5 * clip.sample_rate)
    assert part.sound.shape[1] == round(0.7 * clip.sample_rate)
    assert snr(clip.sound[:, first : first + part.sound.shape[1]], part.sound) > 40
    assert io.read(tmp_path / name).sound is None


def test_sound_that_begins_before_or_after_the_pictures(tmp_path):
    for lead in (0.5, -0.5):
        with av.open(str(tmp_path / "a.mkv"), "w") as container:
            video = container.add_stream("libx264", rate=10)
            video.width, video.height, video.pix_fmt = 64, 32, "yuv420p"
            video.codec_context.time_base = Fraction(1, 1000)
            sound = container.add_stream("pcm_s16le", rate=16_000, layout="mono")
            wave = (tone(3.0, 16_000) * 32767).short().numpy()
            frame = av.AudioFrame.from_ndarray(wave, format="s16", layout="mono")
            frame.rate, frame.pts = 16_000, round(max(0, -lead) * 16_000)
            container.mux(sound.encode(frame))
            for n in range(20):
                shown = av.VideoFrame.from_ndarray(picture(n), format="rgb24")
                shown.pts, shown.time_base = n * 100 + round(max(0, lead) * 1000), Fraction(1, 1000)
                container.mux(video.encode(shown))
            container.mux(video.encode(None))
            container.mux(sound.encode(None))
        clip = io.read(tmp_path / "a.mkv", sound=True)
        assert clip.sound.shape == (1, 32_000)
        silence = torch.zeros(1, 8000)
        expected = (
            tone(3.0, 16_000)[:, 8000:40_000] if lead > 0 else torch.cat([silence, tone(1.5, 16_000)], 1)
        )
        assert snr(expected, clip.sound) > 40


def test_a_silent_film_has_no_sound_and_a_short_sound_ends_in_silence(tmp_path):
    io.write(tmp_path / "a.mp4", waves(20), 10)
    assert io.read(tmp_path / "a.mp4", sound=True)[2:] == (None, None)
    io.write(tmp_path / "b.mkv", waves(20), 10, sound=tone(0.5, 16_000)[0], sample_rate=16_000)
    clip = io.read(tmp_path / "b.mkv", sound=True, start=0.2, seconds=1.5)
    rate = clip.sample_rate
    assert clip.sound.shape == (1, round(1.5 * rate))
    assert clip.sound[:, round(0.4 * rate) :].abs().max() < 1e-3
    assert clip.sound[:, : round(0.25 * rate)].abs().max() > 0.3


# size


def pil(pixels: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Scale one picture (3, H, W) by Pillow: uint8, or each plane in floating point."""
    if pixels.is_floating_point():
        planes = [
            Image.fromarray(plane.numpy()).resize(size[::-1], Image.Resampling.BICUBIC) for plane in pixels
        ]
        return torch.from_numpy(np.stack([np.asarray(plane) for plane in planes])).clamp(-1, 1)
    image = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    scaled = np.asarray(image.resize(size[::-1], Image.Resampling.BICUBIC))
    return torch.from_numpy(scaled.copy()).permute(2, 0, 1)


@pytest.fixture(scope="module")
def grain() -> torch.Tensor:
    """Noise (3, 4, 90, 161), uint8: whatever aliases shows."""
    return torch.randint(
        0, 256, (3, 4, 90, 161), generator=torch.Generator().manual_seed(1), dtype=torch.uint8
    )


@pytest.mark.parametrize("size", [(45, 80), (32, 32), (20, 100), (180, 300), (90, 161)])
def test_resize_against_pillow(grain, size):
    height, width = size
    stretched = io.resize(grain, size, "stretch")
    floating = io.resize(io.convert(grain, torch.float32), size, "stretch")
    assert (stretched.dtype, floating.dtype) == (torch.uint8, torch.float32)
    for n in range(4):
        assert (stretched[:, n].int() - pil(grain[:, n], size).int()).abs().max() <= 2
        oracle = pil(io.convert(grain[:, n], torch.float32), size)
        assert torch.allclose(floating[:, n], oracle, atol=1e-4)
    factor = max(height / 90, width / 161)
    cover = (max(height, int(90 * factor + 0.5)), max(width, int(161 * factor + 0.5)))
    top, left = (cover[0] - height) // 2, (cover[1] - width) // 2
    oracle = pil(grain[:, 0], cover)[:, top : top + height, left : left + width].int()
    assert (io.resize(grain, size)[:, 0].int() - oracle).abs().max() <= 1
    factor = min(height / 90, width / 161)
    inside = (min(height, int(90 * factor + 0.5)), min(width, int(161 * factor + 0.5)))
    top, left = (height - inside[0]) // 2, (width - inside[1]) // 2
    padded = io.resize(grain, size, "pad")[:, 0]
    oracle = torch.zeros(3, height, width, dtype=torch.int32)
    oracle[:, top : top + inside[0], left : left + inside[1]] = pil(grain[:, 0], inside).int()
    assert (padded.int() - oracle).abs().max() <= 1
    assert io.resize(io.convert(grain, torch.float32), size, "pad")[:, 0, 0, 0].max() <= 1


def test_resize_keeps_shapes_ranges_and_plain_colours(grain):
    assert io.resize(grain[:, 0], 16).shape == (3, 16, 16)
    assert io.resize(grain[0, 0], (7, 9)).shape == (7, 9)
    assert io.resize(grain[None, None], 8).shape == (1, 1, 3, 4, 8, 8)
    assert torch.equal(io.resize(grain, 16)[:, 2], io.resize(grain[:, 2], 16))
    sharp = torch.where(grain > 127, 1.0, -1.0)
    assert io.resize(sharp, (200, 300)).abs().max() <= 1
    plain = torch.full((3, 2, 40, 30), 0.3)
    for fit in ("crop", "stretch"):
        assert torch.allclose(io.resize(plain, (11, 64), fit), torch.tensor(0.3), atol=1e-6)
    padded = io.resize(plain, (40, 60), "pad")
    assert (padded[..., :15] == -1).all()
    assert torch.allclose(padded[..., 15:45], torch.tensor(0.3))
    half = io.resize(plain.bfloat16(), 10)
    assert half.dtype == torch.bfloat16
    assert not torch.equal(io.resize(grain, 16), io.resize(grain, 16, antialias=False))


def test_reading_at_a_size_is_reading_and_resizing(tmp_path):
    path = even_film(tmp_path / "a.mp4", 5)
    whole = io.read(path, dtype=torch.uint8).video
    for size, fit in ((16, "crop"), ((20, 50), "pad"), ((64, 64), "stretch")):
        part = io.read(path, size=size, fit=fit, dtype=torch.uint8).video
        expected = io.resize(whole.permute(1, 0, 2, 3), size, fit).transpose(0, 1)
        assert (part.int() - expected.int()).abs().max() <= 1
        clip = io.read(path, size=size, fit=fit).video
        assert torch.equal(clip, io.convert(part, torch.float32))


# images and arrays


def test_a_folder_is_read_in_natural_order(tmp_path):
    for n in (10, 9, 100, 1):
        Image.fromarray(picture(n)).save(tmp_path / f"f{n}.{'jpg' if n == 9 else 'png'}")
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / f"{TEMPORARY}x.png").write_bytes(b"half")
    clip = io.read(tmp_path)
    assert numbers(clip.video) == [1, 9, 10, 100]
    assert clip.fps == 25
    assert io.read(tmp_path, fps=8).fps == 8
    assert numbers(io.read(tmp_path, fps=8, start=0.25, frames=1).video) == [10]
    assert numbers(io.read(tmp_path / "f%d.png").video) == [1, 10, 100]
    about = io.info(tmp_path)
    assert (about.frames, about.width, about.height, about.codec) == (4, 64, 32, "images/png")
    Image.fromarray(picture(3)[::2, ::2]).save(tmp_path / "f11.png")
    with pytest.raises(InputError, match=r"different sizes, \(64, 32\) and \(32, 16\)"):
        io.read(tmp_path)
    assert numbers(io.read(tmp_path, size=(32, 64)).video) == [1, 9, 10, 3, 100]


def test_a_single_image_and_its_orientation(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    Image.fromarray(picture(77)).save(tmp_path / "a.png", exif=exif)
    about = io.info(tmp_path / "a.png")
    assert (about.frames, about.width, about.height) == (1, 32, 64)
    video = io.read(tmp_path / "a.png", dtype=torch.uint8).video
    assert torch.equal(video[:, 0], torch.from_numpy(np.rot90(picture(77), -1).copy()).permute(2, 0, 1))
    assert io.read(tmp_path / "a.png", fps=60).video.shape[1] == 1
    Image.fromarray(picture(77)).convert("L").save(tmp_path / "grey.jpg")
    assert numbers(io.read(tmp_path / "grey.jpg").video) == [77]


@pytest.mark.parametrize("name", ["a.webp", "a.tiff", "a.png"])
def test_an_image_file_of_several_pictures_is_not_cut_to_one(tmp_path, name):
    first, *rest = (Image.fromarray(picture(n)) for n in range(3))
    first.save(tmp_path / name, save_all=True, append_images=rest)
    with pytest.raises(InputError, match="several pictures"):
        io.read(tmp_path / name)


def test_arrays_of_every_layout_and_range(tmp_path):
    frames = np.stack([picture(n) for n in range(5)])
    unit = frames.astype(np.float32) / 255
    for n, array in enumerate(
        [frames, np.moveaxis(frames, -1, 0), unit, unit * 2 - 1, unit.astype(np.float64) * 255,
         np.moveaxis(unit, -1, 0) * 2 - 1, frames[..., :1], frames[..., 0], unit.astype(np.float16)]
    ):  # fmt: skip
        np.save(tmp_path / f"{n}.npy", array)
        np.savez(tmp_path / f"{n}.npz", anything=array, more=np.zeros(3))
        for suffix in (".npy", ".npz"):
            clip = io.read(tmp_path / f"{n}{suffix}", dtype=torch.uint8)
            assert torch.equal(clip.video, torch.from_numpy(frames).permute(3, 0, 1, 2))
            assert clip.fps == 25
    np.savez(tmp_path / "said.npz", video=unit, range=(-1, 1), fps=10)
    clip = io.read(tmp_path / "said.npz")
    assert (clip.fps, float(clip.video.min()), float(clip.video.max())) == (10, 0, 1)
    assert io.read(tmp_path / "said.npz", fps=5).video.shape[1] == 3


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ({"video": np.zeros((2, 4, 4, 4))}, "must be \\(F, H, W, 3\\)"),
        ({"video": np.zeros((2, 4, 4, 3), np.int32)}, "dtype=int32"),
        ({"video": np.full((2, 4, 4, 3), 1000.0)}, "values from 1e\\+03"),
        ({"video": np.full((2, 4, 4, 3), -9.0)}, "values from -9"),
        ({"video": np.full((2, 4, 4, 3), np.nan)}, "nan"),
        ({"video": np.zeros((0, 4, 4, 3))}, "\\(0, 4, 4, 3\\)"),
        ({"a": np.zeros((2, 4, 4, 3)), "b": np.zeros((2, 4, 4, 3))}, "name the pictures 'video'"),
        ({"video": np.zeros((2, 4, 4, 3)), "fps": 0.0}, "fps=0"),
        ({"video": np.zeros((2, 4, 4, 3)), "fps": "fast"}, "fps=fast"),
        ({"video": np.zeros((2, 4, 4, 3)), "sound": np.zeros(9), "sample_rate": 9}, "sound.shape"),
        ({"video": np.array([{}])}, "no NumPy file of plain arrays"),
    ],
)
def test_bad_arrays(tmp_path, entries, reason):
    np.savez(tmp_path / "a.npz", **entries)
    with pytest.raises(InputError, match=reason):
        io.read(tmp_path / "a.npz")


def test_a_series_replaces_a_longer_one_of_its_name(tmp_path):
    (tmp_path / "note.txt").write_text("stays")
    io.write(tmp_path / "f%02d.png", waves(7), 10)
    io.write(tmp_path / "f%02d.png", waves(4), 10)
    assert sorted(file.name for file in tmp_path.iterdir()) == [*(f"f0{n}.png" for n in range(4)), "note.txt"]


# bad input


def test_too_much_is_refused_before_it_is_read(tmp_path):
    path = even_film(tmp_path / "a.mp4", 100)
    with pytest.raises(InputError, match=r"frames=10 or less, seconds=0\.40 or less, .*use stream"):
        io.read(path, max_bytes=10 * 3 * 32 * 64 * 4)
    assert io.read(path, max_bytes=10 * 3 * 32 * 64 * 4, frames=10).video.shape[1] == 10
    assert io.read(path, max_bytes=100 * 3 * 32 * 64, dtype=torch.uint8).video.shape[1] == 100
    with pytest.raises(InputError, match="has 4000 frames of 4000x4000"):
        io.read(path, fps=1000, size=4000)
    with pytest.raises(InputError, match="use stream"):
        io.read(path, frames=10, size=8000, max_bytes=1 << 20)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.npz"])
def test_damaged_images_and_arrays(tmp_path, name):
    io.write(tmp_path / name, waves(1), 10)
    content = (tmp_path / name).read_bytes()
    for length in (len(content) // 2, len(content) - 60):
        (tmp_path / name).write_bytes(content[:length])
        with pytest.raises(InputError, match=r"damaged"):
            io.read(tmp_path / name)


BAD = {
    "empty.mp4": (b"", "empty"),
    "text.mp4": (b"no film at all\n" * 100, "no known video format"),
    "noise.webm": (bytes(range(256)) * 64, "no known video format"),
    "list.m3u8": (b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n/etc/passwd\n", "no known video format"),
    "list.ffconcat": (b"ffconcat version 1.0\nfile a.mp4\n", "no known video format"),
    "image.png": (b"\x89PNG\r\n\x1a\nbroken", "no known image format"),
    "array.npz": (b"PK\3\4 nothing", "no NumPy file"),
    "array.npy": (b"\x93NUMPY", "no NumPy file"),
}


@pytest.mark.parametrize("name", sorted(BAD))
def test_bad_files_are_named_with_the_reason(tmp_path, name):
    content, reason = BAD[name]
    (tmp_path / name).write_bytes(content)
    for use in (io.read, io.info, lambda path: list(io.stream(path, 4))):
        with pytest.raises(InputError, match=reason) as caught:
            use(tmp_path / name)
        assert name in str(caught.value)


def test_missing_files_and_folders(tmp_path):
    with pytest.raises(InputError, match=r"No such file.*Check the name"):
        io.read(tmp_path / "nowhere.mp4")
    with pytest.raises(InputError, match="folder without images"):
        io.read(tmp_path)
    with pytest.raises(InputError, match="matches no file"):
        io.read(tmp_path / "f%03d.png")
    with pytest.raises(InputError, match="must hold one %d"):
        io.read(tmp_path / "f%03d_%d.png")
    with pytest.raises(InputError, match="cannot be read"):
        io.read("nul\0byte.mp4")
    for name in ("x" * 300, "x" * 300 + ".png", "x" * 300 + ".npz"):
        with pytest.raises(InputError, match="File name too long"):
            io.read(name)


def test_a_sound_file_is_no_film(tmp_path):
    from mmdiff.audio import io as audio

    audio.write(tmp_path / "a.flac", tone(0.2, 16_000), 16_000)
    (tmp_path / "a.flac").rename(tmp_path / "flac.mp4")
    with av.open(str(tmp_path / "a.m4a"), "w") as container:
        stream = container.add_stream("aac", rate=16_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(tone(0.2, 16_000).numpy(), format="fltp", layout="mono")
        frame.rate = 16_000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    for name in ("a.m4a", "flac.mp4"):
        with pytest.raises(InputError, match=r"only sound|no known video format"):
            io.read(tmp_path / name)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.webm", "a.gif", "late.mp4"])
def test_half_a_film_is_never_taken_for_a_whole_one(tmp_path, name):
    rough = np.random.default_rng(0).integers(-60, 60, (100, 32, 64, 3))
    shown = np.stack([picture(n) for n in range(100)]) + rough
    video = torch.from_numpy(shown.clip(0, 255).astype(np.uint8)).permute(3, 0, 1, 2)
    if name == "late.mp4":
        even_film(tmp_path / name, 100)  # its index is at the end, where it is lost
    else:
        io.write(tmp_path / name, video, 25)
    content = (tmp_path / name).read_bytes()
    (tmp_path / f"half_{name}").write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"damaged|cut short"):
        io.read(tmp_path / f"half_{name}")
    if name in ("a.mp4", "a.mkv"):
        part = io.read(tmp_path / f"half_{name}", seconds=0.4, dtype=torch.uint8)
        assert numbers(part.video) == list(range(10))


def test_huge_pictures_are_refused_unseen(tmp_path):
    io.write(tmp_path / "a.gif", waves(2), 10)
    content = bytearray((tmp_path / "a.gif").read_bytes())
    content[6:10] = struct.pack("<2H", 65535, 65535)
    (tmp_path / "a.gif").write_bytes(content)
    with pytest.raises(InputError, match=r"65535x65535 pixels, more than|damaged"):
        io.read(tmp_path / "a.gif")
    for side in (12_000, 60_000):
        header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
        chunks = [b"IHDR" + header, b"IDAT" + zlib.compress(bytes(100)), b"IEND"]
        content = b"".join(
            struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
            for chunk in chunks
        )
        (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + content)
        with pytest.raises(InputError, match="more than 134217728"):
            io.read(tmp_path / "bomb.png")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"fps": 0}, "fps=0"),
        ({"fps": math.nan}, "fps=nan"),
        ({"start": -1}, "start=-1"),
        ({"start": math.inf}, "start=inf"),
        ({"frames": 0}, "frames=0"),
        ({"seconds": 0}, "seconds=0"),
        ({"frames": 3, "seconds": 1.0}, "give one of them"),
        ({"size": 0}, "size=0"),
        ({"size": (3, 4, 5)}, "size=\\(3, 4, 5\\)"),
        ({"size": 3.5}, "size=3.5"),
        ({"fit": "squeeze"}, "fit='squeeze'"),
        ({"dtype": torch.int64}, "dtype=torch.int64"),
    ],
)
def test_bad_arguments_of_reading(tmp_path, arguments, reason):
    io.write(tmp_path / "a.npz", waves(2), 10)
    with pytest.raises(InputError, match=reason):
        io.read(tmp_path / "a.npz", **arguments)
    with pytest.raises(InputError, match=reason):
        io.stream(tmp_path / "a.npz", 4, **arguments)


VIDEO = torch.zeros(3, 2, 16, 16)


@pytest.mark.parametrize(
    ("name", "arguments", "reason"),
    [
        ("a.xyz", {}, r"must end in \.mp4"),
        ("a", {}, "must end in"),
        ("f%d.mp4", {}, "series of images"),
        ("a.png", {}, "one picture only.*a_%04d.png.*save_sheet"),
        ("none/a.mp4", {}, "folder that exists"),
        (".", {}, "must end in"),
        ("a.mp4", {"fps": 0}, "fps=0"),
        ("a.mp4", {"fps": "fast"}, "fps='fast'"),
        ("a.gif", {"fps": 60}, "at most 50"),
        ("a.mp4", {"video": torch.zeros(3, 16, 16)}, "must be \\(C, F, H, W\\)"),
        ("a.mp4", {"video": torch.zeros(4, 2, 16, 16)}, "C = 3"),
        ("a.mp4", {"video": torch.zeros(3, 0, 16, 16)}, "no picture"),
        ("a.mp4", {"video": torch.zeros(3, 2, 0, 16)}, "size="),
        ("a.mp4", {"video": VIDEO.long()}, "dtype=torch.int64"),
        ("a.mp4", {"video": VIDEO + math.nan}, "NaN"),
        ("a.mp4", {"video": VIDEO + 255}, "up to 255"),
        ("a.mp4", {"quality": 99}, "quality=99"),
        ("a.gif", {"quality": 5}, "no meaning"),
        ("a.mp4", {"sound": torch.zeros(100)}, "together"),
        ("a.gif", {"sound": torch.zeros(100), "sample_rate": 16_000}, "cannot hold sound"),
        ("a.mp4", {"sound": torch.zeros(100), "sample_rate": 0}, "sample_rate=0"),
        ("a.mp4", {"sound": torch.zeros(6, 100), "sample_rate": 16_000}, "channels=6"),
        ("a.mp4", {"sound": torch.zeros(100).long(), "sample_rate": 16_000}, "sound.dtype"),
        ("a.mp4", {"sound": torch.zeros(100) + math.inf, "sample_rate": 16_000}, "NaN or infinite"),
    ],
)
def test_bad_arguments_of_writing_leave_nothing_behind(tmp_path, name, arguments, reason):
    arguments = {"video": VIDEO, "fps": 10, **arguments}
    with pytest.raises(InputError, match=reason):
        io.write(tmp_path / name, **arguments)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a.mp4", "a.webm", "a.gif", "a.npz", "f%d.png"])
def test_a_failure_while_writing_keeps_the_old_file(tmp_path, name):
    io.write(tmp_path / name, waves(3), 10)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    def write(*blocks: torch.Tensor | None) -> None:
        with io.writer(tmp_path / name, 10, (48, 64)) as file:
            for block in blocks:
                file.write(block if block is not None else 1 / 0)

    with pytest.raises(ZeroDivisionError):
        write(waves(2), None)
    with pytest.raises(InputError, match=r"must be \(C, F, 48, 64\)"):
        write(waves(2), waves(2, 32, 32))
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


@pytest.mark.parametrize("ending", [".mp4", ".gif", ".png", "%d.png", ".npz"])
def test_a_file_that_the_system_refuses_is_named(tmp_path, ending):
    with pytest.raises(InputError, match=r"cannot be written: File name too long"):
        io.write(tmp_path / ("x" * 250 + ending), torch.zeros(3, 1, 16, 16), 5)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["a.mp4", "a.npz", "a%d.png"])
def test_a_folder_that_vanishes_is_named(tmp_path, name):
    (tmp_path / "gone").mkdir()

    def write() -> None:
        with io.writer(tmp_path / "gone" / name, 8, 16) as file:
            file.write(torch.zeros(3, 2, 16, 16))
            shutil.rmtree(tmp_path / "gone")

    with pytest.raises(InputError, match="cannot be written: No such file"):
        write()


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (3, 5), (1, 300)])
@pytest.mark.parametrize("name", ["a.mp4", "a.webm", "a.gif"])
def test_tiny_pictures(tmp_path, name, size):
    io.write(tmp_path / name, torch.zeros(3, 2, *size), 8)
    even = [side + side % 2 for side in size] if name == "a.mp4" else size
    assert io.read(tmp_path / name).video.shape == (3, 2, *even)


def test_a_missing_sound_track_is_named(tmp_path):
    with pytest.raises(InputError, match="no sample_rate"), io.writer(tmp_path / "a.mp4", 10, 16) as file:
        file.write(VIDEO, torch.zeros(100))


def test_a_long_film_is_streamed_in_bounded_memory(tmp_path, monkeypatch):
    block = waves(50, 96, 128)
    with io.writer(tmp_path / "a.mp4", 25, (96, 128), quality=40) as file:
        for _ in range(8):
            file.write(block)
    monkeypatch.setattr(pictures, "_WORK_BYTES", 1 << 20)
    tracemalloc.start()  # counts NumPy's arrays, which is where decoded pictures begin
    count = sum(part.shape[1] for part in io.stream(tmp_path / "a.mp4", 10, size=16))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 400
    assert peak < 4e6  # the whole is 15 MB

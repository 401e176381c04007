from __future__ import annotations

import gc
import json
import multiprocessing
import pickle
import re
import tarfile
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader

from mmdiff.errors import InputError
from mmdiff.training import Trainer
from mmdiff.training.data import MicroBatches
from mmdiff.video import frames as frames_module
from mmdiff.video.cache import CachedFrames, default_folder
from mmdiff.video.data import (
    ImageFolder,
    VideoClips,
    VideoItem,
    collate_clips,
    find_images,
    find_train_valid,
    find_videos,
)
from mmdiff.video.decode import Movie
from mmdiff.video.flips import DIRECTION_WORDS, may_flip
from mmdiff.video.frames import Frames
from mmdiff.video.shards import expand, read_shards, write_shards
from mmdiff.video.with_stills import WithStills

SIZE = 32
STEP = 8  # grey levels from one frame to the next
LEFT = 200  # blue of the left half; the right half has none


def pictures(frames: int = 12, identity: int = 0) -> np.ndarray:
    """Frames that say in red which they are, in green whose they are, and in blue where left is."""
    made = np.zeros((frames, SIZE, SIZE, 3), np.uint8)
    made[..., 0] = STEP * np.arange(frames)[:, None, None]
    made[..., 1] = 10 * identity
    made[:, :, : SIZE // 2, 2] = LEFT
    return made


def video(path: Path, frames: int = 12, identity: int = 0, fps: int = 10, codec: str = "ffv1") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps)
        stream.width = stream.height = SIZE
        stream.pix_fmt = "bgr0" if codec == "ffv1" else "yuv420p"
        for picture in pictures(frames, identity):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def text(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
    return path


def picture(path: Path, identity: int = 0, side: int = SIZE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pictures(1, identity)[0]).resize((side, side), Image.Resampling.NEAREST).save(path)
    return path


def shown(clip: dict) -> list[int]:
    """Numbers of a clip's frames; every pixel of a frame must say the same."""
    red = clip["video"][0]
    assert all(bool((frame == frame[0, 0]).all()) for frame in red)
    return [int(frame[0, 0]) // STEP for frame in red]


def whose(clip: dict) -> int:
    return int(clip["video"][1].unique().item()) // 10


def mirrored(clip: dict) -> bool:
    blue = clip["video"][2]
    left, right = blue[..., : SIZE // 2].unique().tolist(), blue[..., SIZE // 2 :].unique().tolist()
    assert sorted((*left, *right)) == [0, LEFT]
    return left == [0]


def make_clips(items, tmp_path, frames=4, **options) -> VideoClips:
    plain = {"seed": 0, "flip": False, "cache": tmp_path / "cache", "progress": False}
    return VideoClips(items, frames, SIZE, **{**plain, **options})


@pytest.fixture(scope="module")
def three(tmp_path_factory) -> list[VideoItem]:
    """Videos of 6, 12 and 24 frames with captions."""
    folder = tmp_path_factory.mktemp("three")
    for identity, frames in enumerate((6, 12, 24)):
        video(folder / f"{identity}.mkv", frames, identity)
        text(folder / f"{identity}.txt", f"video\n {identity} ")
    return find_videos(folder)


def names(items) -> list[str]:
    return [Path(item.name).name for item in items]


def touch(path: Path) -> Path:
    """Finding does not open videos."""
    return text(path, "")


# finding videos


def test_a_folder_is_searched_in_order_with_captions_beside(tmp_path):
    for name in ("b/x/2.MP4", "b/1.webm", "a/3.gif", "top.mov", ".hidden/4.mp4", "a/.5.mp4", "a/code.ts"):
        touch(tmp_path / name)
    text(tmp_path / "b/1.txt", " what is\nshown\n")
    found = find_videos(tmp_path)
    assert [str(item.path.relative_to(tmp_path)) for item in found] == [
        "top.mov",
        "a/3.gif",
        "b/1.webm",
        "b/x/2.MP4",
    ]
    assert [item.caption for item in found] == [None, None, "what is shown", None]
    assert {item.label for item in found} == {None}
    assert find_videos(tmp_path / "b/1.webm") == [VideoItem(tmp_path / "b/1.webm", "what is shown")]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metadata.csv", "file,caption,label,start,end\nx/1.mp4,hello,3,0.5,62\n"),
        ("captions.tsv", "VIDEO\ttext\tlabel\tstart_time\tend_time\nx/1.mp4\thello\t3\t0.5\t1:02\n"),
        (
            "captions.jsonl",
            json.dumps({"path": "x/1.mp4", "text": "hello", "label": 3, "start": 0.5, "end": 62}),
        ),
    ],
)
@pytest.mark.parametrize("given", ["folder", "file"])
def test_manifests(tmp_path, name, content, given):
    touch(tmp_path / "x/1.mp4")
    touch(tmp_path / "x/unlisted.mp4")
    for mark in ("", "\ufeff"):  # as saved on Windows
        text(tmp_path / name, mark + content)
        found = find_videos(tmp_path if given == "folder" else tmp_path / name)
        assert found == [VideoItem(tmp_path / "x/1.mp4", "hello", 3, 0.5, 62.0)]


def test_classes_by_name_are_numbered_over_all_splits(tmp_path):
    for name in "1234":
        touch(tmp_path / f"{name}.mp4")
    text(tmp_path / "train.csv", "file,label\n1.mp4,swim\n2.mp4,run\n")
    text(tmp_path / "val.csv", "file,label\n3.mp4,swim\n")
    text(tmp_path / "test.txt", "4.mp4|somebody walks\n")
    text(tmp_path / "3.txt", "a fish")
    train, valid = find_train_valid(tmp_path)
    assert [(item.label, item.caption) for item in train + valid] == [(1, None), (0, None), (1, "a fish")]
    assert [item.caption for item in find_videos(tmp_path, split="test")] == ["somebody walks"]
    assert names(find_videos(tmp_path)) == ["1.mp4", "2.mp4", "3.mp4", "4.mp4"]
    text(tmp_path / "val.csv", "file,label\n3.mp4,7\n")
    with pytest.raises(InputError, match="both numbers and names"):
        find_videos(tmp_path)


def test_a_column_gives_the_splits(tmp_path):
    for name in "12345":
        touch(tmp_path / f"{name}.mp4")
    lines = "file,split\n1.mp4,train\n2.mp4,validation\n3.mp4,train\n4.mp4,test\n5.mp4,extra\n"
    text(tmp_path / "metadata.csv", lines)
    train, valid = find_train_valid(tmp_path)
    assert (names(train), names(valid)) == (["1.mp4", "3.mp4"], ["2.mp4"])
    assert names(find_videos(tmp_path, split="val")) == ["2.mp4"]
    assert names(find_videos(tmp_path / "metadata.csv", split="extra")) == ["5.mp4"]
    assert len(find_videos(tmp_path)) == 5
    with pytest.raises(InputError, match=r"split='night' must be one that .*\(train, valid, test, extra\)"):
        find_videos(tmp_path, split="night")


def test_split_folders_may_have_captions_files_of_their_own(tmp_path):
    for name in ("train/1.mp4", "train/deep/2.mp4", "val/3.mp4", "val/4.mp4", "test/5.mp4"):
        touch(tmp_path / name)
    text(tmp_path / "val/metadata.jsonl", json.dumps({"file_name": "4.mp4", "text": "four"}))
    train, valid = find_train_valid(tmp_path)
    assert (names(train), names(valid)) == (["1.mp4", "2.mp4"], ["4.mp4"])
    assert valid[0].caption == "four"
    assert names(find_videos(tmp_path)) == ["5.mp4", "1.mp4", "2.mp4", "4.mp4"]
    assert names(find_videos(tmp_path, "folder")) == ["5.mp4", "1.mp4", "2.mp4", "3.mp4", "4.mp4"]


def test_what_has_no_splits_is_split_by_file(tmp_path):
    rows = [{"file": f"{n:03}.mp4", "start": start} for n in range(120) for start in (0, 5)]
    for n in range(120):
        touch(tmp_path / f"{n:03}.mp4")
    train, valid = find_train_valid(tmp_path)
    assert names(valid) == ["030.mp4", "090.mp4"]
    assert sorted(names(train + valid)) == [f"{n:03}.mp4" for n in range(120)]
    text(tmp_path / "captions.jsonl", "\n".join(map(json.dumps, rows)))
    train, valid = find_train_valid(tmp_path)
    assert names(valid) == ["030.mp4", "030.mp4", "090.mp4", "090.mp4"]
    assert not set(names(train)) & set(names(valid))
    with pytest.raises(InputError, match="two videos or more"):
        find_train_valid(tmp_path / "000.mp4")
    only_test = [touch(tmp_path / "tested" / name) for name in ("1.mp4", "2.mp4", "test/3.mp4")]
    train, valid = find_train_valid(only_test[0].parent)
    assert sorted(names(train + valid)) == ["1.mp4", "2.mp4"]


UCF = ("ApplyEyeMakeup", "YoYo")


def ucf(root: Path) -> Path:
    for name in UCF:
        for group in (1, 2, 3):
            for take in (1, 2):
                touch(root / f"UCF-101/{name}/v_{name}_g{group:02}_c{take:02}.avi")
    return root


@pytest.mark.parametrize("inside", [True, False])
def test_ucf101(tmp_path, inside):
    root = ucf(tmp_path)
    source = root / "UCF-101" if inside else root
    found = find_videos(source)
    assert len(found) == 12
    assert {(item.caption, item.label) for item in found} == {("apply eye makeup", 0), ("yo yo", 1)}
    train, valid = find_train_valid(source)  # without the lists, by recording
    assert len(valid) == 2
    assert len({item.group for item in valid}) == 1
    assert not {item.group for item in train} & {item.group for item in valid}

    lists = root / "ucfTrainTestlist"
    text(lists / "classInd.txt", "1 ApplyEyeMakeup\n2 Archery\n3 YoYo\n")
    text(lists / "testlist01.txt", "".join(f"{n}/v_{n}_g01_c0{c}.avi\n" for n in UCF for c in (1, 2)))
    rest = [f"{n}/v_{n}_g0{g}_c0{c}.avi" for n in UCF for g in (2, 3) for c in (1, 2)]
    text(lists / "trainlist01.txt", "".join(f"{name} 1\n" for name in rest))
    text(lists / "trainlist02.txt", f"{rest[0]} 1\n")
    assert [str(i.path.relative_to(root / "UCF-101")) for i in find_videos(source, split="train")] == rest
    assert {item.group for item in find_videos(source, split="test")} == {f"v_{n}_g01" for n in UCF}
    assert len(find_videos(source, split="train02")) == 1
    assert {item.label for item in find_videos(source)} == {0, 2}  # also where a class is missing
    train, valid = find_train_valid(source)
    assert len(train) + len(valid) == 8
    assert not any("_g01_" in item.name for item in train + valid)
    text(lists / "testlist01.txt", "YoYo/v_YoYo_g01_c01.avi\nYoYo/v_YoYo_g25_c01.avi\n")
    with pytest.warns(UserWarning, match=r"1 of 2 videos of .*testlist01.txt.* not there, .*g25_c01"):
        assert len(find_videos(source, "ucf101", "test")) == 1


def test_class_folders_when_asked_for(tmp_path):
    for name in ("train/playing_Cello/a.mp4", "train/Run/b.mp4", "test/Run/c.mp4"):
        touch(tmp_path / name)
    found = find_videos(tmp_path, "classes")
    assert [(i.caption, i.label) for i in found] == [("run", 0), ("run", 0), ("playing cello", 1)]
    assert [(i.caption, i.label) for i in find_videos(tmp_path, "classes", "test")] == [("run", 0)]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("m.txt", "1.mp4\nnone.mp4\n", "line 2 names .*none.mp4"),
        ("m.jsonl", "{\n", "line 1 must be one JSON object"),
        ("m.csv", "name,text\n1.mp4,hello\n", "line 2 must name its file under file, video, path"),
        ("m.csv", "file,start\n1.mp4,soon\n", "start='soon' must be seconds"),
        ("m.csv", "file,start\n1.mp4,-1\n", "start='-1' must be seconds"),
        ("m.csv", "file,start,end\n1.mp4,3,2\n", "end=2 must be after start=3"),
        ("m.csv", "file,label\n1.mp4,1.5\n", "label='1.5' must be a whole number"),
        ("m.csv", "file\n1.jpg\n", "has no videos"),
        ("m.doc", "1.mp4\n", "must be a video, a .tar or a manifest"),
    ],
)
def test_bad_manifests(tmp_path, name, content, reason):
    touch(tmp_path / "1.mp4")
    touch(tmp_path / "1.jpg")
    with pytest.raises(InputError, match=reason):
        find_videos(text(tmp_path / name, content))


def test_bad_sources(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        find_videos(tmp_path / "none")
    with pytest.raises(InputError, match="has no videos"):
        find_videos(tmp_path)
    with pytest.raises(InputError, match="layout='kinetics'"):
        find_videos(tmp_path, "kinetics")
    with pytest.raises(InputError, match="must lie on this machine"):
        find_videos("https://somewhere/shard-{0..9}.tar")
    with pytest.raises(InputError, match=r"metadata.csv or captions.jsonl"):
        find_videos(tmp_path, "manifest")
    (tmp_path / "m.csv").write_bytes(b"file\n\xff\xfe\x00")
    with pytest.raises(InputError, match="UTF-8"):
        find_videos(tmp_path / "m.csv")
    (tmp_path / "a").mkdir()
    (tmp_path / "a/circle").symlink_to(tmp_path / "a", target_is_directory=True)
    with pytest.raises(InputError, match="link in a circle"):
        find_videos(tmp_path / "a")
    touch(tmp_path / "metadata.csv")
    touch(tmp_path / "captions.jsonl")
    with pytest.raises(InputError, match=r"metadata.csv and captions.jsonl: remove all but one"):
        find_videos(tmp_path)


# mirroring


@pytest.mark.parametrize(
    ("caption", "may"),
    [
        ("a dog runs", True),
        (None, True),
        ("it stands upright, all right", False),
        ("an upright piano, brightly lit", True),
        ("turning Left.", False),
        ("a left-handed player", False),
        ("from left-to-right", False),
        ("spins counter-clockwise", False),
        ("an ANTICLOCKWISE turn", False),
        ("leftovers in a copyright office", True),
        ("birds fly eastwards", False),
        ("the word STOP on a sign", False),
    ],
)
def test_captions_that_a_mirror_would_make_false(caption, may):
    assert may_flip(caption) is may
    assert all(re.fullmatch("[a-z]+", word) for word in DIRECTION_WORDS)


@pytest.mark.parametrize(
    ("flip", "plain", "directed"), [("auto", True, False), (True, True, True), (False, False, False)]
)
def test_half_of_the_clips_are_mirrored_where_allowed(tmp_path, flip, plain, directed):
    for caption, may in (("a dog", plain), ("a dog to the left", directed)):
        path = video(tmp_path / "a.mkv")
        data = make_clips([VideoItem(path, caption)], tmp_path, flip=flip)
        share = np.mean([mirrored(data[n]) for n in range(200)])
        assert (0.38 < share < 0.62) if may else share == 0


# clips


def test_a_clip_is_a_pure_function_of_seed_and_number(three, tmp_path):
    first = make_clips(three, tmp_path, seed=7, flip=True)
    again = make_clips(three, tmp_path / "other", seed=7, flip=True)
    other = make_clips(three, tmp_path, seed=8, flip=True)
    order = [5, 0, 10**12, 5]
    made = [first[n] for n in order]
    assert torch.equal(made[0]["video"], made[3]["video"])
    for n, clip in zip(order, made, strict=True):
        assert torch.equal(again[n]["video"], clip["video"])
        assert again[n]["caption"] == clip["caption"]
    assert any(not torch.equal(other[n]["video"], first[n]["video"]) for n in range(3))
    assert made[0]["video"].dtype == torch.uint8
    assert made[0]["video"].shape == (3, 4, SIZE, SIZE)
    assert made[0]["video"].is_contiguous()
    assert set(made[0]) == {"video", "caption"}
    with pytest.raises(IndexError):
        first[-1]


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("keep", [True, False])
def test_a_clip_is_what_the_video_shows(three, tmp_path, stride, keep):
    data = make_clips(three, tmp_path, stride=stride, cache=tmp_path / "cache" if keep else False)
    lengths, starts = (6, 12, 24), set()
    for n in range(150 if keep else 30):
        clip = data[n]
        numbers, identity = shown(clip), whose(clip)
        expected = numbers[0] + stride * np.arange(4)
        assert numbers == np.minimum(expected, lengths[identity] - 1).tolist()
        assert clip["caption"] == f"video {identity}"
        assert expected[-1] < lengths[identity] or (numbers[0] == 0 and stride == 2)
        if identity == 1:
            starts.add(numbers[0])
    if keep:
        assert starts == set(range(12 - 3 * stride))


def test_videos_are_drawn_in_proportion_to_their_length(three, tmp_path):
    data = make_clips(three, tmp_path)
    counts = np.bincount([whose(data[n]) for n in range(800)], minlength=3)
    expected = 800 * np.array((6, 12, 24)) / 42
    assert ((counts - expected) ** 2 / expected).sum() < 13.8  # chi-squared, 2 degrees of freedom, p = 0.001
    assert data.frames_in_all == 42


def test_short_videos_are_held_or_skipped(three, tmp_path):
    held = make_clips(three, tmp_path, frames=13)
    seen = {whose(clip): shown(clip) for clip in (held[n] for n in range(60))}
    assert seen[0] == [0, 1, 2, 3, 4, 5] + [5] * 7
    assert seen[1] == [*range(12), 11]
    skipped = make_clips(three, tmp_path, frames=13, short="skip")
    assert {whose(skipped[n]) for n in range(60)} == {2}
    assert {whose(make_clips(three, tmp_path, frames=12, short="skip")[n]) for n in range(60)} == {1, 2}
    with pytest.raises(InputError, match=r"frames=25 at stride=1: all videos are shorter, 24 frames at most"):
        make_clips(three, tmp_path, frames=25, short="skip")


@pytest.mark.parametrize("keep", [True, False])
def test_frame_rates_are_brought_to_one(tmp_path, keep):
    items = [
        VideoItem(video(tmp_path / "10.mkv", 12, 0, fps=10)),
        VideoItem(video(tmp_path / "20.mkv", 24, 1, fps=20)),
    ]
    data = make_clips(items, tmp_path, fps=10, cache=tmp_path / "cache" if keep else False)
    for clip in (data[n] for n in range(12)):
        numbers = shown(clip)
        step = 1 + whose(clip)
        assert np.diff(numbers).tolist() == [step] * 3
        assert numbers[0] % step == 0
    slow = make_clips(items[:1], tmp_path, fps=5, cache=tmp_path / "cache" if keep else False)
    assert all(np.diff(shown(slow[n])).tolist() == [2] * 3 for n in range(5))


@pytest.mark.parametrize("keep", [True, False])
def test_only_the_part_that_counts_is_shown(tmp_path, keep):
    path = video(tmp_path / "a.mkv", 24)
    parts = [VideoItem(path, "early", 4, 0.0, 0.6), VideoItem(path, "late", 9, 1.2)]
    data = make_clips(parts, tmp_path, cache=tmp_path / "cache" if keep else False)
    seen = {"early": set(), "late": set()}
    for clip in (data[n] for n in range(80 if keep else 40)):
        seen[clip["caption"]] |= set(shown(clip))
        assert clip["label"] == {"early": 4, "late": 9}[clip["caption"]]
    assert seen == {"early": set(range(6)), "late": set(range(12, 24))}


def test_label_only_where_all_items_have_one(tmp_path):
    path = video(tmp_path / "a.mkv")
    assert make_clips([VideoItem(path, label=3)], tmp_path)[0]["label"] == 3
    assert "label" not in make_clips([VideoItem(path, label=3), VideoItem(path)], tmp_path)[0]
    assert make_clips([VideoItem(path)], tmp_path)[0]["caption"] == ""


def test_actions_go_with_their_frames(three, tmp_path):
    for item, frames in zip(three, (6, 12, 24), strict=True):
        row = {"file": str(item.path), "actions": list(range(frames))}
        with (tmp_path / "captions.jsonl").open("a") as manifest:
            manifest.write(json.dumps(row) + "\n")
    found = find_videos(tmp_path)
    shards = write_shards(found, tmp_path / "shards", progress=False)
    for items in (found, read_shards(shards)):
        data = make_clips(items, tmp_path, frames=8, flip="auto")
        for clip in (data[n] for n in range(12)):
            assert clip["actions"].tolist() == shown(clip)
            assert not mirrored(clip)  # a step to the left would become one to the right
    slow = make_clips(found, tmp_path, fps=5)
    assert all(slow[n]["actions"].tolist() == shown(slow[n]) for n in range(12))
    assert "actions" not in make_clips([*found, *three], tmp_path)[0]
    text(tmp_path / "m.csv", f"file,actions\n{three[0].path},up down\n")
    with pytest.raises(InputError, match="line 2: actions must be whole numbers"):
        find_videos(tmp_path / "m.csv")


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
def test_size_and_fit(tmp_path, fit):
    path = video(tmp_path / "a.mkv")
    clip = VideoClips(
        [VideoItem(path)], 2, (16, 32), seed=0, flip=False, fit=fit, cache=tmp_path, progress=False
    )[0]
    assert clip["video"].shape == (3, 2, 16, 32)
    # blue is left of the middle of the picture, and nowhere else: 16 columns, 8 where the height fits
    assert int((clip["video"][2, 0, 8] > LEFT // 2).sum()) == (8 if fit == "pad" else 16)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"frames": 0}, "frames=0"),
        ({"stride": 0}, "stride=0"),
        ({"fps": 0.0}, "fps=0.0"),
        ({"flip": "never"}, "flip='never'"),
        ({"fit": "squeeze"}, "fit='squeeze'"),
        ({"short": "loop"}, "short='loop'"),
        ({"cache_gb": 0}, "cache_gb=0"),
    ],
)
def test_bad_arguments(three, tmp_path, arguments, reason):
    with pytest.raises(InputError, match=reason):
        make_clips(three, tmp_path, **arguments)


# kept frames


@pytest.fixture
def decoded(monkeypatch) -> list[str]:
    """Names of the videos decoded so far."""
    done: list[str] = []
    every = Frames.every

    def counted(self, item):
        done.append(item.path.name)
        return every(self, item)

    monkeypatch.setattr(frames_module.Frames, "every", counted)
    return done


def test_videos_are_decoded_once_and_again_when_they_or_the_settings_change(tmp_path, decoded):
    items = [VideoItem(video(tmp_path / f"{n}.mkv", 6, n), caption) for n in range(2) for caption in "ab"]
    for _ in range(3):
        make_clips(items, tmp_path)
    assert sorted(decoded) == ["0.mkv", "1.mkv"]
    video(tmp_path / "1.mkv", 12, 1)
    assert make_clips(items, tmp_path).frames_in_all == 2 * (6 + 12)
    assert sorted(decoded) == ["0.mkv", "1.mkv", "1.mkv"]
    make_clips([*items, VideoItem(video(tmp_path / "2.mkv"))], tmp_path)
    assert decoded[3:] == ["2.mkv"]
    make_clips(items[:1], tmp_path, fps=5)
    assert decoded[4:] == ["0.mkv"]


def test_what_is_damaged_or_missing_is_made_again(three, tmp_path, decoded):
    data = make_clips(three, tmp_path)
    wanted = [data[n]["video"] for n in range(12)]
    files = sorted((tmp_path / "cache").rglob("*.npy"))
    assert len(files) == 3

    def damage() -> None:
        files[0].write_bytes(files[0].read_bytes()[:-1])
        files[1].write_bytes(b"")
        files[2].unlink()

    for renew in (lambda: make_clips(three, tmp_path), lambda: data):  # at the start, and while running
        damage()
        decoded.clear()
        renewed = renew()
        assert all(torch.equal(renewed[n]["video"], video) for n, video in enumerate(wanted))
        assert len(decoded) == 3
    for file in files:
        file.write_bytes(b"x" + file.read_bytes()[1:])
    renewed = make_clips(three, tmp_path)
    assert all(torch.equal(renewed[n]["video"], video) for n, video in enumerate(wanted))
    assert len(decoded) == 6


def test_of_two_that_start_at_once_one_decodes(three, tmp_path, decoded):
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda _: make_clips(three, tmp_path), range(2)))
    assert [data.frames_in_all for data in both] == [42, 42]
    assert sorted(decoded) == ["0.mkv", "1.mkv", "2.mkv"]


def test_an_interrupted_decoding_goes_on_where_it_stopped(three, tmp_path, monkeypatch, decoded):
    write = CachedFrames._write

    def interrupt(self, key, item, spend):
        if item is three[1]:
            raise KeyboardInterrupt
        return write(self, key, item, spend)

    with monkeypatch.context() as patch:
        patch.setattr(CachedFrames, "_write", interrupt)
        with pytest.raises(KeyboardInterrupt):
            make_clips(three, tmp_path)
    kept = [p.name for p in (tmp_path / "cache").rglob("*") if p.is_file() and p.name != ".lock"]
    assert all(name.endswith(".npy") and not name.startswith(".tmp-") for name in kept)
    before = len(decoded)
    assert make_clips(three, tmp_path).frames_in_all == 42
    assert len(decoded) - before == 3 - len(kept)


def test_kept_frames_are_plain_arrays_and_bounded(three, tmp_path):
    cached = CachedFrames(three, Frames((SIZE, SIZE)), tmp_path / "cache", progress=False)
    arrays = sorted((np.load(file) for file in (tmp_path / "cache").rglob("*.npy")), key=len)
    assert [array.shape for array in arrays] == [(n, 3, SIZE, SIZE) for n in (6, 12, 24)]
    assert np.array_equal(arrays[1], pictures(12, 1).transpose(0, 3, 1, 2))
    assert np.array_equal(cached.read(1, np.array([2, 2, 7])), arrays[1][[2, 2, 7]])
    room = 40 * 3 * SIZE * SIZE / 1e9  # for 40 of 42 frames
    with pytest.raises(InputError, match=r"cache_gb=.* is full after [012] of 3 videos"):
        make_clips(three, tmp_path / "small", cache_gb=room)
    kept = sum(np.load(file).nbytes for file in (tmp_path / "small").rglob("*.npy"))
    assert kept <= room * 1e9
    assert make_clips(three, tmp_path / "small").frames_in_all == 42


@pytest.mark.parametrize("keep", [True, False])
def test_unreadable_videos_are_left_out_with_a_warning_or_refused_when_many(tmp_path, keep):
    good = [VideoItem(video(tmp_path / f"{n}.mkv", 4, n)) for n in range(12)]
    bad = VideoItem(text(tmp_path / "bad.mp4", "no video"))
    past = VideoItem(good[0].path, start=7.0)
    cache = tmp_path / "cache" if keep else False
    with pytest.warns(UserWarning, match=r"1 of 13 clips cannot be used: path=.*bad.mp4.*left out"):
        data = make_clips([*good[:6], bad, *good[6:]], tmp_path, cache=cache)
    assert {whose(data[n]) for n in range(100 if keep else 10)} <= set(range(12))
    with pytest.raises(InputError, match=r"3 of 14 clips cannot be used: .*(7|start)"):
        make_clips(
            [*good[:11], bad, VideoItem(text(tmp_path / "worse.mp4", "none")), past], tmp_path, cache=cache
        )
    with pytest.raises(InputError, match="1 of 1 clips"):
        make_clips([bad], tmp_path, cache=cache)
    with pytest.raises(InputError, match="at least one video"):
        make_clips([], tmp_path, cache=cache)
    with pytest.raises(InputError, match=r"gone.mp4' cannot be read"):
        make_clips([VideoItem(tmp_path / "gone.mp4")], tmp_path, cache=cache)


def test_a_folder_that_cannot_be_written_is_named(three, tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"cache=.*cannot be written"):
        make_clips(three, tmp_path, cache=text(tmp_path / "file", ""))
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert default_folder() == Path("/somewhere/mmdiff/video")


def test_pickling_does_not_carry_the_frames(three, tmp_path):
    data = make_clips(three, tmp_path)
    packed = pickle.dumps(data)
    assert len(packed) < 5000
    assert torch.equal(pickle.loads(packed)[3]["video"], data[3]["video"])


# pictures


def test_pictures_with_captions(tmp_path):
    for n in range(3):
        picture(tmp_path / f"{n}.png", n, side=SIZE * 2)
        text(tmp_path / f"{n}.txt", f"picture {n}")
    touch(tmp_path / "film.mp4")
    images = ImageFolder(tmp_path, SIZE, seed=0, flip=False, cache=tmp_path / "cache", progress=False)
    assert names(images.items) == ["0.png", "1.png", "2.png"]
    seen = {}
    for item in (images[n] for n in range(30)):
        identity = int(item["image"][1, SIZE // 2, SIZE // 4]) // 10
        assert item["image"].shape == (3, SIZE, SIZE)
        assert item["image"].dtype == torch.uint8
        assert item["caption"] == f"picture {identity}"
        assert item["image"][2, 5].tolist()[:: SIZE - 1] == [LEFT, 0]
        seen[identity] = item["image"]
    assert set(seen) == {0, 1, 2}
    assert torch.equal(images[7]["image"], images[7]["image"])
    with pytest.raises(InputError, match="has no pictures"):
        find_images(text(tmp_path / "films.csv", "file\nfilm.mp4\n"))


def test_stills_come_from_pictures_in_turn(three, tmp_path):
    for n in range(3, 6):
        picture(tmp_path / f"images/{n}.png", n)
        text(tmp_path / f"images/{n}.txt", str(n))
    clips = make_clips(three, tmp_path)
    images = ImageFolder(tmp_path / "images", SIZE, seed=1, cache=tmp_path / "cache", progress=False)
    mixed = WithStills(clips, images, stills=2)
    for n in range(20):
        item = mixed[n]
        assert torch.equal(item["video"], clips[n]["video"])
        assert item["stills"].shape == (2, 3, SIZE, SIZE)
        assert item["still_captions"] == [images[2 * n + k]["caption"] for k in range(2)]
        assert torch.equal(item["stills"], torch.stack([images[2 * n + k]["image"] for k in range(2)]))
    small = ImageFolder(tmp_path / "images", 16, seed=1, cache=tmp_path / "cache", progress=False)
    with pytest.raises(InputError, match=r"images of shape \(3, 16, 16\) must be of the clips'"):
        WithStills(clips, small)[0]


def test_stills_without_pictures_are_frames_of_other_clips(three, tmp_path):
    mixed = WithStills(make_clips(three, tmp_path), stills=3)
    pairs, frames = [], set()
    for n in range(300):
        item = mixed[n]
        for still, caption in zip(item["stills"], item["still_captions"], strict=True):
            identity = int(still[1, 0, 0]) // 10
            assert caption == f"video {identity}"
            pairs.append((whose(item), identity))
            frames.add((identity, int(still[0, 0, 0]) // STEP))
    assert torch.equal(mixed[4]["stills"], mixed[4]["stills"])
    assert len(frames) == 42  # every frame of every video
    table = np.zeros((3, 3))
    np.add.at(table, tuple(np.array(pairs).T), 1)
    expected = table.sum(1, keepdims=True) * table.sum(0) / table.sum()
    # the stills of one clip share its row, so the statistic is up to 3 times chi-squared with 4 degrees
    assert ((table - expected) ** 2 / expected).sum() < 3 * 18.5
    assert WithStills(make_clips(three, tmp_path), stills=0)[0]["stills"].shape == (0, 3, SIZE, SIZE)
    with pytest.raises(InputError, match="stills=-1"):
        WithStills(make_clips(three, tmp_path), stills=-1)


# shards


def member(tar: tarfile.TarFile, name: str, data: bytes | str) -> None:
    data = data.encode() if isinstance(data, str) else data
    header = tarfile.TarInfo(name)
    header.size = len(data)
    tar.addfile(header, BytesIO(data))


def test_braces_are_expanded_as_by_a_shell():
    assert expand("a.tar") == ["a.tar"]
    assert expand("s-{008..011}.tar") == ["s-008.tar", "s-009.tar", "s-010.tar", "s-011.tar"]
    assert expand("{a,b}/{0..1}") == ["a/0", "a/1", "b/0", "b/1"]
    assert expand("{8..10}") == ["8", "9", "10"]
    assert expand("{2..0}") == ["2", "1", "0"]
    assert expand("{a{0..1},b}") == ["a0", "a1", "b"]
    assert expand("{08..9}") == ["08", "09"]
    for pattern in ("{0..99999999}", "{0..9999}{0..9999}", "{one}", "{a,b"):
        with pytest.raises(InputError, match="source="):
            expand(pattern)


def test_shards_of_others_are_read_by_webdatasets_convention(tmp_path):
    films = [video(tmp_path / f"{n}.mkv", 6, n).read_bytes() for n in range(4)]
    with tarfile.open(tmp_path / "train-000.tar", "w") as tar:
        member(tar, "README", "about")
        member(tar, "a/0001.MKV", films[0])
        member(tar, "a/0001.txt", "first film\n")
        member(tar, "a/0001.cls", "7")
        member(tar, "a/0002.json", json.dumps({"caption": "second", "label": 2, "start": 0.2, "end": 0.5}))
        member(tar, "a/0002.mkv", films[1])
        member(tar, "a/0003.txt", "no film")
    with tarfile.open(tmp_path / "train-001.tar", "w") as tar:
        member(tar, "v1.0/0001.left.mkv", films[2])
        member(tar, "v1.0/0001.left.txt", "ignored: another ending")
        member(tar, "v1.0/.0002.mkv", films[2])
    with tarfile.open(tmp_path / "valid-000.tar", "w") as tar:
        member(tar, "x.mkv", films[3])
        member(tar, "x.jpg", b"")
    found = find_videos(f"{tmp_path}/train-{{000..001}}.tar")
    assert [(i.caption, i.label, i.start, i.end) for i in found] == [
        ("first film", 7, 0.0, None), ("second", 2, 0.2, 0.5), (None, None, 0.0, None),
    ]  # fmt: skip
    train, valid = find_train_valid(tmp_path, "shards")
    assert train == found
    assert names(valid) == ["x.mkv"]
    assert names(find_images(tmp_path / "valid-000.tar")) == ["x.jpg"]
    for cache in (tmp_path / "cache", False):
        data = make_clips(found, tmp_path, frames=2, cache=cache)
        seen: dict[int, set] = {}
        for clip in (data[n] for n in range(60)):
            seen.setdefault(whose(clip), set()).update(shown(clip))
        assert seen == {0: set(range(6)), 1: {2, 3, 4}, 2: set(range(6))}


def test_written_shards_hold_the_same_data(three, tmp_path):
    items = [*three, VideoItem(three[2].path, "a part", 5, 0.4, 1.1)]
    written = write_shards(items, tmp_path / "out", name="test", most_items=3, progress=False)
    assert [path.name for path in written] == ["test-000000.tar", "test-000001.tar"]
    back = find_videos(tmp_path / "out")
    assert [(i.caption, i.label, i.start, i.end) for i in back] == [
        (i.caption, i.label, i.start, i.end) for i in items
    ]
    plain, packed = make_clips(items, tmp_path), make_clips(back, tmp_path)
    assert all(torch.equal(plain[n]["video"], packed[n]["video"]) for n in range(20))
    again = write_shards(back, tmp_path / "again", name="test", most_items=3, progress=False)
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in written]
    each = write_shards(items, tmp_path / "each", most_bytes=1, progress=False)
    assert [len(read_shards([path])) for path in each] == [1] * 4
    with tarfile.open(written[0]) as tar:  # every tool that knows the convention finds these
        assert tar.getnames()[:4] == ["000000000.mkv", "000000000.txt", "000000001.mkv", "000000001.txt"]


def test_bad_shards(tmp_path, three):
    whole = write_shards(three, tmp_path / "out", progress=False)[0]
    with tarfile.open(tmp_path / "packed.tar", "w:gz") as tar:
        tar.add(three[0].path)
    for name, reason in (
        ("packed.tar", "uncompressed tar"),
        ("none-{0..1}.tar", "none-0.tar' cannot be read"),
    ):
        with pytest.raises(InputError, match=reason):
            find_videos(tmp_path / name)
    cut = tmp_path / "cut.tar"
    cut.write_bytes(whole.read_bytes()[: three[0].path.stat().st_size // 2])
    with pytest.raises(InputError, match=r"cut.tar"):
        make_clips(find_videos(cut), tmp_path)
    for name, content, reason in (
        ("a.json", "{", "json cannot be read"),
        ("a.cls", "dog", "label='dog' must be a whole number"),
        ("a.json", '{"start": 3, "end": 1}', "must be seconds, the end after the start"),
        ("a.txt", "x" * (2 << 20), "1 MiB at most"),
    ):
        with tarfile.open(tmp_path / "bad.tar", "w") as tar:
            member(tar, "a.mp4", b"")
            member(tar, name, content)
        with pytest.raises(InputError, match=reason):
            find_videos(tmp_path / "bad.tar")
    with pytest.raises(InputError, match="0 items"):
        write_shards([], tmp_path)


# batches


def test_batches_stack_tensors_and_numbers_and_keep_captions():
    items = [
        {"video": torch.full((3, 2, 4, 4), n, dtype=torch.uint8), "caption": f"c{n}", "label": n,
         "triple": (n, 0, 1), "still_captions": ["a", "b"]}
        for n in range(3)
    ]  # fmt: skip
    batch = collate_clips(items)
    assert batch["video"].shape == (3, 3, 2, 4, 4)
    assert batch["video"].dtype == torch.uint8
    assert batch["caption"] == ["c0", "c1", "c2"]
    assert batch["label"].tolist() == [0, 1, 2]
    assert batch["triple"].tolist() == [[0, 0, 1], [1, 0, 1], [2, 0, 1]]
    assert batch["still_captions"] == [["a", "b"]] * 3
    with pytest.raises(InputError, match="same keys"):
        collate_clips([*items, {"caption": ""}])
    with pytest.raises(InputError, match="video must have one shape"):
        collate_clips([items[0], {**items[1], "video": torch.zeros(3, 2, 8, 8)}])


def test_batches_hold_clips_of_one_stride_from_any_place():
    near, far, sparse = ([{"positions": n + step * torch.arange(3)} for n in (0, 5)] for step in (1, 2, 3))
    for clips in (near, far, sparse):
        assert torch.equal(collate_clips(clips)["positions"], torch.stack([c["positions"] for c in clips]))
    with pytest.raises(InputError, match=r"not \[1, 1\] and \[3, 3\]: give them one stride"):
        collate_clips([*near, *sparse])


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_deliver_the_same_batches(three, tmp_path, workers):
    data = WithStills(make_clips(three, tmp_path, flip=True), stills=1)
    batches = MicroBatches(5, 7, 4, 2, 0, 1)
    loader = DataLoader(data, batch_sampler=batches, num_workers=workers, collate_fn=collate_clips)
    got = list(loader)
    assert [batch["video"].shape[0] for batch in got] == [2] * 4
    wanted = [data[n] for n in range(20, 28)]
    assert torch.equal(
        torch.cat([batch["video"] for batch in got]), torch.stack([w["video"] for w in wanted])
    )
    assert torch.equal(
        torch.cat([batch["stills"] for batch in got]), torch.stack([w["stills"] for w in wanted])
    )
    assert [caption for batch in got for caption in batch["caption"]] == [w["caption"] for w in wanted]


def test_a_forked_loader_does_not_wait_for_threads_it_has_not():
    frame = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")
    cycle: list = [frame, frame.reformat(format="yuv420p", threads=4)]
    cycle.append(cycle)
    del frame, cycle  # garbage now, but not collected before the fork
    worker = multiprocessing.get_context("fork").Process(target=gc.collect)
    worker.start()
    worker.join(20)
    hangs = worker.is_alive()
    worker.kill()
    assert not hangs


def test_pictures_are_converted_without_threads_of_their_own(tmp_path):
    def threads() -> int:
        return len(list(Path("/proc/self/task").glob("*")))  # none where the system does not tell

    movie = Movie(video(tmp_path / "a.mp4", codec="mpeg4"))
    frames = [frame for _, _, frame in movie.shown(0.0)]
    before = threads()
    made = [movie.picture(frame) for frame in frames]  # a frame keeps its converter
    assert (len(made), threads()) == (12, before)
    movie.close()


class Mean(nn.Module):
    """Learn the mean brightness; note what was seen."""

    def __init__(self) -> None:
        super().__init__()
        self.level = nn.Parameter(torch.zeros(()))
        self.seen: list[tuple[float, list[str]]] = []

    def forward(self, batch, generator):
        brightness = batch["video"].float().mean() / 255
        self.seen.append((brightness.item(), batch["caption"]))
        return {"loss": (self.level - brightness).square()}


def test_a_resumed_run_sees_what_an_uninterrupted_one_sees(three, tmp_path):
    def train(run: str, stop: int | None = None) -> Mean:
        task = Mean()
        data = make_clips(three, tmp_path / run, flip=True)
        trainer = Trainer(
            tmp_path / run / "run", task, data, steps=6, batch_size=4, learning_rate=0.1, collate=collate_clips,
            checkpoint_every=3, tensorboard=False, device="cpu",
        )  # fmt: skip
        if stop is not None:
            trainer.validate, trainer.validate_every = interrupt, stop
        trainer.fit(resume=True)
        return task

    def interrupt(task, step):
        raise RuntimeError("power cut")

    whole = train("whole")
    with pytest.raises(RuntimeError, match="power cut"):
        train("broken", stop=3)
    resumed = train("broken")
    assert resumed.seen == whole.seen[3:]
    assert len(resumed.seen) == 3
    assert torch.equal(resumed.level, whole.level)

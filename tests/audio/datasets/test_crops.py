from __future__ import annotations

import json
import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from mmdiff.audio import io
from mmdiff.audio.datasets import cache
from mmdiff.audio.datasets.crops import AudioCrops
from mmdiff.audio.datasets.layouts import Clip, find_audio, find_train_valid
from mmdiff.audio.loudness import loudness
from mmdiff.errors import InputError

RATE = 8000


def sound(path: Path, samples: int = 800, level: float = 0.5) -> Path:
    """Write a ramp: the value of a sample tells its place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    io.write(path, torch.arange(samples) / 32768 if level == 0.5 else torch.full((samples,), level), RATE)
    return path


def text(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
    return path


def crops(clips, tmp_path, samples=100, **options) -> AudioCrops:
    plain = {"seed": 0, "gain_db": (0.0, 0.0), "dither": 0.0, "cache": tmp_path / "cache", "progress": False}
    return AudioCrops(clips, RATE, samples, **{**plain, **options})


# finding clips


def test_a_folder_is_searched_in_order_and_its_first_level_names_the_speaker(tmp_path):
    for name in ("b/x/2.wav", "b/1.flac", "a/3.ogg", "top.wav", ".hidden/4.wav", "a/.5.wav", "a/.tmp-6.wav"):
        sound(tmp_path / name)
    text(tmp_path / "a/notes.md", "no sound")
    text(tmp_path / "b/1.txt", " what is said\n")
    found = find_audio(tmp_path)
    assert [(str(c.path.relative_to(tmp_path)), c.speaker) for c in found] == [
        ("top.wav", ""),
        ("a/3.ogg", "a"),
        ("b/1.flac", "b"),
        ("b/x/2.wav", "b"),
    ]
    assert [c.text for c in found] == [None, None, "what is said", None]


def test_a_split_is_a_manifest_or_a_subfolder(tmp_path):
    for name in ("anna/1.wav", "anna/2.wav", "test/ben/3.wav"):
        sound(tmp_path / name)
    text(tmp_path / "train.txt", "# comment\n\nanna/2.wav\r\n")
    assert find_audio(tmp_path, split="train") == [Clip(tmp_path / "anna/2.wav", "anna")]
    assert find_audio(tmp_path, split="test") == [Clip(tmp_path / "test/ben/3.wav", "ben")]
    with pytest.raises(InputError, match=r"split='valid'.*valid.txt"):
        find_audio(tmp_path, split="valid")


def names(clips):
    return [clip.path.stem for clip in clips]


def test_what_has_no_splits_is_split_for_validation(tmp_path):
    for n in range(120):
        sound(tmp_path / f"{n:03}.wav")
    train, valid = find_train_valid(tmp_path)
    assert names(valid) == ["030", "090"]
    assert sorted(names(train + valid)) == [f"{n:03}" for n in range(120)]
    text(tmp_path / "few.txt", "001.wav\n002.wav\n")
    assert [names(part) for part in find_train_valid(tmp_path / "few.txt")] == [["001"], ["002"]]
    text(tmp_path / "one.txt", "001.wav\n")
    with pytest.raises(InputError, match=r"one\.txt' must hold two recordings"):
        find_train_valid(tmp_path / "one.txt")


def test_splits_that_a_dataset_has_are_kept(tmp_path):
    for name in ("train/1.wav", "train/2.wav", "valid/3.wav"):
        sound(tmp_path / "both" / name)
    assert [names(part) for part in find_train_valid(tmp_path / "both")] == [["1", "2"], ["3"]]
    for name in ("1.wav", "2.wav", "valid/3.wav"):
        sound(tmp_path / "valid_only" / name)
    assert [names(part) for part in find_train_valid(tmp_path / "valid_only")] == [["1", "2"], ["3"]]
    for part, n in (("train-clean-100", 1), ("train-other-500", 2), ("dev-clean", 3), ("test-clean", 4)):
        sound(tmp_path / "libri" / part / "84" / "121" / f"{n}.wav")
    assert [names(part) for part in find_train_valid(tmp_path / "libri")] == [["1", "2"], ["3"]]
    text(tmp_path / "both/train.txt", "train/nothing.wav\n")
    with pytest.raises(InputError, match=r"names .*nothing.wav"):
        find_train_valid(tmp_path / "both")


def test_ljspeech(tmp_path):
    sound(tmp_path / "wavs/LJ001-0001.wav")
    text(tmp_path / "metadata.csv", "LJ001-0001|in 1455|in fourteen fifty-five\n")
    expected = [Clip(tmp_path / "wavs/LJ001-0001.wav", "LJ", "in fourteen fifty-five")]
    assert find_audio(tmp_path) == find_audio(tmp_path, "ljspeech") == expected
    text(tmp_path / "metadata.csv", "LJ001-0001|a|b\nLJ001-0002|c|d\n")
    with pytest.raises(InputError, match=r"metadata.csv' line 2 names .*LJ001-0002.wav"):
        find_audio(tmp_path)


def test_vctk_takes_one_microphone(tmp_path):
    base = tmp_path / "wav48_silence_trimmed"
    for name in ("p225/p225_001_mic1.flac", "p225/p225_001_mic2.flac", "p226/p226_002_mic2.flac"):
        sound(base / name)
    text(tmp_path / "txt/p225/p225_001.txt", "Please call Stella.\n")
    assert find_audio(tmp_path) == [
        Clip(base / "p225/p225_001_mic1.flac", "p225", "Please call Stella."),
        Clip(base / "p226/p226_002_mic2.flac", "p226"),
    ]


def test_libritts_parts_are_splits(tmp_path):
    for part in ("train-clean-100", "train-other-500", "dev-clean"):
        sound(tmp_path / part / "103/1241/103_1241_000000_000001.wav")
        text(tmp_path / part / "103/1241/103_1241_000000_000001.normalized.txt", part)
    assert [c.text for c in find_audio(tmp_path, split="train")] == ["train-clean-100", "train-other-500"]
    assert [c.text for c in find_audio(tmp_path, split="dev-clean")] == ["dev-clean"]
    assert [(c.text, c.speaker) for c in find_audio(tmp_path / "dev-clean")] == [("dev-clean", "103")]
    assert len(find_audio(tmp_path)) == 3


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("m.txt", "anna/1.wav|anna|hello"),
        ("m.lst", "anna/1.wav|hello"),
        ("m.csv", "path,speaker,text\nanna/1.wav,anna,hello\n"),
        ("m.tsv", "speaker\taudio\tsentence\nanna\tanna/1.wav\thello\n"),
        ("m.jsonl", json.dumps({"audio_filepath": "anna/1.wav", "text": "hello"}) + "\n"),
    ],
)
def test_manifests(tmp_path, name, content):
    sound(tmp_path / "anna/1.wav")
    expected = [Clip(tmp_path / "anna/1.wav", "anna", "hello")]
    assert find_audio(text(tmp_path / name, content)) == expected
    assert find_audio(text(tmp_path / name, "\ufeff" + content)) == expected  # as saved on Windows


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("m.txt", "1.wav\nnone.wav\n", "line 2 names .*none.wav"),
        ("m.jsonl", "{\n", "line 1 must be one JSON object"),
        ("m.jsonl", "[1]\n", "line 1 must be one JSON object"),
        ("m.csv", "name,text\n1.wav,hello\n", "line 2 must name its file under path"),
        ("m.csv", "path,duration\n1.wav,long\n", "duration='long' must be in seconds"),
        ("m.doc", "1.wav\n", "must be a manifest ending in"),
        ("m.txt", "# nothing\n", "has no sound files"),
    ],
)
def test_bad_manifests(tmp_path, name, content, reason):
    sound(tmp_path / "1.wav")
    with pytest.raises(InputError, match=reason):
        find_audio(text(tmp_path / name, content))


def test_bad_sources(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        find_audio(tmp_path / "none")
    with pytest.raises(InputError, match="no sound files"):
        find_audio(tmp_path)
    with pytest.raises(InputError, match="layout='timit'"):
        find_audio(tmp_path, "timit")
    (tmp_path / "m.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="UTF-8"):
        find_audio(tmp_path / "m.txt")
    (tmp_path / "a").mkdir()
    (tmp_path / "a/circle").symlink_to(tmp_path / "a", target_is_directory=True)
    with pytest.raises(InputError, match="link in a circle"):
        find_audio(tmp_path / "a")


# loudness


@pytest.mark.parametrize("rate", [8000, 16_000, 22_050, 44_100, 48_000, 96_000])
@pytest.mark.parametrize("level", [0.0, -20.0])
def test_loudness_of_the_recommendations_reference_tone(rate, level):
    tone = 10 ** (level / 20) * torch.sin(2 * math.pi * 997 * torch.arange(3 * rate) / rate)
    assert loudness(tone, rate) == pytest.approx(level - 3.01, abs=0.005)


def test_loudness_is_gated(english):
    tone = torch.sin(2 * math.pi * 997 * torch.arange(48_000) / 16_000)
    with_pause = torch.cat((tone, torch.zeros(48_000), 0.01 * tone))
    # silence falls under the absolute gate and the quiet tone under the relative one; blocks that reach over
    # the end of the tone remain, 3 of 30, and lower the mean by at most half of themselves
    assert loudness(with_pause, 16_000) == pytest.approx(-3.01, abs=0.3)
    assert loudness(torch.zeros(16_000), 16_000) == -math.inf
    assert loudness(torch.zeros(0), 16_000) == -math.inf
    assert loudness(english[0] * 0.5, 16_000) == pytest.approx(loudness(english[0], 16_000) - 6.02, abs=0.1)
    assert math.isfinite(loudness(tone[:100], 16_000))


# crops


def test_a_crop_is_a_pure_function_of_seed_and_number(tmp_path, clips):
    found = find_audio(clips)
    first = AudioCrops(found, 16_000, 4000, seed=7, cache=tmp_path, progress=False)
    again = AudioCrops(found, 16_000, 4000, seed=7, cache=tmp_path / "other", progress=False)
    other = AudioCrops(found, 16_000, 4000, seed=8, cache=tmp_path, progress=False)
    order = [5, 0, 10**12, 5]
    waves = [first[n]["wave"] for n in order]
    assert torch.equal(waves[0], waves[3])
    assert all(torch.equal(again[n]["wave"], wave) for n, wave in zip(order, waves, strict=True))
    assert not torch.equal(other[5]["wave"], waves[0])
    assert waves[0].dtype == torch.float32
    assert waves[0].shape == (4000,)
    with pytest.raises(IndexError):
        first[-1]


@pytest.mark.parametrize("align", [1, 16, 37])
def test_a_crop_is_the_aligned_piece_of_its_clip(tmp_path, align):
    found = [Clip(sound(tmp_path / f"{n}.wav", 500 + n), f"s{n % 2}") for n in range(3)]
    data = crops(found, tmp_path, align=align)
    starts = set()
    for n in range(300):
        item = data[n]
        steps = (item["wave"] * 32768).round().int()
        start = int(steps[0])
        assert torch.equal(steps, torch.arange(start, start + 100, dtype=torch.int32))
        assert start % align == 0
        assert start + 100 <= 500 + item["clip"]
        assert data.speakers[item["speaker"]] == found[item["clip"]].speaker
        starts.add(start)
    if align == 37:
        assert starts == set(range(0, 401, 37))


def test_clips_are_drawn_in_proportion_to_their_length(tmp_path):
    lengths = (200, 600, 1200)
    data = crops([Clip(sound(tmp_path / f"{n}.wav", n)) for n in lengths], tmp_path)
    counts = np.bincount([data[n]["clip"] for n in range(3000)], minlength=3)
    expected = 3000 * np.array(lengths) / sum(lengths)
    assert ((counts - expected) ** 2 / expected).sum() < 13.8  # chi-squared, 2 degrees of freedom, p = 0.001
    assert data.seconds == 2000 / RATE


def test_a_short_clip_lies_whole_at_aligned_places_in_silence(tmp_path):
    data = crops([Clip(sound(tmp_path / "a.wav", 30, level=0.25))], tmp_path, align=8)
    firsts = set()
    for n in range(200):
        wave = data[n]["wave"]
        inside = wave.nonzero()[:, 0]
        assert len(inside) == 30
        assert inside[-1] - inside[0] == 29
        firsts.add(int(inside[0]))
    assert firsts == set(range(0, 71, 8))


def test_gain_is_uniform_in_decibels_and_stops_at_full_scale(tmp_path):
    data = crops([Clip(sound(tmp_path / "a.wav", 200, level=0.25))], tmp_path, gain_db=(-10.0, 20.0))
    peaks = np.array([float(data[n]["wave"].max()) for n in range(2000)])
    level = 20 * np.log10(peaks / 0.25)
    assert level.min() == pytest.approx(-10, abs=0.1)
    assert peaks.max() == pytest.approx(1.0)
    below = level[level < 10]  # of 30 dB; from +12 dB on the peak is held at 1
    assert len(below) / 2000 == pytest.approx(20 / 30, abs=0.04)
    assert below.mean() == pytest.approx(0.0, abs=0.6)


def test_dither_has_the_stated_level(tmp_path):
    data = crops([Clip(sound(tmp_path / "a.wav", 9000, level=0.0))], tmp_path, samples=8000, dither=1e-3)
    wave = data[0]["wave"]
    assert float(wave.std()) == pytest.approx(1e-3, rel=0.05)
    assert not torch.equal(wave, data[1]["wave"])


def test_loudness_normalisation_brings_clips_to_one_level(tmp_path, clips):
    data = AudioCrops(
        find_audio(clips), 16_000, 10**5, seed=0, gain_db=(0, 0), loudness_db=-27.0, dither=0,
        cache=tmp_path, progress=False,
    )  # fmt: skip
    levels = {}
    for item in (data[n] for n in range(20)):
        inside = item["wave"].nonzero()[:, 0]  # the clip without the silence around it
        levels[item["clip"]] = loudness(item["wave"][inside[0] : inside[-1] + 1], 16_000)
    assert len(levels) == 3
    assert list(levels.values()) == pytest.approx([-27.0] * 3, abs=0.1)


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_deliver_the_same_batches(tmp_path, workers):
    data = crops([Clip(sound(tmp_path / f"{n}.wav", 500), str(n)) for n in range(4)], tmp_path, dither=1e-5)
    loader = DataLoader(data, batch_size=4, sampler=range(40, 52), num_workers=workers)
    batches = list(loader)
    assert [b["wave"].shape for b in batches] == [(4, 100)] * 3
    joined = torch.cat([b["wave"] for b in batches])
    assert torch.equal(joined, torch.stack([data[n]["wave"] for n in range(40, 52)]))
    assert torch.cat([b["speaker"] for b in batches]).tolist() == [data[n]["speaker"] for n in range(40, 52)]


def test_pickling_does_not_carry_the_sound(tmp_path):
    data = crops([Clip(sound(tmp_path / "a.wav", 30_000))], tmp_path)
    before = data[3]["wave"]
    packed = pickle.dumps(data)
    assert len(packed) < 5000
    assert torch.equal(pickle.loads(packed)[3]["wave"], before)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"samples": 0}, "samples=0"),
        ({"align": 0}, "align=0"),
        ({"gain_db": (4.0, -10.0)}, "gain_db"),
        ({"dither": -1.0}, "dither"),
    ],
)
def test_bad_arguments(tmp_path, arguments, reason):
    with pytest.raises(InputError, match=reason):
        crops([Clip(sound(tmp_path / "a.wav"))], tmp_path, **arguments)


# decoded sound


def test_decoding_happens_once_and_again_when_a_file_changes(tmp_path, monkeypatch):
    reads = []
    monkeypatch.setattr(cache, "read", lambda path, **k: reads.append(path) or io.read(path, **k))
    found = [Clip(sound(tmp_path / "a.wav")), Clip(sound(tmp_path / "b.wav"))]
    for _ in range(3):
        crops(found, tmp_path)
    assert len(reads) == 2
    sound(tmp_path / "b.wav", 900)
    assert crops(found, tmp_path).seconds == 1700 / RATE
    assert len(reads) == 4


def test_decoded_sound_is_exact_and_keeps_peaks_above_one(tmp_path, noise):
    soft, loud = noise(1, 3000), 3 * noise(1, 3000, seed=1)
    soft = (soft * 32768).round() / 32768
    io.write(tmp_path / "soft.wav", soft, RATE)
    io.write(tmp_path / "loud.wav", loud, RATE, bits=32)
    stored = cache.DecodedClips(
        [Clip(tmp_path / "soft.wav"), Clip(tmp_path / "loud.wav")], RATE, tmp_path / "cache", progress=False
    )
    assert np.array_equal(stored.read(0, 0, 3000), soft[0].numpy())
    assert np.abs(stored.read(1, 0, 10**9) - loud[0].numpy()).max() < 3 / 32768
    assert np.array_equal(stored.read(0, 100, 300), soft[0, 100:300].numpy())


def test_an_interrupted_decoding_leaves_nothing_that_is_taken_for_whole(tmp_path, monkeypatch):
    found = [Clip(sound(tmp_path / "a.wav"))]

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(cache, "loudness", interrupt)
        with pytest.raises(KeyboardInterrupt):
            crops(found, tmp_path)
    assert not list((tmp_path / "cache").iterdir())
    assert crops(found, tmp_path).seconds == 0.1


def test_unreadable_clips_are_left_out_with_a_warning_or_refused_when_many(tmp_path):
    good = [Clip(sound(tmp_path / f"{n}.wav")) for n in range(12)]
    bad = Clip(text(tmp_path / "bad.wav", "no sound"))
    with pytest.warns(UserWarning, match=r"1 of 13 clips cannot be used: path=.*bad.wav.*left out"):
        data = crops([*good[:6], bad, *good[6:]], tmp_path)
    assert 6 not in {data[n]["clip"] for n in range(200)}
    with pytest.raises(InputError, match="3 of 15 clips cannot be used"):
        crops(good + [bad] * 3, tmp_path)
    with pytest.raises(InputError, match="1 of 1 clips"):
        crops([bad], tmp_path)
    with pytest.raises(InputError, match="at least one recording"):
        crops([], tmp_path)
    with pytest.raises(InputError, match=r"gone.wav' cannot be read"):
        crops([Clip(tmp_path / "gone.wav")], tmp_path)


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    text(tmp_path / "file", "")
    with pytest.raises(InputError, match=r"cache=.*cannot be written"):
        crops([Clip(sound(tmp_path / "a.wav"))], tmp_path, cache=tmp_path / "file")


def test_the_default_folder_follows_the_users_setting(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache.default_folder() == Path("/somewhere/mmdiff/audio")

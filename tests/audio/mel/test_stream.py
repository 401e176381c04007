from __future__ import annotations

import pytest
import torch

from mmdiff.audio.mel import PRESETS, MelSpec
from mmdiff.audio.mel.stream import stream_mel

EXTREME = MelSpec(n_fft=512, win_length=400, hop_length=500)  # hops nearly as long as the window


def _blocks(wave, sizes):
    start = 0
    while start < wave.shape[-1]:
        size = sizes[0]
        sizes = (*sizes[1:], size)
        yield wave[:, start : start + size]
        start += size


@pytest.mark.parametrize("spec", [*PRESETS.values(), EXTREME], ids=[*PRESETS, "extreme"])
@pytest.mark.parametrize("sizes", [(160_000,), (1000,), (7, 30_011, 1), (2048, 1)], ids=str)
def test_pieces_join_to_the_whole(spec, sizes):
    generator = torch.Generator().manual_seed(0)
    for samples in (spec.n_fft + 1, 2 * spec.n_fft + spec.hop_length - 1, 40_123):
        wave = 0.1 * torch.randn(2, samples, generator=generator)
        pieces = list(stream_mel(_blocks(wave, sizes), spec))
        torch.testing.assert_close(torch.cat(pieces, -1), spec(wave), atol=1e-5, rtol=1e-5)
        assert samples < 40_000 or sizes == (160_000,) or len(pieces) > 1


def test_memory_does_not_grow_with_length():
    spec, longest = PRESETS["mmdiff-16k"], 0

    def watched():
        for _ in range(300):
            yield torch.zeros(1, 1000)

    class Watching(type(spec)):
        def __call__(self, wave):
            nonlocal longest
            longest = max(longest, wave.shape[-1])
            return super().__call__(wave)

    frames = sum(piece.shape[-1] for piece in stream_mel(watched(), Watching()))
    assert frames == spec.frames(300_000)
    assert longest < 5000


def test_no_sound_gives_no_frames():
    assert list(stream_mel([], PRESETS["mmdiff-16k"])) == []

from __future__ import annotations

import io
import json
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from mmdiff.audio.mel import MelSpec, preset
from mmdiff.audio.mel.files import read_mel, write_mel
from mmdiff.errors import InputError

MEL = torch.arange(12.0).reshape(3, 4)


@pytest.mark.parametrize("suffix", [".npy", ".safetensors"])
def test_round_trip(tmp_path, suffix):
    spec = preset("hifigan-22k:log10")
    path = write_mel(tmp_path / f"new/mel{suffix}", MEL, spec)
    mel, stated = read_mel(path)
    (tmp_path / "any").touch()
    assert path.stat().st_mode == (tmp_path / "any").stat().st_mode
    assert torch.equal(mel, MEL[None])
    assert stated == (spec if suffix == ".safetensors" else None)


@pytest.mark.parametrize(
    "content",
    [
        MEL,
        MEL.double(),
        {"mel": MEL, "energy": torch.ones(2, 4)},
        {"anything": MEL[None], "step": 3, "pitch": torch.ones(4)},
        [MEL],
    ],
    ids=["tensor", "double", "by name", "the only one", "list"],
)
def test_torch_files(tmp_path, content):
    torch.save(content, tmp_path / "x.pt")
    assert torch.equal(read_mel(tmp_path / "x.pt")[0], MEL[None])


def test_numpy_files(tmp_path):
    np.save(tmp_path / "x.npy", np.asfortranarray(MEL.numpy().astype(np.float16)))
    np.savez(tmp_path / "x.npz", mel=MEL.numpy(), text=np.array("hello"))
    for name in ("x.npy", "x.npz"):
        assert torch.equal(read_mel(tmp_path / name)[0], MEL[None])


class _Trap:
    def __reduce__(self):
        return (print, ("sprung",))


def _claims_terabytes() -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        file, {"descr": "<f4", "fortran_order": False, "shape": (80, 1 << 40)}
    )
    return file.getvalue() + bytes(64)


@pytest.mark.parametrize(
    ("name", "data", "complaint"),
    [
        ("x.npy", b"", "cannot be read"),
        ("x.npy", pickle.dumps(_Trap()), "cannot be read"),
        ("x.npy", _claims_terabytes(), "cannot be read"),
        ("x.npz", b"PK\x03\x04 no archive", "cannot be read"),
        ("x.pt", pickle.dumps(_Trap()), "cannot be read"),
        ("x.pt", b"nothing", "cannot be read"),
        ("x.safetensors", b"\xff" * 100, "cannot be read"),
        ("x.mat", b"", "must end in"),
    ],
)
def test_damaged_and_hostile_files(tmp_path, capsys, name, data, complaint):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=complaint):
        read_mel(tmp_path / name)
    assert "sprung" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ({"a": MEL, "b": MEL}, r"a \(3, 4\), b \(3, 4\)"),
        ({}, "it holds nothing"),
        ({"pitch": torch.ones(4)}, r"pitch \(4,\)"),
        (torch.ones(2, 3, 4, 5), r"shape \(2, 3, 4, 5\)"),
        (torch.ones(0, 5), r"shape \(0, 5\)"),
        (torch.ones(2, 2, dtype=torch.complex64), "real numbers"),
        ("hello", "holds str"),
        (MEL.to_sparse(), "sparse_coo tensor: save plain"),
        (torch.quantize_per_tensor(MEL, 0.1, 0, torch.quint8), "quantised"),
        (MEL.to("meta"), "meta"),
        (torch.nested.nested_tensor([MEL, MEL[:, :2]]), "nested"),
    ],
    ids=[
        "two",
        "none",
        "flat",
        "4-D",
        "empty",
        "complex",
        "text",
        "sparse",
        "quantised",
        "meta",
        "nested",
    ],
)
def test_files_without_one_spectrogram(tmp_path, content, complaint):
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(InputError, match=complaint):
        read_mel(tmp_path / "x.pt")


@pytest.mark.parametrize(
    "text",
    ["no json", "[]", '{"class": "Stft"}', json.dumps({"class": "MelSpec", "n_mels": -1}), "[" * 100_000],
)
def test_stated_definition_must_make_sense(tmp_path, text):
    save_file({"mel": MEL}, tmp_path / "x.safetensors", {"mel_spec": text})
    with pytest.raises(InputError, match=r"x\.safetensors"):
        read_mel(tmp_path / "x.safetensors")


def test_text_is_refused(tmp_path):
    np.save(tmp_path / "x.npy", np.array([["a", "b"]]))
    with pytest.raises(InputError, match="real numbers"):
        read_mel(tmp_path / "x.npy")


def test_writer_wants_a_suffix_it_knows(tmp_path):
    with pytest.raises(InputError, match=r"must end in \.npy or \.safetensors"):
        write_mel(tmp_path / "x.pt", MEL, MelSpec())

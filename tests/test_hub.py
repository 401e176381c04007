from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import mmdiff
from mmdiff import hub
from mmdiff.audio.networks.wavegrad import WaveGrad
from mmdiff.audio.vocoder import Vocoder
from mmdiff.commands.pipelines import load_pipeline
from mmdiff.diffusion.denoiser import Denoiser
from mmdiff.diffusion.schedules import LinearFlow
from mmdiff.errors import CheckpointError, InputError
from mmdiff.hub import find_model, load_as, load_model, push_model, read_config, save_model, shipped_models
from mmdiff.registry import to_config
from mmdiff.video.generator import ClipGenerator


def make_model() -> nn.Module:
    torch.manual_seed(0)
    network = WaveGrad(
        n_mels=6,
        factors=(2, 2),
        up_channels=(8, 6),
        down_channels=(4,),
        dilations=((1, 2, 1, 2), (1, 2, 4, 8)),
        mel_channels=8,
        wave_channels=4,
    )
    return Denoiser(network, LinearFlow(), prediction="velocity")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_model(make_model(), tmp_path / "model", extra={"license": "CC0-1.0"}, half=False)


def edit(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


def output(model: nn.Module) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    x, mel = torch.randn(2, 1, 20, generator=generator), torch.randn(2, 6, 5, generator=generator)
    with torch.no_grad():
        result: torch.Tensor = model(x, torch.tensor([0.3, 0.7]), mel=mel)
    return result


def test_a_model_comes_back_with_the_same_bits(folder: Path) -> None:
    again = load_model(folder)
    assert to_config(again) == to_config(make_model())
    assert torch.equal(output(again), output(make_model()))
    assert not again.training
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors", "README.md"}


def test_a_model_of_another_class_is_refused(folder: Path) -> None:
    assert isinstance(load_as(Denoiser, folder), Denoiser)
    with pytest.raises(InputError, match="must hold a WaveGrad, and holds a Denoiser"):
        load_as(WaveGrad, folder)


def test_half_precision_is_for_storage_only(tmp_path: Path, folder: Path) -> None:
    half = save_model(make_model(), tmp_path / "half")
    ratio = (half / "model.safetensors").stat().st_size / (folder / "model.safetensors").stat().st_size
    assert ratio < 0.75
    again = load_model(half)
    for ours, theirs in zip(again.parameters(), make_model().parameters(), strict=True):
        assert ours.dtype == torch.float32
        assert torch.equal(ours, theirs.half().float())


def test_a_class_is_found_without_importing_its_module_first(folder: Path) -> None:
    script = "import sys; from mmdiff.hub import load_model; print(type(load_model(sys.argv[1])).__name__)"
    root = Path(hub.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder)], capture_output=True, text=True, cwd=root, check=False
    )
    assert done.stdout.strip() == "Denoiser", done.stderr


def test_extra_is_kept_and_reserved_names_are_not_for_it(folder: Path, tmp_path: Path) -> None:
    assert read_config(folder)["license"] == "CC0-1.0"
    assert "license: cc0-1.0" in (folder / "README.md").read_text()
    with pytest.raises(InputError, match="model"):
        save_model(make_model(), tmp_path / "b", extra={"model": 1})


def test_saving_again_replaces_but_never_another_folder(folder: Path, tmp_path: Path) -> None:
    save_model(make_model(), folder, card="# Mine")
    assert (folder / "README.md").read_text() == "# Mine"
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.md").touch()
    with pytest.raises(InputError, match="thesis"):
        save_model(make_model(), tmp_path / "thesis")
    assert (tmp_path / "thesis" / "chapter.md").exists()
    (tmp_path / "thesis" / "config.json").write_text('{"learning_rate": 1}')  # many projects have one
    with pytest.raises(InputError, match="something else than a model"):
        save_model(make_model(), tmp_path / "thesis")
    with pytest.raises(InputError, match="and is a file"):
        save_model(make_model(), tmp_path / "thesis" / "chapter.md")
    assert sorted(file.name for file in (tmp_path / "thesis").iterdir()) == ["chapter.md", "config.json"]


def test_saving_again_keeps_what_else_is_in_the_folder(folder: Path) -> None:
    (folder / "sounds").mkdir()
    (folder / "sounds" / "a.wav").write_text("precious")
    (folder / "weights.pt").write_text("theirs")
    save_model(make_model(), folder, card="# Mine")
    assert (folder / "README.md").read_text() == "# Mine"
    assert (folder / "sounds" / "a.wav").read_text() == "precious"
    assert (folder / "weights.pt").read_text() == "theirs"


def test_a_failed_save_leaves_the_old_model(folder: Path) -> None:
    model = make_model()
    with torch.no_grad():
        next(model.parameters()).fill_(1e6)
    with pytest.raises(CheckpointError, match=r"float16 cannot hold .*half=False"):
        save_model(model, folder)
    assert torch.equal(output(load_model(folder)), output(make_model()))


def test_every_misfit_is_named(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    first, second, *_ = tensors
    tensors["stranger"] = tensors.pop(first)
    tensors[second] = torch.zeros(1, 2, 3, 4)
    save_file(tensors, folder / "model.safetensors")
    edit(folder, sha256=None)
    with pytest.raises(
        CheckpointError, match=f"missing: {first}; unexpected: stranger; wrong shape: {second}"
    ):
        load_model(folder)


def test_one_flipped_bit_of_the_weights_is_noticed(folder: Path) -> None:
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    assert read_config(folder)["sha256"] == hashlib.sha256(content).hexdigest()
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"checksum sha256=\w{64}, .* damaged or changed; fetch"):
        load_model(folder)
    edit(folder, sha256=None)
    assert not torch.equal(output(load_model(folder)), output(make_model()))


@pytest.mark.parametrize("name", shipped_models())
def test_shipped_models_state_their_checksum_and_the_licence_of_their_card(name: str) -> None:
    config = read_config(find_model(name))
    weights = (find_model(name) / "model.safetensors").read_bytes()
    assert config["sha256"] == hashlib.sha256(weights).hexdigest()
    assert f"license: {config['license'].lower()}\n" in (find_model(name) / "README.md").read_text()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "format=2.*update mmdiff"),
        ({"model": "Denoiser"}, "must hold an object"),
        ({"model": {"class": "posix.system", "command": "true"}}, "class='posix.system'"),
        ({"model": {"class": "LinearFlow"}}, "must be a network, got LinearFlow"),
        ({"model": {"class": "WaveGrad", "n_mels": -3}}, "cannot build WaveGrad"),
        ({"padding": "x" * 2**20}, "the limit is 1048576"),
    ],
)
def test_a_strange_config_is_refused(folder: Path, changes: dict[str, Any], message: str) -> None:
    edit(folder, **changes)
    with pytest.raises(CheckpointError, match=message):
        load_model(folder)


@pytest.mark.parametrize(
    "text", ["", "[]", "{", "[" * 100_000, '{"format": 1, "model": ' + '{"a":' * 900 + "1" + "}" * 901]
)
def test_broken_json_is_refused(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"config\.json|class"):
        load_model(folder)


@pytest.mark.parametrize("content", [b"", b"\x80\x04pickle", b"\xff" * 64])
def test_weights_that_are_not_safetensors_are_refused(folder: Path, content: bytes) -> None:
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        load_model(folder)


def test_a_name_means_a_shipped_model_then_a_folder_then_the_hub(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def download(repo: str, **options: Any) -> str:
        asked.append((repo, options["revision"]))
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.setattr(hub, "SHIPPED", tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner" / "local").mkdir(parents=True)
    assert find_model("model") == tmp_path / "model"
    assert find_model("owner/local") == Path("owner/local")
    assert find_model(folder) == folder
    assert find_model("owner/name") == find_model("owner/name@v2") == folder
    assert asked == [("owner/name", None), ("owner/name", "v2")]
    for name in ("nothing", "../model", "a/b/c", "/etc", "owner/"):
        if not Path(name).is_dir():
            with pytest.raises(
                CheckpointError, match=r"must be a shipped model \(model\), a folder, or a hub id"
            ):
                find_model(name)


@pytest.mark.parametrize("source", [None, "", " ", 3])
def test_what_is_no_name_is_refused(source: Any) -> None:
    for function in (mmdiff.load, load_model):
        with pytest.raises(InputError, match=rf"source={source!r} must name a model: a shipped one \("):
            function(source)


def test_messages_name_the_shipped_models_of_their_kind() -> None:
    assert {"vocoder-16k", "digit-judge"} <= set(shipped_models())
    assert shipped_models("SpectralVocoder") == ["vocoder-16k"]
    with pytest.raises(CheckpointError, match=r"a shipped model \(vocoder-16k\)"):
        load_pipeline(Vocoder, "nothing", "cpu", None)
    with pytest.raises(InputError, match="digit-judge' holds a DigitJudge, which is no vocoder and no model"):
        load_pipeline(Vocoder, "digit-judge", "cpu", None)
    with pytest.raises(
        InputError,
        match=r"must be one for `mmdiff clip`, such as the shipped clips-32; it is one for `mmdiff vocode`",
    ):
        load_pipeline(ClipGenerator, "vocoder-16k", "cpu", None)
    with pytest.raises(CheckpointError, match=r"a shipped model \((?!.*digit-judge).*vocoder-16k"):
        mmdiff.load("nothing")


def test_without_the_hub_the_message_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError, match=r"cannot fetch 'owner/name' .*local model folder"):
        load_model("owner/name")


def test_push_uploads_a_model_folder_only(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, dict[str, Any]]] = []

    class Api:
        def create_repo(self, repo_id: str, **options: Any) -> None:
            calls.append((repo_id, options))

        def upload_folder(self, **options: Any) -> Any:
            calls.append((options["repo_id"], options))
            return type("Commit", (), {"commit_url": "https://example.org/commit"})

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    assert push_model(folder, "owner/name") == "https://example.org/commit"
    assert [repo for repo, _ in calls] == ["owner/name", "owner/name"]
    with pytest.raises(CheckpointError, match=r"is .* a model folder"):
        push_model(tmp_path, "owner/name")

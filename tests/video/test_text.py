from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor

import mmdiff
from mmdiff.diffusion.schedules import CosineVP
from mmdiff.errors import InputError
from mmdiff.files import TEMPORARY
from mmdiff.hub import load_model, save_model
from mmdiff.video.conditioning import ConditionedNetwork, Conditioner, SmallClip
from mmdiff.video.digit_files import write_digits
from mmdiff.video.evaluate_folder import evaluate_folder, folder_clips
from mmdiff.video.generator import ClipGenerator
from mmdiff.video.model import ClipModel
from mmdiff.video.stages import WithSmall
from mmdiff.video.tasks import ClipTask, batch_conditions
from mmdiff.video.text import TextEncoder, TextFeatures, encoder_for, text_features
from mmdiff.video.text_cache import CachedText
from mmdiff.video.unet import SpaceTimeUNet
from mmdiff.video.validation import NOISE, clip_validation, noise_losses, upscaling_quality

WORDS = ("<pad>", "</s>", "<unk>", "a", "b", "red", "blue", "seven", "nine", "moving", "left", "right")
CAPTIONS = ["a red seven moving left", None, "a blue nine", "", "seven a"]

SMALL = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "hidden_size": 16}


def _t5() -> transformers.PreTrainedModel:
    config = transformers.T5Config(
        vocab_size=len(WORDS),
        d_model=16,
        d_kv=8,
        d_ff=16,
        num_layers=1,
        num_heads=2,
        decoder_start_token_id=0,
    )
    return transformers.T5ForConditionalGeneration(config)  # of which only the encoder is wanted


def _clip() -> transformers.PreTrainedModel:
    text = {
        **SMALL,
        "vocab_size": len(WORDS),
        "max_position_embeddings": 7,
        "eos_token_id": 1,
        "bos_token_id": 0,
    }
    vision = {**SMALL, "image_size": 8, "patch_size": 4}
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)
    return transformers.CLIPModel(config)


def _bert() -> transformers.PreTrainedModel:
    config = transformers.BertConfig(**SMALL, vocab_size=len(WORDS), max_position_embeddings=12)
    return transformers.BertForMaskedLM(config)  # its pooling layer is missing, and not needed


def _bart() -> transformers.PreTrainedModel:
    config = transformers.BartConfig(
        vocab_size=len(WORDS),
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        max_position_embeddings=12,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=1,
        decoder_start_token_id=1,
        forced_eos_token_id=1,
    )
    return transformers.BartModel(config)  # a family without a class for its encoder


KINDS: dict[str, Callable[[], transformers.PreTrainedModel]] = {
    "t5": _t5,
    "clip": _clip,
    "bert": _bert,
    "bart": _bart,
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Random models of each family with a tokenizer of a few words, as save_pretrained writes them."""
    words = Tokenizer(models.WordLevel({word: n for n, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )
    root, made = tmp_path_factory.mktemp("encoders"), {}
    transformers.utils.logging.disable_progress_bar()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for name, build in KINDS.items():
            made[name] = root / name
            model = build()
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(0.2 * torch.randn(parameter.shape))
            model.save_pretrained(made[name])
            tokenizer.save_pretrained(made[name])
    return made


@pytest.fixture(scope="module")
def encoder(folders: dict[str, Path]) -> TextEncoder:
    return TextEncoder(folders["t5"], device="cpu")


def _hidden(folder: Path, kind: str, ids: Tensor) -> Tensor:
    """What transformers' own class says, called by hand."""
    if kind == "clip":
        text: Any = transformers.CLIPModel.from_pretrained(folder).eval().text_model
    elif kind == "t5":
        text = transformers.T5ForConditionalGeneration.from_pretrained(folder).eval().get_encoder()
    elif kind == "bart":
        text = transformers.BartModel.from_pretrained(folder).eval().get_encoder()
    else:
        text = transformers.BertForMaskedLM.from_pretrained(folder).eval().bert
    with torch.no_grad():
        return text(input_ids=ids).last_hidden_state


# the encoder


@pytest.mark.parametrize("kind", list(KINDS))
def test_features_are_those_of_the_model_called_by_hand(kind: str, folders: dict[str, Path]) -> None:
    encoder = TextEncoder(str(folders[kind]), device="cpu")
    features = encoder(CAPTIONS)
    assert features.shape == (5, 5, 16)
    assert encoder.width == 16
    for row, caption in zip(features, CAPTIONS, strict=True):
        ids = torch.tensor([[WORDS.index(word) for word in (caption or "").split()]], dtype=torch.long)
        if ids.numel():
            torch.testing.assert_close(row[: ids.shape[1]], _hidden(folders[kind], kind, ids)[0])
        assert not row[ids.shape[1] :].any()


def test_captions_do_not_see_each_other_and_batches_are_cut(
    encoder: TextEncoder, folders: dict[str, Path]
) -> None:
    alone = torch.cat(
        [torch.nn.functional.pad(e := encoder([c]), (0, 0, 0, 5 - e.shape[1])) for c in CAPTIONS]
    )
    cut = TextEncoder(folders["t5"], device="cpu", batch_size=2)
    torch.testing.assert_close(encoder(CAPTIONS), alone)
    torch.testing.assert_close(cut(CAPTIONS), alone)


def test_no_captions_at_all_are_one_row_of_zeros(encoder: TextEncoder) -> None:
    assert torch.equal(encoder([None, " "]), torch.zeros(2, 1, 16))


def test_long_captions_are_cut_where_the_model_ends(folders: dict[str, Path]) -> None:
    clip = TextEncoder(folders["clip"], device="cpu")  # 7 places
    assert clip.length == 7
    assert clip(["a b " * 10]).shape == (1, 7, 16)
    assert TextEncoder(folders["bert"], length=3, device="cpu")(["a b a b"]).shape == (1, 3, 16)


def test_nothing_of_the_encoder_is_trained_or_random(folders: dict[str, Path], encoder: TextEncoder) -> None:
    before = torch.random.get_rng_state()
    again = TextEncoder(folders["t5"], device="cpu")
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not again(["a"]).requires_grad
    assert torch.equal(again(["a red"]), encoder(["a red"]))


def test_half_precision_is_close(folders: dict[str, Path], encoder: TextEncoder) -> None:
    half = TextEncoder(folders["t5"], device="cpu", dtype="bfloat16")
    exact, rounded = encoder(CAPTIONS), half(CAPTIONS)
    assert rounded.dtype == torch.float32
    assert 0 < (rounded - exact).norm() < 0.05 * exact.norm()
    assert half.fingerprint == encoder.fingerprint
    assert half.identity != encoder.identity


def test_the_fingerprint_follows_the_weights_not_the_place(folders: dict[str, Path], tmp_path: Path) -> None:
    for kind in ("t5", "bert"):
        folder = tmp_path / kind
        folder.symlink_to(folders[kind])
        assert TextEncoder(folder, device="cpu").fingerprint == TextEncoder(folders[kind]).fingerprint
    model = transformers.BertModel.from_pretrained(folders["bert"])
    with torch.no_grad():
        model.encoder.layer[0].output.dense.bias += 1
    model.save_pretrained(tmp_path / "other")
    transformers.AutoTokenizer.from_pretrained(folders["bert"]).save_pretrained(tmp_path / "other")
    other = TextEncoder(tmp_path / "other", device="cpu")
    assert other.fingerprint != TextEncoder(folders["bert"], device="cpu").fingerprint


# what cannot be read


def test_pickled_weights_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    model = transformers.BertModel.from_pretrained(folders["bert"])
    for file in folders["bert"].glob("*.json"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"no weights in safetensors.*pickled weights can run code"):
        TextEncoder(tmp_path)


def test_a_folder_with_other_weights_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    for file in folders["bert"].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "model.safetensors").write_bytes((folders["t5"] / "model.safetensors").read_bytes())
    with pytest.raises(InputError, match="lacks weights of a BertModel"):
        TextEncoder(tmp_path)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        TextEncoder(tmp_path)


def test_a_name_out_of_reach_says_so_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        InputError, match=r"neither a folder nor in the local cache.*check the name and the connection"
    ):
        TextEncoder("nobody/has-this-encoder")


def test_without_transformers_the_command_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "transformers" else find(name, *rest)
    )
    with pytest.raises(InputError, match=r"pip install 'mmdiff\[text\]'"):
        TextEncoder("google-t5/t5-small")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dtype": "float8"}, "dtype='float8' must be"),
        ({"length": 0}, "length=0"),
        ({"batch_size": 0}, "batch_size=0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        TextEncoder("google-t5/t5-small", **settings)


# the cache


class Counting:
    """An encoder that notes what it is asked."""

    def __init__(self, encoder: TextEncoder) -> None:
        self.encoder, self.asked = encoder, []
        for name in ("width", "device", "dtype", "identity"):
            setattr(self, name, getattr(encoder, name))

    def __call__(self, captions: list[str]) -> Tensor:
        self.asked.extend(captions)
        return self.encoder(captions)


def test_the_cache_gives_the_same_and_asks_once(encoder: TextEncoder, tmp_path: Path) -> None:
    counting = Counting(encoder)
    cached = CachedText(counting, tmp_path)
    for _ in range(2):
        torch.testing.assert_close(cached(CAPTIONS), encoder(CAPTIONS))
    assert sorted(counting.asked) == sorted(filter(None, CAPTIONS))

    resumed = CachedText(Counting(encoder), tmp_path)
    resumed.prepare([*CAPTIONS, "a new one"], progress=False)
    assert resumed.encoder.asked == ["a new one"]
    torch.testing.assert_close(resumed(CAPTIONS), encoder(CAPTIONS))
    assert resumed.encoder.asked == ["a new one"]


def test_validation_asks_the_tasks_encoder(encoder: TextEncoder) -> None:
    network = SpaceTimeUNet(
        widths=(8,), blocks=1, mixing=("tokens",), embedding=16, vector=16, tokens=16, head_width=8
    )
    model = ClipModel(
        ConditionedNetwork(network, (encoder.condition(16),)), CosineVP(), frames=2, guidance=2.0
    )
    clip = {"video": torch.zeros(3, 2, 8, 8, dtype=torch.uint8), "caption": "a red seven"}
    validate = clip_validation([clip] * 2, count=2, show=2, steps=1)
    counting = Counting(encoder)
    result = validate(ClipTask(model, text=counting), 0)
    assert counting.asked == ["a red seven"] * 4
    assert result.metrics["loss"] > 0
    assert result.images["clips"].any()
    with pytest.raises(InputError, match="text=None must be the text encoder"):
        validate(ClipTask(model), 0)


def test_half_precision_comes_back_as_it_was(folders: dict[str, Path], tmp_path: Path) -> None:
    half = TextEncoder(folders["t5"], device="cpu", dtype="bfloat16")
    first = CachedText(half, tmp_path)(["a red seven"])
    assert torch.equal(CachedText(half, tmp_path)(["a red seven"]), first)


def test_another_encoder_does_not_read_the_first_ones_files(
    folders: dict[str, Path], encoder: TextEncoder, tmp_path: Path
) -> None:
    CachedText(encoder, tmp_path)(["a red seven"])
    other = Counting(TextEncoder(folders["bert"], device="cpu"))
    torch.testing.assert_close(CachedText(other, tmp_path)(["a red seven"]), other.encoder(["a red seven"]))
    assert other.asked == ["a red seven"]


@pytest.mark.parametrize("damage", [b"", b"half of"])
def test_damaged_files_are_made_again(damage: bytes, encoder: TextEncoder, tmp_path: Path) -> None:
    expected = CachedText(encoder, tmp_path)(["a red seven"])
    (file,) = tmp_path.rglob("*.safetensors")
    file.write_bytes(damage)
    assert torch.equal(CachedText(encoder, tmp_path)(["a red seven"]), expected)
    again = Counting(encoder)
    assert torch.equal(CachedText(again, tmp_path)(["a red seven"]), expected)
    assert again.asked == []
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith(TEMPORARY)]


def test_a_full_folder_warns_once_and_goes_on(encoder: TextEncoder, tmp_path: Path) -> None:
    counting = Counting(encoder)
    cached = CachedText(counting, tmp_path, most_gb=700e-9, most_mb=0)
    with pytest.warns(UserWarning, match=r"is full.*raise most_gb") as caught:
        answers = [cached(CAPTIONS) for _ in range(3)]
    for answer in answers:
        torch.testing.assert_close(answer, encoder(CAPTIONS))
    assert len(caught) == 1
    assert sum(file.stat().st_size for file in tmp_path.rglob("*.safetensors")) <= 700
    assert len(counting.asked) > 3


def test_memory_is_bounded(encoder: TextEncoder, tmp_path: Path) -> None:
    cached = CachedText(encoder, tmp_path, most_mb=500e-6)
    for caption in ("a red seven", "a blue nine", "a red nine"):
        cached([caption])
    assert sum(features.nbytes for features in cached._recent.values()) <= 500
    assert list(cached._recent) == ["a blue nine", "a red nine"]


def test_limits_that_make_no_sense_are_refused(encoder: TextEncoder, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="most_gb=0 must be above 0"):
        CachedText(encoder, tmp_path, most_gb=0)


# the condition


def build_model(features: TextFeatures, *further: Conditioner) -> ClipModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = SpaceTimeUNet(
            3,
            (8,),
            blocks=1,
            mixing=("shift+tokens",),
            patch=2,
            embedding=16,
            vector=32,
            tokens=32,
            head_width=8,
            planes=3 * len(further),
        )
        model = ClipModel(
            ConditionedNetwork(network, (features, *further)), CosineVP(), frames=2, size=(4, 4)
        )
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape))
    return model


def test_padding_and_stills_change_nothing(encoder: TextEncoder) -> None:
    condition, x = encoder.condition(32), torch.zeros(2, 3, 2, 4, 4)
    features = encoder(["a red seven", None])
    short, wide = condition(features, x), condition(torch.nn.functional.pad(features, (0, 0, 0, 3)), x)
    torch.testing.assert_close(short, wide)
    assert short.seen.tolist() == [[[True] * 4], [[True, False, False, False]]]
    shared = condition(features[None], x)  # a clip and a still
    assert torch.equal(shared.vector[0], short.vector[:, 0])
    assert torch.equal(shared.tokens[0], short.tokens[:, 0])


def test_no_caption_is_learned_and_is_the_null(encoder: TextEncoder) -> None:
    condition, x = encoder.condition(32), torch.zeros(1, 3, 2, 4, 4)
    features = encoder(["a red seven"])
    null = condition(condition.null(features), x)
    assert torch.equal(null.vector[0, 0], condition.nothing)
    assert torch.equal(null.tokens[0, 0], condition.start[None])


def test_every_parameter_of_the_condition_gets_a_gradient(encoder: TextEncoder) -> None:
    condition = encoder.condition(32)
    told = condition(encoder(["a red seven", None]), torch.zeros(2, 3, 2, 4, 4))
    (told.vector.square().sum() + told.tokens.square().sum()).backward()
    assert [name for name, p in condition.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_features_of_another_width_are_refused(encoder: TextEncoder) -> None:
    with pytest.raises(InputError, match="features of the text encoder"):
        encoder.condition(32)(torch.zeros(1, 3, 8), torch.zeros(1, 3, 2, 4, 4))


def test_training_encodes_captions_of_clips_and_stills(encoder: TextEncoder, tmp_path: Path) -> None:
    model = build_model(encoder.condition(32))
    rng = torch.Generator().manual_seed(0)
    batch = {
        "video": torch.randint(0, 256, (2, 3, 2, 4, 4), dtype=torch.uint8, generator=rng),
        "caption": ["a red seven", None],
        "stills": torch.randint(0, 256, (2, 1, 3, 4, 4), dtype=torch.uint8, generator=rng),
        "still_captions": [["a nine"], ["a blue nine"]],
    }
    assert torch.equal(batch_conditions(model, batch, encoder)["text"], encoder(batch["caption"]))
    losses = [
        ClipTask(model, text=text)(batch, torch.Generator().manual_seed(1))["loss"]
        for text in (encoder, CachedText(encoder, tmp_path))
    ]
    torch.testing.assert_close(*losses)
    losses[0].backward()
    assert all(parameter.grad is not None for parameter in model.network.conditioners["text"].parameters())
    with pytest.raises(InputError, match="text=None must be the text encoder"):
        ClipTask(model)(batch, rng)


def test_a_saved_model_knows_its_encoder_and_does_not_hold_it(
    encoder: TextEncoder, folders: dict[str, Path], tmp_path: Path
) -> None:
    model = build_model(encoder.condition(32))
    folder = save_model(model, tmp_path / "model", half=False)
    loaded = load_model(folder)
    assert text_features(loaded).encoder == str(folders["t5"])
    assert (folder / "model.safetensors").stat().st_size < 200_000
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = encoder_for(loaded, device="cpu")
    x, t = torch.randn(1, 3, 2, 4, 4, generator=torch.Generator().manual_seed(0)), torch.tensor(0.5)
    with torch.no_grad():
        one = model.denoiser(x, t, text=encoder(["a red seven"]))
        other = loaded.denoiser(x, t, text=again(["a red seven"]))
        nothing = loaded.denoiser(x, t, text=again([None]))
    assert torch.equal(one, other)
    assert not torch.allclose(one, nothing)


# the pipeline


def test_prompts_are_encoded_by_the_encoder_that_the_model_records(
    encoder: TextEncoder, folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = save_model(build_model(encoder.condition(32)), tmp_path / "model", half=False)
    prompts, settings = ["a red seven", None, "nine"], {"steps": 2, "guidance": 2.0, "seed": 3}
    gen = mmdiff.load(folder, "cpu", "float32")
    made = gen(prompts, **settings)
    assert torch.equal(made, gen(text=encoder(prompts), **settings))
    assert not torch.allclose(made[0], gen(**settings)[0])
    nothing = gen([None, None, None], **settings)
    torch.testing.assert_close(nothing[1], made[1], atol=1e-5, rtol=1e-4)
    counting = Counting(encoder)
    other = ClipGenerator(gen.model, "cpu", "float32", text=counting)
    assert torch.equal(other(prompts, **settings), made)
    assert counting.asked == prompts
    with pytest.raises(InputError, match="text must be left out with a prompt"):
        gen(prompts, text=encoder(prompts))


def test_a_folder_is_measured_by_captions_that_are_encoded(encoder: TextEncoder, tmp_path: Path) -> None:
    write_digits(tmp_path / "videos", 3, frames=4, size=32)
    model = build_model(encoder.condition(32))
    model.size, model.fps, model.steps, counting = (8, 8), 8.0, 1, Counting(encoder)
    gen = ClipGenerator(model, "cpu", text=counting)
    clips = folder_clips(tmp_path / "videos", model, progress=False)
    (*_, made) = evaluate_folder(gen, clips, count=3, features=lambda x: x.flatten(1)[:, :4], progress=False)
    captions = [clips[n]["caption"] for n in range(3)]
    assert sorted(counting.asked) == sorted(3 * captions)  # of the loss, of clips made, of prediction
    losses = noise_losses(model, clips, 3, 4, NOISE, 0, encoder)
    assert {name: made.measures[name].value for name in losses} == losses
    told, untold = (noise_losses(model, clips, 3, 4, NOISE, 0, text)["loss"] for text in (encoder, empty))
    assert told != untold


def test_what_enlarges_is_measured_by_captions_that_are_encoded(encoder: TextEncoder) -> None:
    slope = torch.arange(16, dtype=torch.uint8).expand(3, 2, 16, 16) ** 2
    still = {"video": slope, "caption": "a red seven"}
    model = build_model(encoder.condition(32), SmallClip(width=32))
    quality = {
        text: upscaling_quality(model, WithSmall([still] * 3, most=0.0), 3, batch=2, steps=1, text=text)
        for text in (encoder, empty)
    }
    assert quality[encoder]["linear"] == quality[empty]["linear"]
    assert quality[encoder]["model"] != quality[empty]["model"]


def empty(captions: list[str | None]) -> Tensor:
    """An encoder that reads nothing."""
    return torch.zeros(len(captions), 1, 16)


def test_the_wrong_encoder_is_noticed(folders: dict[str, Path], encoder: TextEncoder) -> None:
    model = build_model(encoder.condition(32))
    with pytest.warns(UserWarning, match="other weights or words"):
        assert encoder_for(model, folders["bert"], device="cpu") is not None
    wider = build_model(TextFeatures("google-t5/t5-small", 512, 32))
    with pytest.raises(InputError, match="width 16, the model was trained with 512"):
        encoder_for(wider, folders["t5"], device="cpu")
    assert encoder_for(torch.nn.Linear(1, 1)) is None

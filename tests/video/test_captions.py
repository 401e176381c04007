from __future__ import annotations

import pytest
import torch

from mmdiff.registry import from_config, to_config
from mmdiff.video.captions import PADDING, UNKNOWN, CaptionEncoder, learn_vocabulary, split_words

CAPTIONS = ["a red seven moving left", "a red nine moving right", "a zigzag"]


@pytest.fixture
def encoder() -> CaptionEncoder:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = CaptionEncoder(learn_vocabulary(CAPTIONS), width=32, depth=2, length=8)
        with torch.no_grad():
            for parameter in encoder.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape))
    return encoder


def told(encoder: CaptionEncoder, *captions: str | None) -> tuple[torch.Tensor, ...]:
    return encoder(encoder.ids(captions), torch.zeros(len(captions), 3, 1, 4, 4))[:3]


# words and pieces


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("A Red  seven,\nmoving left!", ["a", "red", "seven", ",", "moving", "left", "!"]),
        ("snake_case and 3rd", ["snake", "case", "and", "3rd"]),
        ("", []),
        (" \t_ ", []),
        ("Blåbær über Ünïcode", ["blåbær", "über", "ünïcode"]),
        ("cafe\u0301", ["café"]),
        ("赤い 七 🎬", ["赤い", "七", "🎬"]),
    ],
)
def test_captions_become_words_and_marks(caption: str, words: list[str]) -> None:
    assert split_words(caption) == words


def test_vocabulary_holds_padding_unknown_all_characters_and_words_seen_twice() -> None:
    vocabulary = learn_vocabulary(CAPTIONS)
    letters = {letter for caption in CAPTIONS for letter in caption if letter != " "}
    assert vocabulary[PADDING] == ""
    assert vocabulary[UNKNOWN] == "?"
    assert letters | {f"##{letter}" for letter in letters} <= set(vocabulary)
    assert vocabulary[-2:] == ("moving", "red")  # as frequent as each other; "a" is a character too
    assert "seven" not in vocabulary
    assert "seven" in learn_vocabulary(CAPTIONS, least=1)
    assert len(set(vocabulary)) == len(vocabulary)


@pytest.mark.parametrize("size", [2, 3, 4, 7, 20, 40, 43, 100])
def test_vocabulary_keeps_within_its_size(size: int) -> None:
    vocabulary = learn_vocabulary(CAPTIONS, size, least=1)
    assert len(vocabulary) <= size
    assert vocabulary[:2] == ("", "?")
    assert CaptionEncoder(vocabulary, width=32).ids(["a red seven"]).max() < max(2, len(vocabulary))


def test_scarce_places_go_to_the_most_frequent() -> None:
    assert learn_vocabulary(["aab", "aac"], 4) == ("", "?", "a", "##a")
    letters = 2 + 2 * len({letter for caption in CAPTIONS for letter in caption} - {" "})
    # The first word counted, "a", is a character as well and takes no place.
    assert learn_vocabulary(CAPTIONS, letters + 2)[letters:] == ("moving",)


def test_learning_does_not_depend_on_order() -> None:
    assert learn_vocabulary(CAPTIONS) == learn_vocabulary(CAPTIONS[::-1])


@pytest.mark.parametrize(
    ("word", "pieces"),
    [
        ("red", ["red"]),
        ("reds", ["red", "##s"]),
        ("seven", ["s", "##e", "##v", "##e", "##n"]),
        ("xylem", ["?"]),
        ("", []),
    ],
)
def test_words_are_split_into_the_longest_known_pieces(
    word: str, pieces: list[str], encoder: CaptionEncoder
) -> None:
    assert encoder.pieces(word) == pieces


def test_pieces_spell_the_caption_again(encoder: CaptionEncoder) -> None:
    for caption in ("moving reds", "a seven", "zigzag"):
        row = encoder.ids([caption])[0]
        spelt = " ".join(encoder.vocabulary[i] for i in row if i != PADDING).replace(" ##", "")
        assert caption.startswith(spelt)  # cut at eight pieces
        assert spelt == caption or (row != PADDING).all()


def test_ids_are_padded_cut_and_empty_for_no_caption(encoder: CaptionEncoder) -> None:
    ids = encoder.ids(["a red", "moving " * 20, "", None, "  "])
    index = encoder.index
    assert ids.dtype == torch.int64
    assert ids[0].tolist() == [index["a"], index["red"], *[PADDING] * 6]
    assert ids[1].tolist() == [index["moving"]] * 8
    assert not ids[2:].any()
    assert encoder.ids([]).shape == (0, 8)


def test_words_never_learned_are_named(encoder: CaptionEncoder) -> None:
    assert encoder.unknown_words("A RED zebra moving 七") == ["zebra", "七"]
    assert encoder.unknown_words("") == []


# the encoder


def test_neighbours_and_padding_change_nothing(encoder: CaptionEncoder) -> None:
    vector, tokens, seen = told(encoder, "a red", "a red seven moving left", None)
    for n, caption in enumerate(("a red", "a red seven moving left", None)):
        alone = told(encoder, caption)
        length = alone[1].shape[2]
        torch.testing.assert_close(vector[n], alone[0][0], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(tokens[n, :, :length], alone[1][0], atol=1e-5, rtol=1e-5)
        assert seen[n, 0].sum() == alone[2].sum()


def test_padding_is_not_computed(encoder: CaptionEncoder) -> None:
    assert told(encoder, "a red", None)[1].shape == (2, 1, 3, 32)
    assert told(encoder, None)[1].shape == (1, 1, 1, 32)


def test_the_order_of_words_matters_and_case_does_not(encoder: CaptionEncoder) -> None:
    one, other = told(encoder, "red moving", "moving red")[0]
    assert not torch.allclose(one, other, atol=1e-3)
    assert torch.equal(told(encoder, "A RED")[0], told(encoder, "a red")[0])


def test_stills_have_captions_of_their_own(encoder: CaptionEncoder) -> None:
    ids = encoder.ids(["a red", "moving", None, "a zigzag"]).view(2, 2, -1)
    both = encoder(ids, torch.zeros(2, 3, 2, 4, 4))
    flat = encoder(ids.flatten(0, 1), torch.zeros(4, 3, 2, 4, 4))
    for one, other in zip(both[:3], flat[:3], strict=True):
        torch.testing.assert_close(one.flatten(0, 1), other.flatten(0, 1))


def test_null_is_the_empty_caption(encoder: CaptionEncoder) -> None:
    assert torch.equal(encoder.null(encoder.ids(["a red"])), encoder.ids([""]))


def test_every_parameter_gets_a_gradient(encoder: CaptionEncoder) -> None:
    vector, tokens, _ = told(encoder, "moving a red red red red red left", None)
    (vector.square().sum() + tokens.square().sum()).backward()
    assert [n for n, p in encoder.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_description_holds_the_words(encoder: CaptionEncoder) -> None:
    again = from_config(to_config(encoder))
    again.load_state_dict(encoder.state_dict())
    assert again.vocabulary == encoder.vocabulary
    assert torch.equal(told(again, "a red")[0], told(encoder, "a red")[0])

"""Prompts: what is kept, what is cut, and how training rows and prompts to be continued agree."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from genre_tf.generation.prompt_form import CONTROL_TOKENS, END, READER, SOURCE
from genre_tf.generation.prompts import Prompts, PromptSizes
from genre_tf.text.byte_pair import BytePair, train_byte_pair

SIZES = PromptSizes(history_titles=3, title_tokens=6, history_tokens=14, source_tokens=8, target_tokens=7)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: Any) -> BytePair:
    folder: Path = tmp_path_factory.mktemp("vocabulary")
    return train_byte_pair(["a b c d"], 256 + len(CONTROL_TOKENS), CONTROL_TOKENS, folder)  # bytes alone


@pytest.fixture(scope="module")
def prompts(tokenizer: BytePair) -> Prompts:
    return Prompts(tokenizer, SIZES)


def readable(tokenizer: BytePair, ids: Any) -> str:
    """Token ids as a string with the control tokens in it."""
    names = {tokenizer.token_id(token): token for token in CONTROL_TOKENS}
    return "".join(
        names.get(token) or tokenizer.decode(tf.constant([[token]]))[0].numpy().decode()
        for token in np.asarray(ids).tolist()
    )


def prompt_of(prompts: Prompts, history: str, source: str = "", kind: str = "title") -> str:
    prompt = prompts.to_continue(tf.constant([history]), tf.constant([source]), tf.constant([kind]))
    return readable(prompts.tokenizer, prompt.token_ids[0][prompt.mask[0]])


@pytest.mark.parametrize(
    ("history", "source", "kind", "expected"),
    [
        ("one\ntwo", "src", "title", "<|reader|>one\ntwo\n<|source|>src<|title|>"),
        ("", "", "summary", "<|reader|><|source|><|summary|>"),
        ("", "src", " BODY ", "<|reader|><|source|>src<|body|>"),
        ("", "src", "poem", "<|reader|><|source|>src<|title|>"),
        ("\n  \n one \n\n", "  src\n", "title", "<|reader|>one\n<|source|>src<|title|>"),
    ],
)
def test_layout(prompts: Prompts, history: str, source: str, kind: str, expected: str) -> None:
    assert prompt_of(prompts, history, source, kind) == expected


def test_the_newest_titles_are_kept_and_whole(prompts: Prompts) -> None:
    assert prompt_of(prompts, "a\nb\nc\nd\ne") == "<|reader|>c\nd\ne\n<|source|><|title|>"
    assert prompt_of(prompts, "aaaaaaaaa\nbbbbbb\ncccccc") == "<|reader|>bbbbbb\ncccccc\n<|source|><|title|>"
    assert prompt_of(prompts, "x\nvery long title") == "<|reader|>x\nvery l\n<|source|><|title|>"


def test_the_titles_nearest_to_the_source_are_kept_in_the_order_of_reading(prompts: Prompts) -> None:
    read = "a snow\nb\nsnow c\nd\ne"
    as_many_as_fit = "<|reader|>a snow\nsnow c\n<|source|>Snow?<|title|>"
    assert prompt_of(prompts, read, "Snow?") == as_many_as_fit
    roomy = Prompts(prompts.tokenizer, replace(SIZES, history_tokens=40))
    expected = "<|reader|>a snow\nsnow c\ne\n<|source|>Snow!<|title|>"
    assert prompt_of(roomy, read, "Snow!") == expected, "two share a word, then the newest"
    assert "<|reader|>snow c\nd\ne\n" in prompt_of(roomy, read, "the of"), "all share function words"


def test_the_sentences_of_a_long_source_stay_that_share_words_with_the_reader(
    prompts: Prompts,
) -> None:
    roomy = Prompts(prompts.tokenizer, replace(SIZES, source_tokens=24))
    source = "Lead it. Two two. Three cat. Four dog. Five."
    assert prompt_of(roomy, "", source).endswith("<|source|>Lead it. Two two. Three <|title|>")
    chosen = prompt_of(roomy, "My dog", source).partition(SOURCE)[2]
    assert chosen.startswith("Lead it.") and " Four dog." in chosen and "cat" not in chosen
    assert prompt_of(roomy, "My dog", source[:20]).endswith(f"<|source|>{source[:20]}<|title|>"), "it fits"


def test_the_beginning_of_the_source_is_kept(prompts: Prompts) -> None:
    assert prompt_of(prompts, "", "0123456789" * 1000) == "<|reader|><|source|>01234567<|title|>"


def test_a_control_token_in_a_text_stays_text(prompts: Prompts) -> None:
    end = prompts.tokenizer.token_id(END)
    prompt = prompts.to_continue(tf.constant([END]), tf.constant([END]), tf.constant(["title"]))
    assert end not in prompt.token_ids[0][prompt.mask[0]].numpy()


def test_bytes_that_are_no_text_do_no_harm(prompts: Prompts) -> None:
    prompt = prompts.to_continue(tf.constant([b"\xff\xfe"]), tf.constant([b"\xc3"]), tf.constant([b"\xff"]))
    assert prompt.token_ids.shape[1] > 3


def test_rows_end_in_the_last_column(prompts: Prompts) -> None:
    history, source, kind = ["one", "", "\n \n"], ["", "long source", ""], ["title"] * 3
    prompt = tf.function(prompts.to_continue)(tf.constant(history), tf.constant(source), tf.constant(kind))
    assert prompt.mask[:, -1].numpy().all()
    assert np.all(np.diff(prompt.mask.numpy().astype(int), axis=1) >= 0)


def test_a_training_row_is_the_prompt_and_the_target(prompts: Prompts) -> None:
    texts = [tf.constant([text]) for text in ("one", "src", "title", "good")]
    rows = prompts.to_learn(*texts, context_weight=0.25, multiple=16)
    ids = rows["token_ids"][0]
    assert ids.shape[0] % 16 == 0
    expected = "<|reader|>one\n<|source|>src<|title|>good<|end|>"
    assert readable(prompts.tokenizer, ids)[: len(expected)] == expected
    length = len(prompts.tokenizer.encode(tf.constant(["one\nsrcgood"]))[0]) + 4
    np.testing.assert_array_equal(rows["labels"][0, : length - 1], ids[1:length])


def test_only_words_are_learned_the_targets_fully(prompts: Prompts) -> None:
    texts = [tf.constant([text]) for text in ("on", "s", "title", "go")]
    rows = prompts.to_learn(*texts, context_weight=0.25)
    # Predicted:   o n \n <|source|> s <|title|> g o <|end|> and behind the end nothing
    expected = [0.25, 0.25, 0.25, 0, 0.25, 0, 1, 1, 1, 0]
    np.testing.assert_allclose(rows["label_weight"][0], expected)


def test_a_target_cut_off_has_no_end_to_learn(prompts: Prompts) -> None:
    texts = [tf.constant([text]) for text in ("", "", "title", "much too long")]
    rows = prompts.to_learn(*texts, context_weight=0.0)
    assert readable(prompts.tokenizer, rows["token_ids"][0]) == f"{READER}{SOURCE}<|title|>much to"


def test_sizes_share_out_all_positions(tokenizer: BytePair) -> None:
    for tokens in (256, 64, 1024):
        assert Prompts(tokenizer, max_tokens=tokens).tokens == tokens
    with pytest.raises(ValueError, match="no room"):
        PromptSizes.within(12)


def test_padding_never_goes_beyond_the_positions_of_the_model(prompts: Prompts) -> None:
    """A full row of 32 tokens padded to a multiple of 24 would be 48 columns, and the model has 32."""
    full = tf.constant(["a" * 50])
    rows = prompts.to_learn(full, full, tf.constant(["body"]), full, context_weight=0.0, multiple=24)
    assert rows["token_ids"].shape[1] <= prompts.tokens
    short = prompts.to_learn(
        tf.constant([""]), tf.constant([""]), tf.constant(["title"]), tf.constant(["a"]),
        context_weight=0.0, multiple=8,
    )  # fmt: skip
    assert short["token_ids"].shape[1] == 8

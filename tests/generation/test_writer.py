"""Writing for readers, from raw strings to ranked texts."""

import copy
import dataclasses
import unicodedata
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from genre_tf.backbones.language_models import GPT2
from genre_tf.config import WritingConfig
from genre_tf.errors import InputError
from genre_tf.generation.decode import copied
from genre_tf.generation.prompt_form import CONTROL_TOKENS
from genre_tf.generation.prompts import PromptSizes
from genre_tf.generation.writer import WriterOptions, WritingGraph, Written, writer_options
from genre_tf.models.writer import Writer
from genre_tf.text.byte_pair import train_byte_pair

SIZES = PromptSizes(history_titles=2, title_tokens=8, history_tokens=18, source_tokens=10, target_tokens=16)
HISTORY = ["Cats win\nDogs lose", "", "Only one title\n", "Caf\xe9 \u65b0\u805e"]
SOURCE = ["A cat of 12 wins in Rome.", "", "", "Z\u00fcrich"]
KIND = ["title", "summary", "body", "nonsense"]


@pytest.fixture(scope="module")
def writer(tmp_path_factory: Any) -> WritingGraph:
    corpus = ["cats win in Rome", "dogs lose in Bern", "a cat and a dog"]
    tokenizer = train_byte_pair(corpus, 280, CONTROL_TOKENS, tmp_path_factory.mktemp("vocabulary"))
    gpt2 = GPT2.new(tokenizer, layers=2, heads=2, hidden=16, max_tokens=64, dropout=0.0)
    generator = Writer(gpt2, prompt=asdict(SIZES))
    random = np.random.default_rng(5)
    for weight in generator.trainable_weights:
        weight.assign(weight + random.normal(0, 0.3, weight.shape))
    return WritingGraph(generator, WriterOptions(samples=3, title_tokens=9))


@pytest.fixture(scope="module")
def write(writer: WritingGraph) -> Any:
    @tf.function(autograph=False)
    def run(history: Any, source: Any, kind: Any, seed: Any, long: Any) -> Written:
        def interest(text: Any) -> Any:
            return tf.cast(tf.strings.length(text), tf.float32) / 100.0

        def unsafe(text: Any) -> Any:
            return tf.strings.length(text) > long

        return writer(history, source, kind, seed, interest, unsafe)

    def of_rows(rows: list[int], seeds: list[int], longest: int = 10_000) -> Written:
        columns = [tf.constant([column[row] for row in rows]) for column in (HISTORY, SOURCE, KIND)]
        return run(*columns, tf.constant(seeds, tf.int64), tf.constant(longest))

    return of_rows


ALL = [0, 1, 2, 3]


def test_every_row_gets_its_texts_and_finite_scores(write: Any) -> None:
    written = write(ALL, [1, 2, 3, 4])
    for column in written:
        assert column.shape == (4, 3)
    assert set(written.served()) == {"text", "interest", "log_probability", "grounding", "safe"}
    for column in (written.interest, written.log_probability, written.grounding):
        assert np.isfinite(column.numpy()).all()
    assert (written.log_probability.numpy() < 0).all()


def test_texts_are_utf8_without_control_characters_and_one_line_unless_a_body(write: Any) -> None:
    for seed in range(5):
        for row, texts in enumerate(write(ALL, [seed] * 4).text.numpy()):
            for text in texts:
                decoded = text.decode("utf-8")
                assert not any(token in decoded for token in CONTROL_TOKENS)
                assert all(letter == "\n" or unicodedata.category(letter) != "Cc" for letter in decoded)
                assert KIND[row] == "body" or "\n" not in decoded


def test_the_same_request_gives_the_same_text_in_any_company(write: Any) -> None:
    together = write(ALL, [7, 8, 9, 10])
    for row in ALL:
        alone = write([row], [7 + row])
        np.testing.assert_array_equal(alone.text[0], together.text[row])
        np.testing.assert_allclose(alone.log_probability[0], together.log_probability[row], atol=1e-4)


def test_what_a_classifier_calls_unsafe_is_said_and_comes_last(write: Any) -> None:
    lengths = tf.strings.length(write(ALL, [1, 2, 3, 4]).text).numpy()
    longest = int(np.median(lengths))
    written = write(ALL, [1, 2, 3, 4], longest)
    safe = written.safe.numpy()
    np.testing.assert_array_equal(safe, tf.strings.length(written.text).numpy() <= longest)
    assert 0 < safe.sum() < safe.size
    np.testing.assert_array_equal(safe, -np.sort(-safe.astype(int), axis=1))


def test_grounding_and_what_is_unsupported_agree(write: Any) -> None:
    for seed in range(3):
        written = write(ALL, [seed] * 4)
        np.testing.assert_array_equal(written.grounding.numpy() == 1, written.unsupported.numpy() == b"")


def test_a_title_that_the_reader_has_read_is_not_offered_first(
    writer: WritingGraph, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = tf.constant([["Dogs lose!", "new", "other"]])
    monkeypatch.setattr(writer, "_text", lambda decoded, kind: written)
    texts = writer(
        *(tf.constant([text]) for text in ("Cats win\nDogs lose", "", "title")),
        tf.constant([1], tf.int64),
        lambda text: tf.constant([[0.9, 0.5, 0.4]]),
    ).text
    assert texts[0, -1].numpy() == b"Dogs lose!"


def test_another_seed_gives_other_texts(write: Any) -> None:
    assert write([0], [1]).text.numpy().tolist() != write([0], [2]).text.numpy().tolist()


def test_titles_are_shorter_than_bodies_may_be(writer: WritingGraph) -> None:
    columns = [tf.constant(column) for column in (HISTORY, SOURCE, KIND)]
    ids = writer.decode(*columns, tf.range(4, dtype=tf.int64)).ids.numpy()
    lengths = (ids >= 0).sum(axis=2)
    assert lengths[[0, 3]].max() <= 9
    assert lengths.max() <= 16


def test_drafts_from_the_source_change_no_text(writer: WritingGraph, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def counted(source: Any, written: Any, length: int) -> Any:
        asked.append(source)
        return copied(source, written, length)

    monkeypatch.setattr("genre_tf.generation.decode.copied", counted)
    drafted = copy.copy(writer)
    drafted.options = dataclasses.replace(writer.options, draft_tokens=3)
    columns = [tf.constant(column) for column in (HISTORY, SOURCE, KIND)]

    def ids_of(writer: WritingGraph) -> Any:
        decode = tf.function(writer.decode, autograph=False)
        return decode(*columns, tf.range(4, dtype=tf.int64))

    plain, ahead = ids_of(writer), ids_of(drafted)
    assert len(asked) == 1 and asked[0].shape[1] == SIZES.source_tokens  # in the drafted graph alone
    np.testing.assert_array_equal(ahead.ids, plain.ids)
    np.testing.assert_allclose(ahead.log_probability, plain.log_probability, atol=1e-5)


def decoded(writer: WritingGraph, settings: WritingConfig) -> tuple[Any, list[str]]:
    """Token ids and texts of all rows, written as settings say."""
    other = copy.copy(writer)
    other.options = writer_options(settings, writer.prompts)
    columns = [tf.constant(column) for column in (HISTORY, SOURCE, KIND)]
    ids = other.decode(*columns, tf.range(4, dtype=tf.int64)).ids
    texts = writer.prompts.tokenizer.decode(tf.reshape(ids, [-1, ids.shape[2]])).numpy()
    return ids.numpy(), [text.decode() for text in texts]


@pytest.fixture(scope="module")
def usual(writer: WritingGraph) -> tuple[Any, list[str]]:
    return decoded(writer, WritingConfig())


def test_the_usual_settings_are_the_usual_options(writer: WritingGraph) -> None:
    assert writer_options(WritingConfig(), writer.prompts) == WriterOptions()


def test_a_strategy_and_a_number_of_texts_are_settings(writer: WritingGraph) -> None:
    greedy, _ = decoded(writer, WritingConfig(strategy="greedy", samples=1))
    assert greedy.shape[1] == 1
    beam = WritingConfig(strategy="beam", samples=2, beam_width=4, beam_groups=2, diversity=50.0)
    ids, _ = decoded(writer, beam)
    assert ids.shape[1] == 2 and (ids[:, 0, 0] != ids[:, 1, 0]).all()  # groups shun each other's first token
    wider = writer_options(beam, writer.prompts, samples=5)  # than the beam of the settings
    assert (wider.samples, wider.rows) == (5, 6)
    likeliest, _ = decoded(writer, WritingConfig(samples=3, top_k=1))
    np.testing.assert_array_equal(likeliest, np.repeat(greedy, 3, axis=1))


def test_forbidden_words_do_not_come_in_any_case(writer: WritingGraph, usual: tuple[Any, list[str]]) -> None:
    letters = tuple("abcdefghijklmnopqrstuvwxyz")
    options = writer_options(WritingConfig(forbidden_words=letters), writer.prompts)
    single = [word[0] for word in options.constraints.forbidden_words if len(word) == 1]
    upper = writer.prompts.tokenizer.encode(tf.constant(["Q"])).flat_values.numpy()[0]
    assert upper in single
    assert np.isin(usual[0], single).any()
    without, texts = decoded(writer, WritingConfig(forbidden_words=letters))
    assert not np.isin(without, single).any() and any(texts)


def test_required_words_come_in_every_text(writer: WritingGraph, usual: tuple[Any, list[str]]) -> None:
    settings = WritingConfig(required_words=("AI", "42"), title_tokens=9)
    assert not all("AI" in text for text in usual[1])
    for text in decoded(writer, settings)[1]:
        assert "AI" in text and "42" in text
    with pytest.raises(InputError, match=r"required_words take \d+ tokens.*has room for 8"):
        writer_options(WritingConfig(required_words=("unbelievable",), title_tokens=9), writer.prompts)


def test_the_source_of_a_prompt_is_what_stands_in_it(writer: WritingGraph) -> None:
    prompt = writer.prompts.to_continue(*(tf.constant(column) for column in (HISTORY, SOURCE, KIND)))
    source = prompt.source.numpy()
    assert source.shape == (4, SIZES.source_tokens)
    for ids, tokens, mask in zip(source, prompt.token_ids.numpy(), prompt.mask.numpy(), strict=True):
        own = ids[ids >= 0].tolist()
        assert tokens[mask].tolist()[-1 - len(own) : -1] == own  # the control token of the kind is last
    assert (source[1] == -1).all()


def test_prompts_that_do_not_fit_are_refused_at_once(writer: WritingGraph) -> None:
    gpt2 = GPT2.new(writer.prompts.tokenizer, layers=1, heads=1, hidden=8, max_tokens=32)
    with pytest.raises(ValueError, match="do not fit into 32 positions"):
        WritingGraph(Writer(gpt2, prompt=asdict(writer.prompts.sizes)))


def test_the_graph_has_portable_operations_alone(writer: WritingGraph) -> None:
    text, seed = tf.TensorSpec([None], tf.string), tf.TensorSpec([None], tf.int64)
    concrete = tf.function(
        lambda *inputs: writer(*inputs, lambda text: tf.zeros(tf.shape(text))), autograph=False
    )
    graph = concrete.get_concrete_function(text, text, text, seed).graph.as_graph_def()
    functions = graph.library.function
    nodes = [*graph.node, *(node for function in functions for node in function.node_def)]
    assert not [node.op for node in nodes if node.op.startswith(("Xla", "PyFunc", "EagerPyFunc"))]
    assert not any("_XlaMustCompile" in function.attr for function in functions)
    mutable = [node.op for node in nodes if "MutableHashTable" in node.op or node.op.startswith("Assign")]
    assert not mutable

"""What the generator learns from, and how it is batched."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from genre_tf.config import GenerationConfig, RunConfig
from genre_tf.data.approved_texts import ApprovedText
from genre_tf.data.articles import Article, ArticleTable
from genre_tf.data.batches import BatchLayout
from genre_tf.data.columns import ImpressionExample
from genre_tf.data.learning_texts import (
    NO_HISTORY,
    TextExample,
    approved_examples,
    article_examples,
    click_examples,
    first_shown_in,
    history_examples,
    history_text,
    learning_split,
)
from genre_tf.generation.prompt_form import CONTROL_TOKENS
from genre_tf.generation.prompts import Prompts, PromptSizes
from genre_tf.models.text_rows import TextBatching, TextRows
from genre_tf.text.byte_pair import train_byte_pair
from genre_tf.training.generation import _examples
from genre_tf.training.stage_data import StageData

SIZES = PromptSizes(history_titles=2, title_tokens=12, history_tokens=26, source_tokens=30, target_tokens=30)
TABLE = ArticleTable(
    [
        Article("N1", "sports", "", "Cats win", "The cats won on Friday."),
        Article("N2", "news", "", "Dogs  lose", ""),
        Article("N3", "", "", "", "No title here."),
        Article("N4", "news", "", "Birds sing", "They sang."),
    ]
)


def impression(history: list[int], candidates: list[int], clicks: list[int]) -> ImpressionExample:
    labels = np.asarray([row in clicks for row in candidates], np.float32)
    counters = np.zeros((len(candidates), 9), np.float32)
    rows = np.asarray(history, np.int32), np.asarray(candidates, np.int32)
    return ImpressionExample(0, "U", 0.0, *rows, labels, counters)


def test_a_click_teaches_title_and_body() -> None:
    texts = click_examples(TABLE, [impression([2], [1, 4, 2], [1, 2])])
    assert [(text.kind, text.source, text.target) for text in texts] == [
        ("title", "The cats won on Friday.", "Cats win"),
        ("body", "Cats win (sports)", "Cats win\nThe cats won on Friday."),
        ("title", "", "Dogs  lose"),
    ]
    assert [text.task for text in texts] == ["title", "body", "interest"]
    assert all(text.history.tolist() == [2] for text in texts)


def test_a_body_is_taught_at_the_first_click_alone() -> None:
    texts = click_examples(TABLE, [impression([2], [1], [1]), impression([4], [1], [1])])
    assert [text.kind for text in texts] == ["title", "body", "title"]


def test_an_article_teaches_without_a_reader_and_one_without_title_nothing() -> None:
    texts = article_examples(TABLE, [0, 1, 2, 3])
    assert [text.task for text in texts] == ["title", "summary", "body", "plain"]
    assert [(text.kind, text.source) for text in texts] == [
        ("title", "The cats won on Friday."),
        ("summary", "Cats win (sports)"),
        ("body", "Cats win (sports)"),
        ("title", ""),
    ]


def test_a_history_teaches_its_titles_given_the_clicks_before_them() -> None:
    longer = impression([2, 1, 3, 4], [1], [1])
    texts = history_examples(TABLE, [impression([2, 1], [1], [1]), longer])
    assert [(text.history.tolist(), text.target) for text in texts] == [
        ([2], "Cats win"),
        ([2, 1, 3], "Birds sing"),  # between them one without a title
    ]
    assert {text.task for text in texts} == {"interest"}
    assert history_examples(TABLE, [impression([2], [1], [1]), impression([], [1], [1])]) == []
    many = history_examples(TABLE, [impression([1, 2] * 30, [1], [1])])
    assert len(many) == 8 and len(many[-1].history) == 59


def test_what_only_validation_shows_is_not_learned() -> None:
    train = [impression([2], [1], [1])]
    validation = [impression([1], [1, 4], [1, 4])]
    assert first_shown_in(validation, train) == {4}
    learned, validated = learning_split(TABLE, train, validation)
    assert 4 not in {text.article for text in learned}
    assert {text.article for text in validated} == {4}


def test_validation_falls_back_on_known_articles() -> None:
    same = [impression([2], [1], [1])]
    assert {text.article for text in learning_split(TABLE, same, same)[1]} == {1}


APPROVED = (
    ApprovedText("title", "N4", "Birds sing again"),
    ApprovedText("body", "N1", "Cats win\nOn Friday, they won."),
    ApprovedText("summary", "N1", "Cats won."),
    ApprovedText("title", "N9", "Not in the table"),
)


def test_an_approved_text_is_written_from_its_article_as_a_server_sends_it() -> None:
    texts = approved_examples(TABLE, APPROVED)
    assert [(text.task, text.source, text.target, len(text.history)) for text in texts] == [
        ("title", "Birds sing. They sang.", "Birds sing again", 0),
        ("body", "Cats win. The cats won on Friday.", "Cats win\nOn Friday, they won.", 0),
        ("summary", "Cats win. The cats won on Friday.", "Cats won.", 0),
    ]


def test_approved_texts_are_further_rows_unless_their_article_is_held_out() -> None:
    train, validation = [impression([2], [1], [1])], [impression([1], [1, 4], [1, 4])]
    run = RunConfig(), Path()
    settings = GenerationConfig(backbone="new")

    def learned(approved: tuple[ApprovedText, ...]) -> list[tuple[str, str, str]]:
        data = StageData(TABLE, train, validation, None, *run, approved=approved)  # type: ignore[arg-type]
        return [(text.kind, text.source, text.target) for text in _examples(data, settings, 3)[0]]

    without, found = learned(()), learned(APPROVED)
    assert found == [*without, *((one.kind, TABLE.texts[1], one.text) for one in APPROVED[1:3])]
    assert learned(APPROVED) == found


def test_history_text_is_what_a_client_sends() -> None:
    assert history_text(TABLE, np.asarray([2, 3, 1], np.int32)) == "Dogs lose\nCats win"


@pytest.fixture(scope="module")
def rows(tmp_path_factory: Any) -> TextRows:
    tokenizer = train_byte_pair(
        ["x"], 256 + len(CONTROL_TOKENS), CONTROL_TOKENS, tmp_path_factory.mktemp("bytes")
    )
    history = np.asarray([2, 1], np.int32)
    examples = [
        TextExample("title", history if n % 3 else NO_HISTORY, "s" * (n % 20), f"{n:03}" + "t" * (n % 25), 1)
        for n in range(200)
    ]
    return TextRows(examples, TABLE, Prompts(tokenizer, SIZES))


def numbers_in(batch: dict[str, tf.Tensor], rows: TextRows) -> list[int]:
    """Numbers of the rows of a batch, which their targets begin with."""
    targets = tf.ragged.boolean_mask(batch["labels"], batch["label_weight"] == 1.0)
    return [int(text[:3]) for text in rows.prompts.tokenizer.decode(targets).numpy()]


def test_the_tokens_of_an_approved_text_are_those_of_its_words(rows: TextRows) -> None:
    prompts = rows.prompts
    approved = TextRows(approved_examples(TABLE, APPROVED), TABLE, prompts)
    (batch,) = approved.batches(TextBatching(rows=3, context_weight=0.0))  # in their order
    texts = approved_examples(TABLE, APPROVED)
    for number, text in enumerate(texts):
        alone = prompts.to_learn([""], [text.source], [text.kind], [text.target], context_weight=0.0)
        length = alone["token_ids"].shape[1]
        for name in ("token_ids", "labels", "label_weight"):
            np.testing.assert_array_equal(batch[name][number, :length], alone[name][0])
            assert not batch[name][number, length:].numpy().any()
    counted = tf.ragged.boolean_mask(batch["labels"], batch["label_weight"] == 1.0)
    words = [text.target.encode() for text in texts]
    learned = prompts.tokenizer.decode(counted).numpy().tolist()
    assert learned[0] == words[0]
    assert all(target.startswith(part) for part, target in zip(learned, words, strict=True))  # some are cut


def test_an_epoch_holds_every_row_once(rows: TextRows) -> None:
    found = []
    for batch in rows.batches(TextBatching(tokens=500), seed=3):
        numbers = numbers_in(batch, rows)
        targets = (batch["label_weight"].numpy() == 1).sum(axis=1)
        np.testing.assert_array_equal(targets, 4 + np.array(numbers) % 25)  # digits, letters and the end
        found += numbers
    assert sorted(found) == list(range(200))


def test_batches_are_full_and_little_padded(rows: TextRows) -> None:
    batching = TextBatching(tokens=1000, drop_reader=0.0)
    batches = list(rows.batches(batching, seed=1))
    filled = sum(int((batch["token_ids"].numpy() != 0).sum()) for batch in batches)
    padded = sum(int(batch["token_ids"].shape.num_elements()) for batch in batches)
    assert filled / padded > 0.78, "rows are padded to multiples of 8"
    assert max(batch["token_ids"].shape.num_elements() for batch in batches) <= 1000 * 1.3
    assert len(batches) == rows.mean_batches(batching)


def test_seeds_repeat_and_epochs_differ(rows: TextRows) -> None:
    def order(seed: int | None, epochs: int = 1) -> list[int]:
        data = rows.batches(TextBatching(tokens=500), seed=seed, epochs=epochs)
        return [number for batch in data for number in numbers_in(batch, rows)]

    assert order(1) == order(1) != order(2)
    twice = order(1, epochs=2)
    assert twice[:200] != twice[200:]
    assert sorted(twice[:200]) == sorted(twice[200:])


@pytest.mark.parametrize("fixed", [0, 16])
def test_the_rows_of_a_batch_are_named_without_making_it(rows: TextRows, fixed: int) -> None:
    batching = TextBatching(tokens=500, rows=fixed)
    in_epoch = rows.mean_batches(batching)
    start = in_epoch - 1  # the last of an epoch, and the first two of the next one
    batches = rows.batches(batching, seed=3, epochs=None, start=start).take(3)
    made = [number for batch in batches for number in numbers_in(batch, rows)]
    assert rows.row_numbers(batching, 3, start, 3) == made


@pytest.mark.parametrize("seed", [None, 1])
def test_readers_are_left_out_in_shuffled_batches_alone(rows: TextRows, seed: int | None) -> None:
    history_words = len("Dogs lose\nCats win\n")
    for batch in rows.batches(TextBatching(tokens=500, drop_reader=1.0, context_weight=0.5), seed=seed):
        number = np.array(numbers_in(batch, rows))
        context = (batch["label_weight"].numpy() == 0.5).sum(axis=1)
        of_reader = history_words * (number % 3 > 0) if seed is None else 0
        np.testing.assert_array_equal(context, number % 20 + of_reader)


def test_the_parts_of_a_batch_are_together_the_batch(rows: TextRows) -> None:
    def numbers(**layout: Any) -> list[list[int]]:
        data = rows.batches(TextBatching(tokens=60), seed=3, layout=BatchLayout(**layout))
        return [numbers_in(batch, rows) for batch in data]

    whole, parts = numbers(), numbers(parts=2, wanted=(0, 1))
    together = [parts[n] + parts[n + 1] for n in range(0, len(parts), 2)]
    assert [sorted(each) for each in together] == [sorted(each) for each in whole]
    assert numbers(parts=2, wanted=(1,)) == parts[1::2]
    assert [] in parts  # a batch of one long row


def test_fixed_rows_have_one_shape_and_leave_out_a_batch_that_is_not_full(rows: TextRows) -> None:
    batching = TextBatching(rows=16)
    data = rows.batches(batching, seed=3, epochs=None, layout=BatchLayout(parts=2, wanted=(0, 1)))
    assert data.cardinality() == tf.data.INFINITE_CARDINALITY
    shapes = {name: tuple(spec.shape) for name, spec in data.element_spec.items()}
    assert shapes["token_ids"] == shapes["labels"] == shapes["label_weight"] == (8, rows.prompts.tokens)
    assert rows.mean_batches(batching) == 200 // 16
    epoch = [number for batch in data.take(2 * (200 // 16)) for number in numbers_in(batch, rows)]
    assert len(set(epoch)) == 192


def test_an_epoch_holds_each_task_by_its_share(rows: TextRows) -> None:
    drawn = {}
    for title in (0.0, 1.0, 3.0):
        batching = TextBatching(tokens=5000, shares={"interest": 1.0, "title": title, "summary": 5.0})
        batches = rows.batches(batching, seed=3)
        found = [rows.tasks[number] for batch in batches for number in numbers_in(batch, rows)]
        drawn[title] = {task: found.count(task) for task in ("interest", "title")}
    of_interest = int((rows.tasks == "interest").sum())
    assert 0 < of_interest < 100
    assert drawn == {
        0.0: {"interest": 200, "title": 0},  # there is no summary to learn
        1.0: {"interest": 100, "title": 100},
        3.0: {"interest": 50, "title": 150},
    }

"""What the generator learns from, and how it is batched."""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from genre_tf.data.articles import Article, ArticleTable
from genre_tf.data.batches import BatchLayout
from genre_tf.data.columns import ImpressionExample
from genre_tf.data.learning_texts import (
    NO_HISTORY,
    TextExample,
    article_examples,
    click_examples,
    first_shown_in,
    history_examples,
    history_text,
    learning_split,
)
from genre_tf.generation.prompt_form import CONTROL_TOKENS
from genre_tf.generation.prompts import Prompts, PromptSizes
from genre_tf.models.text_rows import ORDINARY, TextBatching, TextRows
from genre_tf.text.byte_pair import train_byte_pair

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


def test_a_title_that_asks_is_answered_from_evidence_that_holds_the_answer() -> None:
    table = ArticleTable(
        [
            Article("N1", "news", "", "Birds sing", "They sang. It was dawn. Nobody slept."),
            Article("N2", "news", "", "Who won the cup?", "Cats won it 3.5 to 1. It rained. Few came."),
        ]
    )
    (answer,) = (text for text in article_examples(table, [1, 2]) if text.kind == "answer")
    assert answer.source == "Who won the cup?\nThey sang. It was dawn.\nCats won it 3.5 to 1. It rained."
    assert answer.target == "Cats won it 3.5 to 1."


def test_chinese_questions_and_sentences_are_known_by_their_own_marks() -> None:
    articles = [
        Article("N1", "", "", "誰贏了?", "貓贏了。雨停了。"),
        Article("N2", "", "", "誰贏了？", "貓贏了。雨停了。"),
    ]
    answers = [text for text in article_examples(ArticleTable(articles), [1, 2]) if text.kind == "answer"]
    assert [answer.target for answer in answers] == ["貓贏了。"] * 2


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


def test_history_text_is_what_a_client_sends() -> None:
    assert history_text(TABLE, np.asarray([2, 3, 1], np.int32)) == "Dogs lose\nCats win"


@pytest.fixture(scope="module")
def rows(tmp_path_factory: Any) -> TextRows:
    tokenizer = train_byte_pair(
        ["x"], 256 + len(CONTROL_TOKENS), CONTROL_TOKENS, tmp_path_factory.mktemp("bytes")
    )
    history = np.asarray([2, 1], np.int32)
    examples = [
        TextExample("title", history if n % 3 else NO_HISTORY, "s" * (n % 20), "t" * (1 + n % 25), 1)
        for n in range(200)
    ]
    vectors = np.arange(400, dtype=np.float32).reshape(200, 2)
    return TextRows(examples, TABLE, vectors, Prompts(tokenizer, SIZES))


def test_an_epoch_holds_every_row_once_with_its_own_reader(rows: TextRows) -> None:
    batches = list(rows.batches(TextBatching(tokens=500), seed=3))
    vectors = np.concatenate([batch["user_vector"] for batch in batches])
    np.testing.assert_array_equal(np.sort(vectors[:, 0]), rows.user_vectors[:, 0])
    for batch in batches:
        targets = (batch["label_weight"].numpy() == 1).sum(axis=1)
        expected = 2 + (batch["user_vector"].numpy()[:, 0] / 2) % 25  # letters and the end
        np.testing.assert_array_equal(targets, expected)


def test_batches_are_full_and_little_padded(rows: TextRows) -> None:
    batching = TextBatching(tokens=1000, drop_source=0.0, drop_reader=0.0)
    batches = list(rows.batches(batching, seed=1))
    filled = sum(int((batch["token_ids"].numpy() != 0).sum()) for batch in batches)
    padded = sum(int(batch["token_ids"].shape.num_elements()) for batch in batches)
    assert filled / padded > 0.78, "rows are padded to multiples of 8"
    assert max(batch["token_ids"].shape.num_elements() for batch in batches) <= 1000 * 1.3
    assert len(batches) == rows.mean_batches(batching)


def test_seeds_repeat_and_epochs_differ(rows: TextRows) -> None:
    def order(seed: int | None, epochs: int = 1) -> list[float]:
        data = rows.batches(TextBatching(tokens=500), seed=seed, epochs=epochs)
        return [float(value) for batch in data for value in batch["user_vector"][:, 0]]

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
    vectors = np.concatenate([batch["user_vector"] for batch in batches])
    numbers = rows.row_numbers(batching, 3, start, 3)
    np.testing.assert_array_equal(vectors, rows.user_vectors[numbers])


def test_without_a_seed_nothing_is_dropped(rows: TextRows) -> None:
    batching = TextBatching(tokens=500, drop_source=1.0, drop_reader=1.0)
    for batch in rows.batches(batching):
        number = batch["user_vector"].numpy()[:, 0] / 2
        np.testing.assert_array_equal(batch["has_reader"], number % 3 > 0)


def test_a_reader_without_source_may_be_all_that_is_given(rows: TextRows) -> None:
    batching = TextBatching(tokens=500, drop_source=1.0, drop_reader=0.0, context_weight=0.5)
    history_words = len("Dogs lose\nCats win\n")
    for batch in rows.batches(batching, seed=1):
        context = (batch["label_weight"].numpy() == 0.5).sum(axis=1)
        np.testing.assert_array_equal(context[batch["has_reader"]], history_words)


def test_the_parts_of_a_batch_are_together_the_batch(rows: TextRows) -> None:
    def readers(**layout: Any) -> list[list[float]]:
        data = rows.batches(TextBatching(tokens=60), seed=3, layout=BatchLayout(**layout))
        return [batch["user_vector"].numpy()[:, 0].tolist() for batch in data]

    whole, parts = readers(), readers(parts=2, wanted=(0, 1))
    together = [parts[n] + parts[n + 1] for n in range(0, len(parts), 2)]
    assert [sorted(each) for each in together] == [sorted(each) for each in whole]
    assert readers(parts=2, wanted=(1,)) == parts[1::2]
    assert [] in parts  # a batch of one long row


def test_fixed_rows_have_one_shape_and_leave_out_a_batch_that_is_not_full(rows: TextRows) -> None:
    batching = TextBatching(rows=16)
    data = rows.batches(batching, seed=3, epochs=None, layout=BatchLayout(parts=2, wanted=(0, 1)))
    assert data.cardinality() == tf.data.INFINITE_CARDINALITY
    shapes = {name: tuple(spec.shape) for name, spec in data.element_spec.items()}
    assert shapes["token_ids"] == shapes["labels"] == shapes["label_weight"] == (8, rows.prompts.tokens)
    assert shapes["has_reader"] == (8,) and shapes["user_vector"] == (8, 2)
    assert rows.mean_batches(batching) == 200 // 16
    epoch = np.concatenate([batch["user_vector"][:, 0] for batch in data.take(2 * (200 // 16))])
    assert len(set(epoch.tolist())) == 192


def test_an_epoch_holds_each_task_by_its_share(rows: TextRows) -> None:
    tasks = dict(zip(rows.user_vectors[:, 0].tolist(), rows.tasks, strict=True))
    drawn = {}
    for title in (0.0, 1.0, 3.0):
        batching = TextBatching(tokens=5000, shares={"interest": 1.0, "title": title, "answer": 5.0})
        batches = rows.batches(batching, seed=3)
        found = [tasks[vector] for batch in batches for vector in batch["user_vector"].numpy()[:, 0]]
        drawn[title] = {task: found.count(task) for task in ("interest", "title")}
    of_interest = int((rows.tasks == "interest").sum())
    assert 0 < of_interest < 100
    assert drawn == {
        0.0: {"interest": 200, "title": 0},  # there is no answer to learn
        1.0: {"interest": 100, "title": 100},
        3.0: {"interest": 50, "title": 150},
    }


@pytest.mark.parametrize("layout", [{}, {"parts": 2, "wanted": (0, 1)}])
@pytest.mark.parametrize("fixed", [0, 16])
def test_some_rows_come_a_second_time_before_another_reader(
    rows: TextRows, layout: dict[str, Any], fixed: int
) -> None:
    contrast = {"contrast": 0.25, "context_weight": 0.5, "drop_reader": 0.0}
    batching = TextBatching(tokens=1000, rows=fixed, **contrast)
    seconds, firsts = 0, 0
    for batch in rows.batches(batching, seed=3, layout=BatchLayout(**layout)):
        number = batch["user_vector"].numpy()[:, 0] / 2
        weight, first = batch["label_weight"].numpy(), batch["contrast_of"].numpy()
        ordinary = first == ORDINARY
        firsts += int(ordinary.sum())
        for row in np.flatnonzero(first >= 0):
            seconds += 1
            assert ordinary[first[row]] and number[row] != number[first[row]]
            assert bool(batch["has_reader"][row]) and bool(batch["has_reader"][first[row]])
            words = [batch["labels"].numpy()[each][weight[each] == 1] for each in (row, first[row])]
            np.testing.assert_array_equal(*words)
        assert 0.5 not in weight[~ordinary], "only the target of a second row counts"
        if fixed:
            assert len(first) == fixed // len(layout.get("wanted", "1")) + (4 if not layout else 2)
    assert 0.15 < seconds / firsts < 0.3


def test_every_part_gets_the_second_rows_of_its_own(rows: TextRows) -> None:
    batching = TextBatching(tokens=4000, contrast=0.5)

    def pairs(**layout: Any) -> list[tuple[float, ...]]:
        found = []
        for batch in rows.batches(batching, seed=3, layout=BatchLayout(**layout)):
            number, first = batch["user_vector"].numpy()[:, 0], batch["contrast_of"].numpy()
            found += [(number[first[row]], number[row]) for row in np.flatnonzero(first >= 0)]
        return sorted(found)

    assert pairs() == pairs(parts=2, wanted=(0, 1))

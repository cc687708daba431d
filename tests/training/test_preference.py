"""Preference learning: which texts are preferred, and what a writer learns from it."""

import dataclasses
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from genre_tf.config import OptimizerConfig, PreferenceConfig, read_config
from genre_tf.data.articles import Article, ArticleTable
from genre_tf.errors import InputError
from genre_tf.generation.clickbait import is_clickbait
from genre_tf.generation.writer import Floors, Written
from genre_tf.losses.tokens import preference_loss
from genre_tf.models.checkpoint import FOLDER, PREFERENCE, WEIGHTS_FILE, load_generator, writer_folder
from genre_tf.models.text_rows import TextRows
from genre_tf.models.writer import Writer
from genre_tf.training import preference
from genre_tf.training.optimizers import make_optimizer
from genre_tf.training.preference import (
    Pair,
    PairRows,
    PreferenceTrainer,
    PreferenceValidation,
    divided,
    may_be_preferred,
    preferences,
)
from genre_tf.training.run_folder import train

from ..evaluation.conftest import build_run, tiny_data, tiny_run, writing_run  # noqa: F401  (fixtures)


def quiet(line: str) -> None:
    pass


def test_the_loss_is_that_of_the_paper_and_log_2_for_the_reference_itself() -> None:
    reference = tf.constant([-3.0, -4.0])
    assert float(preference_loss(reference, reference, 0.5)) == pytest.approx(math.log(2))
    moved = tf.constant([-2.0, -7.0])  # 1 more for the preferred text, 3 less for the other
    assert float(preference_loss(moved, reference, 0.5)) == pytest.approx(math.log(1 + math.exp(-0.5 * 4)))


def test_a_text_that_everybody_clicks_is_not_preferred_for_a_reader() -> None:
    log_odds = np.array([[5.0, 1.0, 0.0], [5.0, 0.0, 1.0]], np.float32)
    assert preferences(log_odds, 0.1) == [(0, 1, 2), (1, 2, 1)]
    assert preferences(log_odds, 2.0) == []  # gaps of 2: the chooser cannot tell


def test_no_text_is_preferred_that_fails_a_floor_or_is_copied_or_clickbait() -> None:
    source = "The council of the town raises water rates in May."
    texts = ["Water rates rise", "Water rates rise", "Unsafe", "Invented Name", "Off topic", ""]
    texts += ["The council of the town raises water rates", "You won't believe these rates", "Read before"]
    ones = np.ones((1, 9), np.float32)
    grounding, topic = ones.copy(), ones.copy()
    grounding[0, 3], topic[0, 4] = 0.0, 0.0
    safe = np.array([[True, True, False, *[True] * 6]])
    column = np.array([[text.encode() for text in texts]])
    drawn = Written(column, ones, -ones, grounding, safe, np.full((1, 9), b""), topic)
    read = tf.constant([["Read before"]])
    assert may_be_preferred(drawn, Floors(topic=0.2), read, source) == ["Water rates rise"]


def test_clickbait_is_told_from_news() -> None:
    assert (
        is_clickbait("10 things you need to know")
        and is_clickbait("Doctors hate this")
        and is_clickbait("So...")
    )
    assert not is_clickbait("NFL Week 9: 10 players to watch") and not is_clickbait("Why rates rise in May")


def test_pairs_of_an_article_are_never_both_learned_and_held_out() -> None:
    pairs = [Pair((1,), at % 7, "a", "b") for at in range(40)]
    learned, held_out = divided(pairs, 3)
    assert len(learned) + len(held_out) == 40 and held_out
    assert not {pair.article for pair in learned} & {pair.article for pair in held_out}
    assert divided(pairs[:1], 3)[1] == []


TABLE = ArticleTable([Article("N1", "", "", "Cup final tonight", "The final of the cup is tonight.")])
PAIRS = [Pair((1,), 1, f"Final of cup number {at}", f"Tonight a match {at}") for at in range(6)]


def test_preferred_texts_become_likelier_and_weights_beyond_the_bound_count_as_not_learned() -> None:
    tf.keras.utils.set_random_seed(1)
    writer = Writer.from_preset("tiny")
    trainer = PreferenceTrainer(writer, beta=0.1)
    sides = [
        TextRows([pair.example(getattr(pair, side), "") for pair in PAIRS], TABLE, writer.prompts)
        for side in ("preferred", "other")
    ]
    rows = PairRows(*sides)
    rows.refer_to(trainer, 6)
    validate = PreferenceValidation(trainer, rows, 6, most_distance=100.0)
    before = validate()
    assert before["preference_loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert before["distance"] == pytest.approx(0, abs=1e-5)
    trainer.prepare(make_optimizer(OptimizerConfig(learning_rate=3e-3), 10, writer.trainable_weights))
    batches = iter(rows.batches(6, seed=0))
    for _ in range(10):
        trainer.run(batches, 1)
    after = validate()
    assert after["right_order"] == 1.0 and after["preference_loss"] < 0.9 * math.log(2)
    validate.most_distance = after["distance"] - 1e-3
    assert validate()["preference_loss"] >= math.log(2)


@pytest.mark.proof
def test_the_stage_begins_with_the_adapted_writer_and_replaces_it_while_that_is_there(
    writing_run: Path,  # noqa: F811
    tiny_data: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = tmp_path / "run"
    shutil.copytree(writing_run, run)
    asked: list[Any] = []

    def pairs(*_: Any) -> list[Pair]:
        asked.append(1)
        return [Pair((1, 2), 1 + at % 5, f"News about food {at}", f"Sports today {at}") for at in range(20)]

    monkeypatch.setattr(preference, "sampled_pairs", pairs)
    optimizer = OptimizerConfig(learning_rate=1e-3, batch_size=4, steps=6, validate_every=3)
    settings = dataclasses.replace(
        read_config(run / "config.toml"), preference=PreferenceConfig(optimizer=optimizer, most_distance=10.0)
    )
    assert writer_folder(run) == run / FOLDER
    found = train(("preference",), tiny_data, run, settings, quiet)["preference"]
    assert found.before == pytest.approx(math.log(2), abs=1e-5) and found.best < found.before
    assert writer_folder(run) == run / PREFERENCE
    ours, adapted = load_generator(run).get_weights(), load_generator(run, preference=False).get_weights()
    assert any(not np.array_equal(one, two) for one, two in zip(ours, adapted, strict=True))
    assert train(("preference",), tiny_data, run, settings, quiet)["preference"] == found and len(asked) == 1
    # Another adapted writer: what was learned with the old one is not used, and is learned again.
    load_generator(run).save_weights(run / FOLDER / WEIGHTS_FILE)
    assert writer_folder(run) == run / FOLDER
    said: list[str] = []
    train(("preference",), tiny_data, run, settings, said.append)
    assert any("another writer" in line for line in said) and len(asked) == 2


def test_preference_without_a_writer_is_refused_before_any_work(
    tiny_run: Path,  # noqa: F811
    tiny_data: Path,  # noqa: F811
) -> None:
    with pytest.raises(InputError, match="no trained generation stage"):
        train(("preference",), tiny_data, tiny_run, read_config(tiny_run / "config.toml"), quiet)


def test_texts_of_several_articles_are_written_together_and_each_article_gets_its_own() -> None:
    asked = []

    class Served:
        samples = 4

        def __call__(self, readers: Any, sources: Any, seeds: Any) -> tuple[Written, None]:
            asked.append(len(readers))
            rows = zip(readers, sources, seeds, strict=True)
            text = np.array([["/".join([*titles, source, str(seed)])] * 4 for titles, source, seed in rows])
            return Written(*[text] * len(Written._fields)), None

    groups = [(article, [(article,), (article + 1,)]) for article in range(40)]
    titles = {(row,): [f"title {row}"] for row in range(41)}
    found = list(preference.texts_of_groups(Served(), groups, titles, [f"text {row}" for row in range(40)]))

    assert [(article, readers) for article, readers, _ in found] == groups
    for number, (article, _, drawn) in enumerate(found):
        first = [f"title {article + at}/text {article}/{2 * number + at}" for at in (0, 1)]
        assert drawn.text[:, 0].tolist() == first
    assert asked == [32, 32, 16]  # at most 128 texts at a time

"""The generator's metrics: on what it has not learned, and equal to hand results where those are known."""

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from genre_tf.backbones.language_models import GPT2, save_language_model, tiny_byte_pair
from genre_tf.cli.evaluate import evaluate
from genre_tf.config import GenerationConfig, WritingConfig, read_config
from genre_tf.data.articles import Article, ArticleTable, Impression, Split
from genre_tf.data.click_log import block_of
from genre_tf.data.columns import ImpressionColumns
from genre_tf.data.prepared import read_articles
from genre_tf.errors import InputError
from genre_tf.evaluation import EvaluationOptions, writer_quality
from genre_tf.evaluation.evaluate import evaluate_run
from genre_tf.evaluation.scored_log import ScoredLog
from genre_tf.evaluation.writer_quality import (
    ClickedTitle,
    WriterEvaluation,
    cold_impressions,
    cold_start,
    fill_histories,
    headline_articles,
    likelihood_metrics,
    reader_of,
    title_losses,
    written_titles,
)
from genre_tf.generation.beam import Beam
from genre_tf.generation.prompt_form import CONTROL_TOKENS
from genre_tf.generation.writer import WritingGraph
from genre_tf.models.checkpoint import (
    FOLDER,
    WEIGHTS_FILE,
    load_generator,
    save_generator_sizes,
    untrained_generator,
)
from genre_tf.models.new_writer import new_generator
from genre_tf.models.writer import Writer


@pytest.fixture(scope="module")
def clueless(writing_run: Path) -> Writer:
    """A generator that finds every token equally likely."""
    parts = load_generator(writing_run)
    parts.backbone.token_embedding.embeddings.assign(tf.zeros_like(parts.backbone.token_embedding.embeddings))
    return parts


def test_perplexity_of_a_clueless_generator_is_the_size_of_its_vocabulary(clueless: Writer) -> None:
    titles = ["News about food", "Sports", "A longer title about politics"]
    found = likelihood_metrics(clueless, [ClickedTitle("Old news", "A text", title) for title in titles])
    size = clueless.prompts.tokenizer.vocabulary_size
    for name in ("perplexity", "perplexity_without_source", "perplexity_without_reader"):
        assert found[name] == pytest.approx(size, rel=1e-4)
    tokens = int(tf.size(clueless.prompts.tokenizer.encode(tf.constant(titles)).flat_values)) + len(titles)
    bits = tokens * math.log2(size) / len("".join(titles))
    assert found["bits_per_character"] == pytest.approx(bits, rel=1e-4)


def test_only_the_titles_tokens_and_their_ends_are_counted(clueless: Writer) -> None:
    titles = ["News about food", "Sports"]
    clicks = [ClickedTitle("Some history", "Some source", title) for title in titles]
    loss, tokens = title_losses(clueless)(clicks)
    ids = clueless.prompts.tokenizer.encode(tf.constant(titles))
    assert tokens == int(tf.size(ids.flat_values)) + len(titles)
    assert loss == pytest.approx(tokens * math.log(clueless.prompts.tokenizer.vocabulary_size), rel=1e-4)


def test_titles_of_any_batching_have_the_same_loss(
    writing_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = load_generator(writing_run)
    clicks = [ClickedTitle("Old news\n" * (at % 3), "A text. " * at, f"News {at}") for at in range(5)]
    title_loss = title_losses(parts)
    whole = title_loss(clicks)
    monkeypatch.setattr(writer_quality, "_BATCH_TEXTS", 2)
    assert title_loss(clicks) == pytest.approx(whole, rel=1e-4)


def test_headlines_are_asked_of_unlearned_articles_with_enough_to_say() -> None:
    long, short = "one two three four five six seven eight", "one two"
    articles = [
        Article("N1", "", "", "Learned", long),
        Article("N2", "", "", "Too short", short),
        Article("N3", "", "", "", long),
        Article("N4", "", "", "Right", long),
        Article("N5", "", "", "太短", "颱風關閉學校"),
        Article("N6", "", "", "夠長", "颱風來襲,全國各地的學校今天都關閉"),
    ]
    assert [article.title for article in headline_articles(articles, {"N1"})] == ["Right", "夠長"]


def test_many_articles_are_sampled_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_quality, "MAX_HEADLINES", 3)
    articles = [Article(f"N{at}", "", "", "Title", "word " * 8) for at in range(9)]
    assert [article.news_id for article in headline_articles(articles, set())] == ["N0", "N3", "N6"]


def test_without_texts_nothing_is_claimed(clueless: Writer) -> None:
    found = likelihood_metrics(clueless, [])
    assert set(found.values()) == {None}
    assert written_titles(clueless, [], WritingConfig()) == ([], None, None)


def test_headlines_are_written_by_the_settings_of_the_run(
    writing_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []

    class Watched(WritingGraph):
        def __init__(self, *arguments: Any) -> None:
            seen.append(arguments[1])
            super().__init__(*arguments)

    monkeypatch.setattr(writer_quality, "WritingGraph", Watched)
    settings = WritingConfig(strategy="beam", samples=3, beam_width=6, min_tokens=2)
    found = written_titles(load_generator(writing_run), ["Some text about food", "Another text"], settings)
    assert len(found.titles) == 2
    assert (seen[0].strategy, seen[0].samples, seen[0].constraints.min_tokens) == (Beam(width=6), 3, 2)


def test_before_training_an_adapted_writer_is_its_checkpoint(tiny_run: Path, tmp_path: Path) -> None:
    tokenizer = tiny_byte_pair(CONTROL_TOKENS)
    checkpoint = GPT2.new(tokenizer, layers=1, heads=2, hidden=16, max_tokens=96, seed=5)
    save_language_model(checkpoint, tmp_path / "checkpoint")
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    settings = GenerationConfig(backbone=str(tmp_path / "checkpoint"), trainable="lora 2", max_tokens=96)
    parts = new_generator(settings, read_articles(run / "prepared"), run / FOLDER)
    save_generator_sizes(parts, run / FOLDER)
    for weight in parts.weights:
        weight.assign(weight + 0.1)
    parts.save_weights(run / FOLDER / WEIGHTS_FILE)
    found = untrained_generator(run, settings)
    for weight, expected in zip(found.backbone.weights, checkpoint.backbone.weights, strict=True):
        np.testing.assert_array_equal(weight.numpy(), expected.numpy())
    (run / FOLDER / "genre_tf.json").write_text(
        (run / FOLDER / "genre_tf.json").read_text("utf-8").replace('"n_positions": 96', '"n_positions": 95')
    )
    with pytest.raises(InputError, match=r"is not the checkpoint that .* was trained from"):
        untrained_generator(run, settings)


def test_a_checkpoint_that_is_gone_is_said_and_leaves_out_what_was_before(
    writing_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(WriterEvaluation, "_metrics_of", lambda self, parts: {"measured": True})
    monkeypatch.setattr(WriterEvaluation, "writer", object())
    config = read_config(writing_run / "config.toml")
    gone = replace(config, generation=replace(config.generation, backbone="no/such/folder"))
    said: list[str] = []
    for settings, before in ((config, {"measured": True}), (gone, {})):
        writer = WriterEvaluation(writing_run, settings, None, said.append)  # type: ignore[arg-type]
        assert writer.metrics(before=True) == ({"measured": True}, before)
    assert len(said) == 1 and "skipping" in said[0] and "no/such/folder" in said[0]


def test_the_report_measures_the_generator_before_and_after(
    writing_run: Path, tiny_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate(writing_run, data=tiny_data, models="ranker", readers=4, samples=3, as_json=True)
    printed = capsys.readouterr()
    report = json.loads(printed.out)
    found, before = report["generation"], report["before"]["generation"]
    assert {"perplexity", "rouge1", "rouge2", "rougeL", "distinct1", "grounding"} <= set(found)
    assert set(before) == set(found) - {"personal", "cold_start"}
    cold = found["cold_start"]
    assert cold["impressions"] == cold["of_impressions"] == report["slices"]["at_most_5_clicks"]
    assert cold["impressions"] >= cold["readers"] > 0 and cold["written"] > 0
    change = cold["ranker"]["difference"]
    assert change["difference"] == pytest.approx(cold["ranker"]["auc_filled"] - cold["ranker"]["auc"])
    assert change["low"] <= change["difference"] <= change["high"]
    assert found["perplexity"] > 1
    # Ten of the articles are new in dev, and every text has enough words.
    assert found["headlines"] == 10
    assert 0 < found["clicked_titles"] == before["clicked_titles"] < report["impressions"]
    assert found["baselines"]["first_10_words"]["rouge1"] > 0
    assert "generator\n" in printed.err
    assert 0 <= found["copy_rate"] <= 1
    assert found["unsafe_rate"] == 0
    personal = found["personal"]
    assert (personal["readers"], personal["samples"]) == (4, 3)
    assert {*personal["win_rates"]["chosen"]} == {"served", "chooser", "judge"}
    assert 0 <= personal["texts"]["real_title"]["grounding"] <= 1
    assert all(0 < value < 1 for value in personal["interest"].values())
    assert personal["over_other_reader"]["pairs"] == 4
    assert 0 <= personal["self_bleu"] <= 1
    kept = (writing_run / "reports" / "samples-dev.md").read_text("utf-8")
    assert kept.count("**Written, as served:**") == 4
    assert list((writing_run / "logs" / "evaluation" / "dev").glob("events*"))


def test_the_generator_can_be_left_out(
    writing_run: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> Callable[..., object]:
        raise AssertionError("the generator was loaded")

    monkeypatch.setattr("genre_tf.evaluation.writer_quality.writer_of", refused)
    options = EvaluationOptions(models="ranker", before=False, generation=False)
    assert evaluate_run(writing_run, tiny_data, "dev", options, say=print)["generation"] == {}


TABLE = ArticleTable([Article(f"N{row}", "", "", f"title {row}", "") for row in range(1, 10)])


class Tastes:
    """Scores a candidate by how often it stands in the history, and 1 for row 9 to who reads row 10."""

    def __init__(self, articles=0):
        self.articles = articles

    def __call__(self, examples):
        return [
            np.array(
                [
                    (row == example.history).sum() + (row == 9) * (10 in example.history)
                    for row in example.candidates
                ]
            )
            for example in examples
        ]

    def with_articles(self, extra):
        return Tastes(len(extra) - 1)


@pytest.fixture
def log():
    rows = [((), (8, 9)), ((1, 2), (2, 3)), ((1, 2, 3, 4, 5, 6), (7, 8))]
    impressions = [
        Impression(
            str(number),
            f"U{number}",
            datetime(2026, 1, 1),
            tuple(f"N{row}" for row in history),
            tuple(f"N{row}" for row in candidates),
            (False, True) if number == 0 else (True, False),
        )
        for number, (history, candidates) in enumerate(rows)
    ]
    return ScoredLog(
        Split("dev", {}, impressions, []), TABLE, ImpressionColumns([block_of(impressions, TABLE, 50)]), 50
    )


def test_written_articles_come_first_and_fill_up_to_five(log):
    empty, two, _ = log.examples
    titles = {reader_of(empty): ["a", "", "b"], reader_of(two): ["b", "c", "d", "e"]}
    (first, second), written = fill_histories([empty, two], titles, first_row=len(TABLE))
    assert first.history.tolist() == [11, 10]  # the best one stands newest
    assert second.history.tolist() == [13, 12, 11, 1, 2]
    assert [article.title for article in written] == ["a", "b", "c", "d"]


def test_the_report_says_what_written_articles_change(log):
    examples, clicked = log.examples[:2], log.clicked()[:2]
    report = cold_start(
        examples, clicked, {"tastes": Tastes()}, len(TABLE), lambda readers, n: [["a"]] * len(readers)
    )
    assert (report["impressions"], report["readers"], report["written"]) == (2, 2, 1)
    found = report["tastes"]
    assert (found["auc"], found["auc_filled"]) == (0.75, 1.0)  # the reader without clicks was a coin toss
    assert found["difference"]["difference"] == pytest.approx(0.25)


def test_only_readers_with_few_clicks_are_taken(log):
    assert cold_impressions(log) == ([0, 1], 2)
    assert cold_impressions(log, most=1) == ([0], 2)


def test_impressions_without_a_click_are_not_written_for(log):
    first, *others = log.split.impressions
    log.split.impressions[:] = [replace(first, clicked=(False, False)), *others]
    assert cold_impressions(log) == ([1], 1)

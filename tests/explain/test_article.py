"""`genre explain`: attention, counterfactuals and words are those of the ranker itself."""

import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from genre_tf.cli.explain import explain
from genre_tf.config import NewsConfig, RunConfig
from genre_tf.errors import InputError
from genre_tf.explain.article import Explainer, Explanation, titled, word_attributions
from genre_tf.models.checkpoint import WEIGHTS_FILE, load_ranker, news_encoder_of, ranker_of
from genre_tf.models.news_encoder import Categories
from genre_tf.models.ranker import Ranker
from genre_tf.models.text_model import save_own_weights

TITLES = ["News about sports number 1", "Soup for winter", "Storm nears the coast", "The budget passes"]
TEXT = "News about sports today"


def shaken(ranker: Ranker, scale: float) -> Ranker:
    generator = np.random.default_rng(2)
    for weight in ranker.trainable_weights:
        weight.assign_add(generator.normal(scale=scale, size=weight.shape))
    return ranker


@pytest.fixture(scope="module")
def moved_run(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny run with a ranker that is no longer as it began."""
    run = tmp_path_factory.mktemp("explained") / "run"
    run.mkdir()
    for path in tiny_run.iterdir():
        if path.name != "ranking":
            (run / path.name).symlink_to(path)
    (run / "ranking").mkdir()
    save_own_weights(shaken(load_ranker(tiny_run), 0.03), run / "ranking" / WEIGHTS_FILE)
    return run


@pytest.fixture(scope="module")
def explainer(moved_run: Path) -> Explainer:
    return Explainer(moved_run)


@pytest.fixture(scope="module")
def explanation(explainer: Explainer) -> Explanation:
    return explainer([titled(title) for title in TITLES], titled(TEXT))


def probability(explainer: Explainer, titles: list[str], text: str) -> float:
    """As the server computes it of titles."""
    ranker = explainer.ranker
    shown = ranker.news(tf.constant([text]))[None]
    clicks = ranker.news(tf.constant(titles or [""]))[None]
    mask = tf.fill([1, max(1, len(titles))], bool(titles))
    return float(tf.sigmoid(ranker.click_logits(clicks, mask, shown, tf.ones([1, 1], tf.bool)))[0, 0])


def test_weights_are_the_attention_and_sum_to_1(explanation: Explanation, explainer: Explainer) -> None:
    ranker = explainer.ranker
    clicks, shown = (ranker.news(tf.constant(texts))[None] for texts in (TITLES, [TEXT]))
    weights, _ = ranker.attention(clicks, tf.ones([1, len(TITLES)], tf.bool), shown)
    told = [click.weight for click in explanation.clicks]
    np.testing.assert_allclose(told, weights[0, 0], atol=1e-6)
    assert sum(told) == pytest.approx(1, abs=1e-5)
    assert [click.title for click in explanation.clicks] == TITLES


def test_a_counterfactual_is_the_probability_of_a_reader_without_that_click(
    explanation: Explanation, explainer: Explainer
) -> None:
    assert explanation.probability == pytest.approx(probability(explainer, TITLES, TEXT), abs=1e-6)
    for at, click in enumerate(explanation.clicks):
        without = probability(explainer, TITLES[:at] + TITLES[at + 1 :], TEXT)
        assert click.without == pytest.approx(without, abs=1e-6)
        assert click.change == pytest.approx(explanation.probability - without, abs=1e-6)
    assert explanation.probability_without_history == pytest.approx(
        probability(explainer, [], TEXT), abs=1e-6
    )
    assert len({round(click.without, 5) for click in explanation.clicks}) > 1


def test_a_new_reader_and_a_reader_of_one_click(explainer: Explainer) -> None:
    new = explainer([], titled(TEXT))
    assert new.clicks == ()
    assert new.probability == new.probability_without_history
    one = explainer([titled(TITLES[0])], titled(TEXT))
    assert one.clicks[0].weight == pytest.approx(1)
    assert one.clicks[0].without == pytest.approx(new.probability, abs=1e-6)


def test_only_the_newest_clicks_that_the_model_reads_are_told(explainer: Explainer) -> None:
    many = [titled(f"News about food number {number}") for number in range(9)]
    assert [click.title for click in explainer(many, titled(TEXT)).clicks] == [
        each.title for each in many[-6:]
    ]


@pytest.mark.parametrize("trainable", ["none", "all", "lora 4", "prefix 2 last 1"])
def test_scores_of_words_sum_to_the_difference_that_they_make(trainable: str) -> None:
    config = RunConfig(news=NewsConfig(backbone="tiny", trainable=trainable, category_dimension=4))
    backbone = news_encoder_of("tiny", config.news, Categories.of(["news"]))
    ranker = shaken(ranker_of(backbone, config), 0.2)
    history = ranker.news(tf.constant(TITLES))
    found = word_attributions(ranker, TEXT, 1, 0, history)
    assert [word.word for word in found.words] == TEXT.lower().split()
    total = sum(word.score for word in found.words)
    difference = found.logit - found.without_words
    assert abs(difference) > 0.01
    assert total + found.missing == pytest.approx(difference, abs=1e-5)
    assert abs(found.missing) <= max(1e-4, 0.01 * abs(difference))
    tokens = backbone.bert.tokenizer(tf.constant([TEXT]), 32)
    features = ranker.news.text_features(tf.constant([TEXT]))
    vector = ranker.news({**features, "category": tf.constant([1])})
    mask = tf.ones([1, len(TITLES)], tf.bool)
    logit = ranker.click_logits(history[None], mask, vector[None], tf.ones([1, 1], tf.bool))
    assert found.logit == pytest.approx(float(logit[0, 0]), abs=1e-4)
    assert tokens.shape[1] > len(found.words)


def test_ids_are_looked_up_in_the_run_in_a_news_file_and_in_the_log_of_a_reader(
    moved_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    news = tmp_path / "news.tsv"
    news.write_text("N900\tsports\t\tA new article\t\n")
    explain(moved_run, history="N900 N3 N901", candidate="N900", news=news, json=True)
    said = capsys.readouterr()
    found = json.loads(said.out)["article"]
    assert found["title"] == "A new article"
    assert [click["title"] for click in found["clicks"]] == ["A new article", "News about sports number 3"]
    assert "ignored 1 of 3 ids in --history, which are not in the run or the given news: N901" in said.err
    (tmp_path / "behaviors.tsv").write_text("1\tU1\t11/9/2019 9:00:00 AM\tN3\tN900-1 N4-0\n")
    explain(moved_run, user="U1", log=tmp_path, candidate="N4", json=True)
    again = json.loads(capsys.readouterr().out)["article"]
    assert [click["news_id"] for click in again["clicks"]] == ["N3", "N900"]
    with pytest.raises(InputError, match="article 'N901' is not in the run or the given news: give --news"):
        explain(moved_run, history="N3", candidate="N901", news=news)


def test_the_verb_tells_it_as_json_and_as_text(moved_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = "In other News about sports today, soup was served"
    explain(moved_run, history="N1 N2", text=TEXT, source=source, least_words=2, json=True)
    told = json.loads(capsys.readouterr().out)
    assert [click["news_id"] for click in told["article"]["clicks"]] == ["N1", "N2"]
    assert told["article"]["title"] == TEXT
    assert told["text"]["spans"][0]["in_source"] == TEXT
    assert told["text"]["share_from_source"] == 1
    explain(moved_run, history="N1 N2", candidate="N3", least_words=2, top=1)
    out = capsys.readouterr().out
    assert "News about sports number 3" in out
    assert "attention" in out


def test_a_text_is_compared_with_its_source_without_a_reader(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    explain(tmp_path, text="Storm nears", source="A storm nears the coast", least_words=2)
    assert "100% of the words" in capsys.readouterr().out


@pytest.mark.parametrize(
    "given, message",
    [
        ({"history": "N1"}, "give a reader"),
        ({"candidate": "N1"}, "give a reader"),
        ({}, "give a reader"),
        ({"text": "a"}, "--text and --source go together"),
        ({"history": "", "history_text": ""}, "only one of"),
        ({"history": "", "candidate": "N1", "candidate_text": "a"}, "not both"),
        ({"history": "", "candidate_text": " "}, "has no title"),
        ({"history": "N99", "candidate": "N1"}, r"the run contains none of the ids in --history \(N99\)"),
        ({"history": "U9", "candidate": "N1"}, "these look like reader ids: give --user with --log"),
    ],
)
def test_wrong_input_is_told(moved_run: Path, given: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        explain(moved_run, **given)

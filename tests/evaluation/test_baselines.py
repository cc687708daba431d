"""The baselines on hand-made impressions, and their heights on the real sample of MIND."""

from pathlib import Path

import numpy as np
import pytest

from genre_tf.data.articles import Article, ArticleTable
from genre_tf.data.click_log import build_examples
from genre_tf.data.columns import ImpressionExample
from genre_tf.data.counters import Counters
from genre_tf.data.mind import read_split
from genre_tf.evaluation import baselines
from genre_tf.evaluation.scored_log import Seen, slice_masks
from genre_tf.metrics.ranking import mean_metrics, ranking_metrics

TABLE = ArticleTable(
    [
        Article("N1", "sports", "", "The match in Leipzig", ""),
        Article("N2", "sports", "", "A match of two halves", ""),
        Article("N3", "food", "", "Leipzig bakes a cake", ""),
        Article("N4", "food", "", "足球比赛", ""),
        Article("N5", "food", "", "今天足球", ""),
    ]
)


def example(history: list[int], candidates: list[int], counters: list[list[float]]) -> ImpressionExample:
    rows = (np.array(history, np.int32), np.array(candidates, np.int32))
    return ImpressionExample(
        0, "U1", 0.0, *rows, np.zeros(len(candidates), np.float32), np.array(counters, np.float32)
    )


def test_random_scores_depend_on_the_seed_alone() -> None:
    impressions = [example([], [1, 2], [[0, 0, 0]] * 2)] * 2
    first, again, other = (
        baselines.simple_baselines(impressions, TABLE, seed)["random"] for seed in (3, 3, 4)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_popularity_is_the_number_of_clicks() -> None:
    scores = baselines.simple_baselines([example([], [1, 2], [[3, 9, 1], [0, 5, 1]])], TABLE)
    assert scores["popularity"][0].tolist() == [3, 0]


def test_click_through_rate_trusts_many_views_and_draws_few_towards_the_prior() -> None:
    counters = [[500.0, 1000, 1], [1, 1, 1], [0, 0, 0], [0, 100, 1]]
    scores = baselines.click_through_rate([example([], [1, 2, 3, 4], counters)], 0.1, 10)[0]
    assert np.argsort(-scores).tolist() == [0, 1, 2, 3]
    assert scores[2] == pytest.approx(0.1)


def test_category_counts_the_articles_of_the_history_with_the_same_category() -> None:
    scores = baselines.category_counts([example([1, 2, 3], [1, 4, 0], [[0, 0, 0]] * 3)], TABLE)
    assert scores[0].tolist() == [2, 1, 0]


def test_bm25_prefers_shared_rare_words_to_shared_common_ones_and_to_none() -> None:
    common = [Article(f"C{number}", "", "", f"the report {number}", "") for number in range(50)]
    table = ArticleTable([*TABLE.articles[1:], *common])
    history = table.rows(["N1"]).tolist()
    candidates = table.rows(["N3", "C7", "N4"]).tolist()  # shares "leipzig", shares "the", shares nothing
    scores = baselines.bm25([example(history, candidates, [[0, 0, 0]] * 3)], table)[0]
    assert scores[0] > scores[1] > scores[2] == 0


def test_bm25_equals_the_formula() -> None:
    scores = baselines.bm25([example([1, 2], [3], [[0, 0, 0]])], TABLE)[0]
    rarity = np.log1p((5 - 2 + 0.5) / (2 + 0.5))  # "leipzig" stands in two of five titles
    rarity_a = np.log1p((5 - 2 + 0.5) / (2 + 0.5))  # so does "a"
    mean_length = (4 + 5 + 4 + 4 + 4) / 5
    weight = 2.2 / (1 + 1.2 * (0.25 + 0.75 * 4 / mean_length))
    assert scores[0] == pytest.approx((rarity + rarity_a) * weight, rel=1e-5)


def test_bm25_splits_chinese_titles_into_characters_and_forgets_the_last_query() -> None:
    impressions = [example([4], [5], [[0, 0, 0]]), example([], [5], [[0, 0, 0]])]
    scores = baselines.bm25(impressions, TABLE)
    assert scores[0][0] > 0
    assert scores[1][0] == 0


def test_mean_of_history_is_the_dot_product_with_the_mean_and_zero_without_history() -> None:
    vectors = np.array([[0, 0], [1, 0], [0, 1], [2, 2]], np.float32)
    scores = baselines.mean_of_history(
        [example([1, 2], [3, 1], [[0, 0, 0]] * 2), example([], [3], [[0, 0, 0]])], vectors
    )
    assert scores[0].tolist() == [2.0, 0.5]
    assert scores[1].tolist() == [0.0]


def test_the_baselines_reach_their_published_heights_on_the_real_sample(mind_sample: Path) -> None:
    train, dev = read_split(mind_sample, "train"), read_split(mind_sample, "dev")
    table, counters = ArticleTable.of(dev), Counters()
    for impression in train.impressions:
        counters.observe(impression)
    examples = build_examples(dev, table, counters, max_history=50)
    clicked = [np.array(impression.clicked) for impression in dev.impressions]

    def auc(scores: list[np.ndarray]) -> float:
        return 100 * (mean_metrics(ranking_metrics(scores, clicked))["auc"] or 0)

    found = baselines.simple_baselines(examples, table)
    assert auc(found["random"]) == pytest.approx(50, abs=2)
    assert auc(found["category"]) == pytest.approx(58.5, abs=0.3)
    assert auc(found["click_through_rate"]) == pytest.approx(60.2, abs=0.3)
    seen = Seen(
        user_ids=frozenset(row.user_id for row in train.impressions),
        news_ids=frozenset(id for row in train.impressions for id in (*row.history, *row.candidates)),
    )
    masks = slice_masks(dev.impressions, seen)
    assert {name: int(mask.sum()) for name, mask in masks.items()} == {
        "all": 1370, "no_history": 30, "at_most_5_clicks": 252, "unseen_reader": 1198, "unseen_article": 939,
    }  # fmt: skip

"""Evaluates the served `recommend` on all articles that could be shown at the moment of each impression.

The answers come from the same graph that is exported, with an index that has the counters of that moment.
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from genre_tf.data.columns import ImpressionExample
from genre_tf.data.counters import COUNTERS, epoch_seconds
from genre_tf.data.decay import UNKNOWN_TIME, earliest
from genre_tf.data.manifest import SPLITS
from genre_tf.data.records import read_examples
from genre_tf.data.view_log import ViewLog
from genre_tf.evaluation import pool_metrics
from genre_tf.evaluation.pool_baselines import BASELINES, ranks_of
from genre_tf.evaluation.pool_report import pool_section
from genre_tf.evaluation.pool_rules import pool_mask
from genre_tf.evaluation.ranking import mean_metrics
from genre_tf.evaluation.report import Slices
from genre_tf.evaluation.scored_log import ScoredLog, counters_before
from genre_tf.evaluation.scoring import RankerScorer, TwoTowerScorer
from genre_tf.funnel.index import ArticleIndex, Catalogue
from genre_tf.funnel.recommender import Recommender
from genre_tf.funnel.rules import Rules, learned_age_limit
from genre_tf.funnel.served_models import ServedModels, moment_biases

SHOWN = 10
RETRIEVED = max(pool_metrics.CUTOFFS)
_KEPT = 5  # recommendations of a sampled reader
_MOST_IMPRESSIONS = 20_000  # enough to know recall to about 0.003

Floats = npt.NDArray[np.floating]
Measured = dict[str, dict[str, npt.NDArray[np.float64]]]


@dataclass(frozen=True, kw_only=True)
class PoolOptions:
    """Options for measuring the whole pool.

    Attributes:
        rule: a name in `POOL_RULES`.
        refresh_hours: 0: current counters, as in requests to `recommend_live`; above 0: counters at the last
            refresh of a server that is refreshed at this interval.
        rules: rules of the export; None: the defaults of an export.
    """

    rule: str = "split"
    refresh_hours: float = 0.0
    rules: Rules | None = None


def learned_limit(run: Path) -> float | None:
    """The age in hours below which 99 % of a run's newest clicks fall; None if no click has an age.

    Only the newest part of the training log is used, because at its beginning all articles seem young.
    """
    blocks = read_examples(run / "prepared", SPLITS[1]).blocks("labels", "counters")
    clicked = [block.counters[block.labels > 0] for block in blocks]
    return learned_age_limit(np.concatenate(clicked)) if clicked else None


class PoolAnswers:
    """The served funnel over the articles of a log, at any moment.

    Args:
        towers: the retrieval model with the articles' vectors.
        ranker: the click model with the articles' vectors.
        log: the split.
        rules: as exported.
        max_history: number of newest clicks of a reader that are used.
    """

    def __init__(
        self, towers: TwoTowerScorer, ranker: RankerScorer, log: ScoredLog, rules: Rules, max_history: int
    ) -> None:
        table = log.table
        nothing = np.zeros((len(table), len(COUNTERS)), np.float32)
        titles = [" ".join(title.split()) for title in table.titles]
        self.catalogue = Catalogue(
            table.news_ids, titles, titles, towers.vectors, ranker.vectors, nothing, table.categories
        )
        with tempfile.TemporaryDirectory() as scratch:
            bias = np.zeros(len(table), np.float32)
            self.index = ArticleIndex(self.catalogue, bias, Path(scratch) / "ids.txt", rules.max_age_hours)
            # The table of ids reads its file here.
            self._models = ServedModels(towers.two_tower, ranker.ranker)
            sizes = {"max_history": max_history, "retrieve": RETRIEVED}
            certain = replace(rules, exploration=0.0)
            served = Recommender(self._models, self.index, k=SHOWN, rules=rules, **sizes)
            whole = Recommender(self._models, self.index, k=RETRIEVED, rules=certain, **sizes)
            text = tf.TensorSpec([None], tf.string)
            self._served = tf.function(served.recommend, input_signature=[text], autograph=False)
            self._whole = tf.function(whole.recommend, input_signature=[text], autograph=False)
            self._retrieve = tf.function(whole.retrieved, input_signature=[text], autograph=False)
            self._served(tf.constant([""]))
        self._row_of = {news_id.encode(): row for row, news_id in enumerate(table.news_ids)}

    def set_moment(self, counters: Floats, in_pool: npt.NDArray[np.bool_]) -> None:
        """Set the index to a moment: counters float32 [N, 9], and whether articles may be shown, bool [N]."""
        catalogue = replace(self.catalogue, counters=counters.astype(np.float32), withdrawn=~in_pool)
        self.index.update(catalogue, moment_biases(self._models, catalogue.counters))

    def served(self, history: str) -> tuple[npt.NDArray[np.int64], Floats]:
        """Rows of the answer to `recommend` and their scores: int64 [10] and float32 [10]; -1 for none."""
        answer = self._served(tf.constant([history]))
        return self._rows(answer), answer["score"].numpy()[0]

    def ranked(self, history: str) -> npt.NDArray[np.int64]:
        """All retrieved rows in the order of the ranker: int64 [300]; -1 for none."""
        return self._rows(self._whole(tf.constant([history])))

    def retrieved(self, history: str) -> npt.NDArray[np.int64]:
        """Rows in the order of retrieval: int64 [300]; -1 for none."""
        rows, real = self._retrieve(tf.constant([history]))
        found = np.full(RETRIEVED, -1)
        found[: rows.shape[1]] = np.where(real.numpy()[0], rows.numpy()[0], -1)
        return found

    def _rows(self, answer: Mapping[str, tf.Tensor]) -> npt.NDArray[np.int64]:
        return np.asarray([self._row_of[one] if one else -1 for one in answer["news_id"].numpy()[0]])


def pool_report(
    run: Path,
    log: ScoredLog,
    towers: TwoTowerScorer,
    ranker: RankerScorer,
    slices: Slices,
    options: PoolOptions,
    say: Callable[[str], None],
    *,
    untrained: tuple[TwoTowerScorer, RankerScorer] | None = None,
    shown: Sequence[int] = (),
) -> dict[str, Any]:
    """Measure the whole pool on a log.

    Args:
        run: the run folder, for the counters before the log.
        log: the split.
        towers: the retrieval model.
        ranker: the click model.
        slices: slices of its impressions.
        options: how to measure.
        say: takes a line of progress.
        untrained: the same models before training, measured on the same impressions.
        shown: numbers of impressions whose recommendations are kept.

    Returns:
        The result of `pool_section`; "shown", for each of these impressions the first recommendations, best
        first: "title", "category", "score", "clicked"; and with `untrained` "before", model > "all" > metric.
    """
    examples = log.examples()
    known = np.flatnonzero([(one.labels > 0).any() for one in examples])
    known = known[:: 1 + len(known) // _MOST_IMPRESSIONS]
    moments = _Moments(run, log, examples, options)
    rules = options.rules or Rules(max_age_hours=learned_limit(run))
    say(f"whole pool: {len(known)} impressions with a click, {moments.articles} articles")
    answers = PoolAnswers(towers, ranker, log, rules, log.max_history)
    collected = _Collected(towers.vectors, log, moments)
    start = PoolAnswers(*untrained, log, rules, log.max_history) if untrained else None
    measured, kept = frozenset(known.tolist()), dict[int, list[dict[str, Any]]]()
    order = sorted(measured | {*shown}, key=lambda number: int(moments.seconds[number]))
    for number in order:
        counters, in_pool = moments.at(number)
        answers.set_moment(counters, in_pool)
        if number in shown:
            kept[number] = _first_answers(answers, log, number, examples[number])
        if number in measured:
            collected.add(number, answers, counters, in_pool, examples[number])
            if start is not None:
                start.set_moment(counters, in_pool)
                collected.add_start(number, start)
    rows = np.asarray([number for number in order if number in measured], np.int64)
    section = collected.section({name: mask[rows] for name, mask in slices.items()}, options.rule)
    return {**section, "shown": [kept[number] for number in shown]}


def _first_answers(
    answers: PoolAnswers, log: ScoredLog, number: int, example: ImpressionExample
) -> list[dict[str, Any]]:
    rows, scores = answers.served(" ".join(log.split.impressions[number].history))
    clicked = {*example.candidates[example.labels > 0].tolist()}
    pairs = zip(rows[:_KEPT].tolist(), scores.tolist(), strict=False)
    return [
        {
            "title": log.table.titles[row],
            "category": log.table.categories[row],
            "score": score,
            "clicked": row in clicked,
        }
        for row, score in pairs
        if row >= 0
    ]


class _Moments:
    """Counters and pool at the moment of each impression."""

    def __init__(
        self, run: Path, log: ScoredLog, examples: Sequence[ImpressionExample], options: PoolOptions
    ) -> None:
        impressions, table = log.split.impressions, log.table
        self.options = options
        self.seconds = np.asarray([epoch_seconds(one.time) for one in impressions], np.int64)
        self.candidates = [example.candidates for example in examples]
        shown = np.concatenate(self.candidates)
        seconds = np.repeat(self.seconds, [len(each) for each in self.candidates])
        clicked = np.concatenate([example.labels for example in examples]) > 0
        earlier = counters_before(run, impressions).state(table.news_ids)
        self._log = ViewLog(len(table), shown, seconds, clicked, earlier, table.published)
        self._rows = np.arange(len(table))
        self._shown = np.isin(self._rows, shown)
        self._shown[0] = False
        first = np.full(len(table), UNKNOWN_TIME)
        first[shown[::-1]] = seconds[::-1]
        order = np.argsort(-seconds, kind="stable")  # the earliest is written last
        first[shown[order]] = seconds[order]
        self._first = earliest(earlier.first, first)
        if options.rule == "published":
            self._first = np.where(table.published != UNKNOWN_TIME, table.published, self._first)
        self.articles = int(self._shown.sum())

    def at(self, number: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
        """Counters float32 [N, 9] and pool bool [N] at the moment of an impression."""
        seconds = int(self.seconds[number])
        period = round(self.options.refresh_hours * 3600)
        as_of = seconds - seconds % period if period else seconds
        now = np.isin(self._rows, self.candidates[number])
        in_pool = self._shown & pool_mask(self.options.rule, self._first, seconds, now)
        return self._log.before(self._rows, as_of), in_pool


class _Collected:
    """Answers and metrics, collected impression by impression."""

    def __init__(self, vectors: Floats, log: ScoredLog, moments: _Moments) -> None:
        self.vectors, self.log, self.articles = vectors, log, moments.articles
        names = sorted({*log.table.categories})
        self.category_of = np.asarray([names.index(name) for name in log.table.categories])
        self.generator = np.random.default_rng(0)
        self.ranks: dict[str, list[Any]] = {name: [] for name in BASELINES}
        self.lists: dict[str, list[Any]] = {"recommend": [], "retrieval": [], "shown": []}
        self.clicked: list[Any] = []
        self.views: list[Any] = []
        self.ages: list[Any] = []
        self.all_views: list[float] = []
        self.sizes: list[int] = []
        self.scores: list[Any] = []
        self.start: dict[str, list[Any]] = {"recommend": [], "retrieval": []}

    def add_start(self, number: int, answers: PoolAnswers) -> None:
        """Collect the answers of the models before training for the impression that was added last."""
        history = " ".join(self.log.split.impressions[number].history)
        self.start["recommend"].append(answers.ranked(history))
        self.start["retrieval"].append(answers.retrieved(history))

    def add(
        self,
        number: int,
        answers: PoolAnswers,
        counters: npt.NDArray[np.float32],
        in_pool: npt.NDArray[np.bool_],
        example: ImpressionExample,
    ) -> None:
        """Collect the answers for one impression, and measure the baselines."""
        history = " ".join(self.log.split.impressions[number].history)
        clicked = example.candidates[example.labels > 0]
        rows, scores = answers.served(history)
        ranked = answers.ranked(history)
        ranked[:SHOWN] = rows  # including an article put there by exploration
        for name, found in (
            ("recommend", ranked),
            ("retrieval", answers.retrieved(history)),
            ("shown", rows),
        ):
            self.lists[name].append(found)
        self.clicked.append(clicked)
        self.scores.append(scores)
        known = counters[rows]
        untimed = (known[:, 1] == 0) & (known[:, 2] == 0)
        self.views.append(known[:, 1])
        self.ages.append(np.where(untimed, np.nan, known[:, 2]))
        self.all_views.append(float(counters[in_pool, 1].sum()))
        self.sizes.append(int(in_pool.sum()))
        self._rank_baselines(example, counters, in_pool, clicked)

    def _rank_baselines(
        self,
        example: ImpressionExample,
        counters: npt.NDArray[np.float32],
        in_pool: npt.NDArray[np.bool_],
        clicked: npt.NDArray[np.integer],
    ) -> None:
        place = np.cumsum(in_pool) - 1
        pool = np.flatnonzero(in_pool)
        wanted = place[clicked[in_pool[clicked]]]
        read = place[example.history[in_pool[example.history]]]
        read = np.setdiff1d(read, wanted)
        missing = np.full(len(clicked) - len(wanted), np.inf)
        for name, score in BASELINES.items():
            scores = score(
                counters[pool], self.category_of[pool], self.category_of[example.history], self.generator
            )
            self.ranks[name].append(np.concatenate([ranks_of(scores, wanted, read), missing]))

    def section(self, slices: Slices, rule: str) -> dict[str, Any]:
        """The whole-pool part of the report."""
        shown = np.stack(self.lists["shown"])
        measured: Measured = {
            name: pool_metrics.list_metrics(np.stack(self.lists[name]), self.clicked)
            for name in ("recommend", "retrieval")
        }
        measured["recommend"] |= pool_metrics.list_qualities(
            shown,
            vectors=self.vectors,
            category_of=self.category_of,
            views=np.stack(self.views),
            all_views=np.asarray(self.all_views),
            pool_articles=np.asarray(self.sizes),
            age_hours=np.stack(self.ages),
        )
        measured |= {name: pool_metrics.rank_metrics(ranks) for name, ranks in self.ranks.items()}
        hits = np.stack([np.isin(*pair) for pair in zip(shown, self.clicked, strict=True)])
        scores = np.stack(self.scores)
        real = shown >= 0
        section = pool_section(
            measured,
            slices,
            articles=self.articles,
            per_moment=np.asarray(self.sizes),
            rule=rule,
            coverage={"recommend": pool_metrics.coverage(shown, self.articles)},
            calibration={
                **pool_metrics.calibration(scores[real], hits[real]),
                "first": pool_metrics.calibration(scores[real[:, 0], 0], hits[real[:, 0], 0]),
                **pool_metrics.answer_accuracy(scores[real], hits[real]),
            },
        )
        section["recommend"]["all"]["coverage"] = section["coverage"]["recommend"]
        if self.start["recommend"]:
            section["before"] = {
                name: {"all": mean_metrics(pool_metrics.list_metrics(np.stack(lists), self.clicked))}
                for name, lists in self.start.items()
            }
        return section

"""The models of a run as scorers of a log: every article is embedded once, impressions run in batches."""

from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from genre_tf.config import RunConfig, read_config
from genre_tf.data.articles import Article, ArticleTable
from genre_tf.data.columns import ImpressionExample
from genre_tf.data.counters import COUNTERS
from genre_tf.data.prepared import read_articles
from genre_tf.errors import InputError
from genre_tf.evaluation.scored_log import ScoredLog
from genre_tf.files import whole_file
from genre_tf.metrics.ranking import rank_scores
from genre_tf.models.checkpoint import (
    CACHE_FOLDER,
    WEIGHTS_FILE,
    load_news_encoder,
    load_ranker,
    load_two_tower,
)

if TYPE_CHECKING:
    from genre_tf.models.ranker import Ranker
    from genre_tf.models.two_tower import TwoTower

STAGES = {"two_tower": "retrieval", "ranker": "ranking", "ranker_counters": "ranking"}
MODELS = tuple(STAGES)

Vectors = npt.NDArray[np.float32]
Rows = npt.NDArray[np.integer]
Scores = list[npt.NDArray[np.float32]]
Scorer = Callable[[Sequence[ImpressionExample]], Scores]

# Impressions of similar length share a batch, so that padding is a few percent; 64 of MIND's longest
# (300 candidates x 50 clicks) still fit into a few hundred MB.
_BATCH_IMPRESSIONS = 64
_ROWS = (tf.TensorSpec([None, None], tf.int32), tf.TensorSpec([None, None], tf.bool))  # padded, with a mask


class ModelScorer(Protocol):
    """Gives float32 [candidates] for each impression, and can accept articles that its log does not have."""

    def __call__(self, examples: Sequence[ImpressionExample]) -> Scores:
        """Score the candidates of each impression."""

    def with_articles(self, extra: ArticleTable) -> "ModelScorer":
        """The same model with further articles: those of `extra`, without its padding row, after its own."""


class TwoTowerScorer:
    """Scores candidates by the dot product of the reader's and the article's vector.

    Args:
        two_tower: the retrieval model.
        vectors: float32 [articles, dimension] from its news tower, one per row of the log's table.
    """

    def __init__(self, two_tower: "TwoTower", vectors: Vectors) -> None:
        self.two_tower = two_tower
        self.vectors = vectors

    def user_vectors(self, examples: Sequence[ImpressionExample]) -> Vectors:
        """The vector of each example's reader, float32 [examples, dimension]."""
        histories = [example.history for example in examples]
        return self.two_tower.queries(self.vectors, histories)[:, :-1]  # the rest is the weight of the moment

    def click_shares(self, histories: Sequence[Rows]) -> Scores:
        """Weight of each click in its reader's vector: float32 [clicks] for each history, with sum 1."""
        tower = self.two_tower.user_tower
        shares = tf.function(  # of any length: Keras warns of a softmax over one click
            lambda places, mask: tower.click_shares(tf.gather(self.vectors, places), mask),
            _ROWS,
            autograph=False,
        )
        found = _by_length(lambda rows: shares(*padded([histories[at] for at in rows])), histories)
        return [row[: len(history)] for row, history in zip(found, histories, strict=True)]

    def __call__(self, examples: Sequence[ImpressionExample]) -> Scores:
        """Per impression float32 [candidates]."""
        readers = self.user_vectors(examples)
        return [self.vectors[one.candidates] @ reader for one, reader in zip(examples, readers, strict=True)]

    def with_articles(self, extra: ArticleTable) -> "TwoTowerScorer":
        """See `ModelScorer`."""
        return TwoTowerScorer(self.two_tower, _more(self.vectors, self.two_tower, extra))


class RankerScorer:
    """Scores candidates by the ranker's click logits, which may use counters.

    Args:
        vectors: float32 [articles, dimension] from its news tower, one per row of the log's table.
    """

    def __init__(self, ranker: "Ranker", vectors: Vectors, with_counters: bool) -> None:
        self.ranker = ranker
        self.vectors = vectors
        self.with_counters = with_counters
        articles = tf.constant(vectors)
        counter_columns = tf.TensorSpec([None, None, len(COUNTERS)], tf.float32)

        @tf.function(input_signature=[*_ROWS, *_ROWS, counter_columns], autograph=False)
        def click_logits(*batch: Any) -> tf.Tensor:
            history, history_mask, candidates, candidate_mask, counters = batch
            return ranker.click_logits(
                tf.gather(articles, history),
                history_mask,
                tf.gather(articles, candidates),
                candidate_mask,
                counters if with_counters else None,
            )  # [batch, candidates]

        self._click_logits = click_logits

    def __call__(self, examples: Sequence[ImpressionExample]) -> Scores:
        """Per impression float32 [candidates]."""

        def logits(rows: npt.NDArray[np.int64]) -> tf.Tensor:
            chosen = [examples[at] for at in rows]
            candidates, mask = padded([example.candidates for example in chosen])
            counters = np.zeros((*mask.shape, len(COUNTERS)), np.float32)  # [batch, candidates, 9]
            counters[mask] = np.concatenate([example.counters for example in chosen])
            history = padded([example.history for example in chosen])
            return self._click_logits(*history, candidates, mask, counters)

        shown = [example.candidates for example in examples]
        return [row[: len(one)] for row, one in zip(_by_length(logits, shown), shown, strict=True)]

    def with_articles(self, extra: ArticleTable) -> "RankerScorer":
        """See `ModelScorer`."""
        return RankerScorer(self.ranker, _more(self.vectors, self.ranker, extra), self.with_counters)


class Measured(NamedTuple):
    """The trained models by name, and the data they are measured on."""

    log: ScoredLog
    examples: Sequence[ImpressionExample]
    clicked: Sequence[npt.NDArray[np.bool_]]  # per impression [candidates]
    scorers: Mapping[str, ModelScorer]


def _more(vectors: Vectors, model: Any, extra: ArticleTable) -> Vectors:
    if len(extra) == 1:  # only the padding row
        return vectors
    return np.concatenate([vectors, model.news.embed(model.news.features(extra))[1:]])


def open_run(run: Path) -> RunConfig:
    """The settings of a run."""
    if not run.is_dir():
        raise InputError(f"{run} is not a folder; give a run folder made by `genre train`")
    return read_config(run / "config.toml")


def run_articles(run: Path) -> dict[str, Article]:
    """The articles of a run's training, by id."""
    open_run(run)
    return {article.news_id: article for article in read_articles(run / "prepared").articles[1:]}


def chosen_models(run: Path, config: RunConfig, asked: Sequence[str]) -> tuple[str, ...]:
    """The models to use, in the order of `MODELS`: those that were asked for, else all that are trained."""
    unknown = [name for name in asked if name not in MODELS]
    if unknown:
        raise InputError(f"there is no model {unknown[0]!r}; known: {', '.join(MODELS)}")
    trained = [name for name, stage in STAGES.items() if (run / stage / WEIGHTS_FILE).is_file()]
    if not trained:
        raise InputError(f"{run} has no trained model; run: genre train all --run {run}")
    if not config.ranking.counters and "ranker_counters" in trained:
        trained.remove("ranker_counters")
        if "ranker_counters" in asked:
            raise InputError(
                f"the ranker of {run} was trained without counters (config.toml: ranking.counters)"
            )
    missing = [name for name in asked if name not in trained]
    if missing:
        stage = STAGES[missing[0]]
        raise InputError(f"{run} has no trained {missing[0]}; run: genre train {stage} --run {run}")
    return tuple(name for name in trained if not asked or name in asked)


def load_scorers(
    run: Path, names: Sequence[str], table: ArticleTable, *, trained: bool = True
) -> dict[str, ModelScorer]:
    """Load some of `MODELS`, trained or as before training, and embed every article once per stage."""
    scorers: dict[str, ModelScorer] = {}
    # Keep frozen states during this call: both stages, trained or not, start from the same ones.
    cache = run / CACHE_FOLDER
    shared = load_news_encoder(run, read_config(run / "config.toml"))
    if "two_tower" in names:
        towers = load_two_tower(run, trained=trained, shared=shared)
        scorers["two_tower"] = TwoTowerScorer(towers, towers.news.embed(towers.news.features(table, cache)))
    if "ranker" in names or "ranker_counters" in names:
        ranker = load_ranker(run, trained=trained, shared=shared)
        vectors = ranker.news.embed(ranker.news.features(table, cache))
        for name in ("ranker", "ranker_counters"):
            if name in names:
                scorers[name] = RankerScorer(ranker, vectors, with_counters=name == "ranker_counters")
    return scorers


def has_generator(run: Path) -> bool:
    """Whether the run has trained a generator."""
    return (run / "generation" / WEIGHTS_FILE).is_file()


def check_output(file: Path) -> None:
    """Check that a file can be written, before the models are loaded."""
    if file.is_dir():
        raise InputError(f"--out {file} is a folder; name a file in it, such as {file / 'prediction.txt'}")
    if not file.absolute().parent.is_dir():
        raise InputError(f"--out {file}: there is no folder {file.absolute().parent}; create it first")


def write_predictions(file: Path, log: ScoredLog, scorer: Scorer) -> int:
    """Write MIND's submission file, `ImpressionID [rank,rank,…]` for each impression; returns how many."""
    check_output(file)
    impressions = iter(log.split.impressions)
    with whole_file(file) as part, part.open("w", encoding="utf-8", newline="\n") as out:
        for scores in chain.from_iterable(map(scorer, log.blocks())):
            ranks = ",".join(map(str, rank_scores(scores).tolist()))
            out.write(f"{next(impressions).impression_id} [{ranks}]\n")
    return len(log.split.impressions)


def _by_length(
    function: Callable[[npt.NDArray[np.int64]], tf.Tensor], rows: Sequence[Rows]
) -> list[npt.NDArray[np.float32]]:
    """What a function gives for each of the rows, whose positions it takes in batches of similar length."""
    order = np.argsort([len(row) for row in rows], kind="stable")
    batches = [order[start:][:_BATCH_IMPRESSIONS] for start in range(0, len(order), _BATCH_IMPRESSIONS)]
    found = dict(
        zip(order.tolist(), (row for batch in batches for row in function(batch).numpy()), strict=True)
    )
    return [found[at] for at in range(len(rows))]


def padded(rows: Sequence[Rows]) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]:
    """Rows of unequal length as one array padded with row 0, and a mask of the real entries."""
    lengths = np.array([len(row) for row in rows])
    mask = np.arange(max(1, lengths.max())) < lengths[:, None]  # [batch, longest]
    places = np.zeros(mask.shape, np.int32)
    places[mask] = np.concatenate(rows)
    return places, mask

"""The models of a run as scorers of a log: every article is embedded once, impressions run in batches."""

from collections.abc import Callable, Iterator, Mapping, Sequence
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
from genre_tf.data.records import read_articles
from genre_tf.data.text_examples import TextExample
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
Scores = list[npt.NDArray[np.float32]]
Scorer = Callable[[Sequence[ImpressionExample]], Scores]

# Impressions of similar length share a batch, so that padding is a few percent; 64 of MIND's longest
# (300 candidates x 50 clicks) still fit into a few hundred MB.
_BATCH_IMPRESSIONS = 64
_ROWS = (tf.TensorSpec([None, None], tf.int32), tf.TensorSpec([None, None], tf.bool))  # padded, with a mask


class ModelScorer(Protocol):
    """A scorer that can accept articles that its log does not have."""

    def __call__(self, examples: Sequence[ImpressionExample]) -> Scores:
        """Per impression float32 [candidates]."""

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
        articles = tf.constant(vectors)
        self._user_vectors = tf.function(
            lambda history, mask: two_tower.user_vector(tf.gather(articles, history), mask),
            input_signature=_ROWS,
            autograph=False,
        )  # [batch, dimension]
        self._click_shares = tf.function(
            lambda history, mask: two_tower.user_tower.click_shares(tf.gather(articles, history), mask),
            input_signature=_ROWS,
            autograph=False,
        )  # [batch, clicks]

    def user_vectors(self, examples: Sequence[ImpressionExample | TextExample]) -> Vectors:
        """The vector of each example's reader, float32 [examples, dimension]."""
        found = np.zeros((len(examples), self.vectors.shape[1]), np.float32)
        for batch in _batches([len(example.history) for example in examples]):
            found[batch] = self._user_vectors(*_padded([examples[at].history for at in batch])).numpy()
        return found

    def click_shares(self, histories: Sequence[npt.NDArray[np.int32]]) -> Scores:
        """Weight of each click in its reader's vector: float32 [clicks] for each history, with sum 1."""
        shares: Scores = [np.zeros(0, np.float32)] * len(histories)
        for batch in _batches([len(history) for history in histories]):
            found = self._click_shares(*_padded([histories[at] for at in batch])).numpy()
            for at, row in zip(batch, found, strict=True):
                shares[at] = row[: len(histories[at])]
        return shares

    def __call__(self, examples: Sequence[ImpressionExample]) -> Scores:
        """Per impression float32 [candidates]."""
        readers = self.user_vectors(examples)
        return [
            self.vectors[example.candidates] @ reader
            for example, reader in zip(examples, readers, strict=True)
        ]

    def with_articles(self, extra: ArticleTable) -> "TwoTowerScorer":
        """See `ModelScorer`."""
        return TwoTowerScorer(self.two_tower, _more(self.vectors, self.two_tower, extra))


class RankerScorer:
    """Scores candidates by the ranker's click logits.

    Args:
        ranker: the click model.
        vectors: float32 [articles, dimension] from its news tower, one per row of the log's table.
        with_counters: whether it uses live counters.
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
        scores: Scores = [np.zeros(0, np.float32)] * len(examples)
        for batch in _batches([len(example.candidates) for example in examples]):
            chosen = [examples[at] for at in batch]
            history = _padded([example.history for example in chosen])
            candidates = _padded([example.candidates for example in chosen])
            counters = np.zeros((*candidates[0].shape, len(COUNTERS)), np.float32)  # [batch, candidates, 9]
            for row, example in zip(counters, chosen, strict=True):
                row[: len(example.counters)] = example.counters
            logits = self._click_logits(*history, *candidates, counters).numpy()
            for at, row, example in zip(batch, logits, chosen, strict=True):
                scores[at] = row[: len(example.candidates)]
        return scores

    def with_articles(self, extra: ArticleTable) -> "RankerScorer":
        """See `ModelScorer`."""
        return RankerScorer(self.ranker, _more(self.vectors, self.ranker, extra), self.with_counters)


class Measured(NamedTuple):
    """The measured models, and the data they are measured on.

    Args:
        log: the split.
        examples: its impressions.
        clicked: per impression bool [candidates].
        scorers: the trained models by name.
    """

    log: ScoredLog
    examples: Sequence[ImpressionExample]
    clicked: Sequence[npt.NDArray[np.bool_]]
    scorers: Mapping[str, ModelScorer]


def _more(vectors: Vectors, model: Any, extra: ArticleTable) -> Vectors:
    if len(extra) == 1:  # only the padding row
        return vectors
    return np.concatenate([vectors, model.news.embed(model.news.features(extra))[1:]])


def open_run(run: Path) -> RunConfig:
    """The settings of a run.

    Raises:
        InputError: it is not a run folder.
    """
    if not run.is_dir():
        raise InputError(f"{run} is not a folder; give a run folder made by `genre train`")
    return read_config(run / "config.toml")


def run_articles(run: Path) -> dict[str, Article]:
    """The articles of a run's training, by id.

    Raises:
        InputError: it is not a run folder, or its prepared data cannot be read.
    """
    open_run(run)
    return {article.news_id: article for article in read_articles(run / "prepared").articles[1:]}


def chosen_models(run: Path, config: RunConfig, asked: Sequence[str]) -> tuple[str, ...]:
    """The models to use, in the order of `MODELS`.

    Args:
        run: the run folder.
        config: its settings.
        asked: some of `MODELS`; empty: every model that the run has trained.

    Raises:
        InputError: a name is unknown, or the run has not trained that model.
    """
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
    """Load models and embed every article once per stage.

    Args:
        run: the run folder.
        names: some of `MODELS`.
        table: the articles of the log to score.
        trained: False: the models before training.

    Returns:
        One scorer per name. The two rankers share their article vectors.

    Raises:
        InputError: a stage is not trained, or files are damaged.
    """
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
    """Check that a file can be written, before the models are loaded.

    Raises:
        InputError: its folder does not exist, or the path is a folder.
    """
    if file.is_dir():
        raise InputError(f"--out {file} is a folder; name a file in it, such as {file / 'prediction.txt'}")
    if not file.absolute().parent.is_dir():
        raise InputError(f"--out {file}: there is no folder {file.absolute().parent}; create it first")


def write_predictions(file: Path, log: ScoredLog, scorer: Scorer) -> int:
    """Write MIND's submission file: `ImpressionID [rank,rank,…]`, a line for each impression of the log.

    Args:
        file: replaced once everything is written; unchanged if anything fails.
        log: the impressions.
        scorer: gives the scores.

    Returns:
        Number of impressions written.

    Raises:
        InputError: its folder does not exist, or the path is a folder.
        FailureError: the file cannot be written.
    """
    check_output(file)
    impressions = iter(log.split.impressions)
    with whole_file(file) as part, part.open("w", encoding="utf-8", newline="\n") as out:
        for scores in chain.from_iterable(map(scorer, log.blocks())):
            ranks = ",".join(map(str, rank_scores(scores).tolist()))
            out.write(f"{next(impressions).impression_id} [{ranks}]\n")
    return len(log.split.impressions)


def _batches(lengths: Sequence[int]) -> Iterator[npt.NDArray[np.int64]]:
    order = np.argsort(np.asarray(lengths), kind="stable")
    for start in range(0, len(order), _BATCH_IMPRESSIONS):
        yield order[start : start + _BATCH_IMPRESSIONS]


def _padded(rows: Sequence[npt.NDArray[np.int32]]) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]:
    """Rows of unequal length as one array padded with row 0, and a mask of the real entries."""
    lengths = np.array([len(row) for row in rows])
    mask = np.arange(max(1, lengths.max())) < lengths[:, None]  # [batch, longest]
    padded = np.zeros(mask.shape, np.int32)
    padded[mask] = np.concatenate(rows)
    return padded, mask

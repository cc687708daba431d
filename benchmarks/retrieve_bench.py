"""`genre bench retrieve`: search in an exported graph against FAISS; same vectors, readers and threads.

Both sides find the 100 of a million articles with the greatest dot products. FAISS' `IndexFlatIP` is the
standard exact search. The partitioned index searches only a part of the pool: the note of its rows gives its
recall of the exact answer.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from genre_tf.benchmarks.exported import ExportedSignature
from genre_tf.benchmarks.measuring import BenchOptions, Row, compare, rate_of, threads
from genre_tf.benchmarks.peers import peer_module
from genre_tf.errors import FailureError
from genre_tf.export.saved_model import write_saved_model
from genre_tf.funnel.search import ExactIndex, PartitionedIndex, PartitionedOptions

UNIT = "readers per second"
BATCHES = (1, 8, 64)
EXACT = "exact in the graph"
_TOLERANCE = 1e-4  # articles whose scores differ by less may swap places
_READERS_OF_RECALL = 200
_ARTICLES_A_CLUSTER = 500
_SPREAD = 0.6  # standard deviation within a cluster; that of the centres is 1

Vectors = npt.NDArray[np.float32]
Found = npt.NDArray[np.int64]
Search = Callable[[Vectors], Found]


@dataclass(frozen=True)
class _Sizes:
    articles: int
    dimension: int
    limit: int
    options: PartitionedOptions


_FULL = _Sizes(1_000_000, 128, 100, PartitionedOptions())
_QUICK = _Sizes(20_000, 16, 10, PartitionedOptions(block=32, probes=60))


def bench(options: BenchOptions) -> list[Row]:
    """Compare exact search with FAISS at three batch sizes, and the partitioned index with exact search.

    Raises:
        InputError: a peer is not installed.
        FailureError: the sides find different articles.
    """
    sizes = _QUICK if options.quick else _FULL
    options.say(f"drawing {sizes.articles:,} vectors in clusters")
    vectors, readers = clustered(sizes)
    with TemporaryDirectory(prefix="genre-bench-") as folder:
        options.say("exporting the exact search")
        exact = export_search(vectors, sizes.limit, Path(folder) / "exact")
        faiss = _faiss(vectors, sizes.limit)
        rows = []
        for batch in BATCHES:
            rows += _beside(f"batch {batch}", exact, {"faiss": faiss}, vectors, readers[:batch], options)
        options.say("partitioning the vectors into blocks")
        parted = export_search(vectors, sizes.limit, Path(folder) / "partitioned", sizes.options)
        found = recall(parted(readers), exact(readers))
        rows += [
            replace(row, note=f"recall@{sizes.limit} {found:.3f}")
            for row in compare(
                "partitioned, batch 1",
                UNIT,
                _rate(parted, readers[:1], options),
                {EXACT: _rate(exact, readers[:1], options), "faiss": _rate(faiss, readers[:1], options)},
                options,
            )
        ]
    return rows


def clustered(sizes: _Sizes) -> tuple[Vectors, Vectors]:
    """Draw articles in clusters, and readers who clicked four articles from two clusters.

    Returns:
        Articles float32 [N, D] and readers float32 [200, D]; all vectors have length one.
    """
    random = np.random.default_rng(0)
    clusters = max(2, sizes.articles // _ARTICLES_A_CLUSTER)
    centres = random.standard_normal((clusters, sizes.dimension), np.float32)
    member = random.integers(0, clusters, sizes.articles)
    vectors = random.standard_normal((sizes.articles, sizes.dimension), np.float32)
    vectors *= _SPREAD
    vectors += centres[member]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    by_cluster = np.argsort(member, kind="stable")
    starts = np.searchsorted(member[by_cluster], np.arange(clusters))
    clicked = (starts[random.integers(0, clusters, (_READERS_OF_RECALL, 2, 1))] + np.arange(2)).reshape(-1, 4)
    readers = vectors[by_cluster[np.minimum(clicked, sizes.articles - 1)]].mean(axis=1)  # [readers, D]
    return vectors, readers / np.linalg.norm(readers, axis=1, keepdims=True)


def export_search(
    vectors: Vectors, limit: int, folder: Path, partitioned: PartitionedOptions | None = None
) -> Search:
    """The index of an export as a SavedModel, loaded in a session; as in an export, row 0 is excluded.

    Args:
        vectors: float32 [N, D].
        limit: number of articles to find.
        folder: folder for the SavedModel.
        partitioned: options of a partitioned index; None: exact search.
    """
    dimension = vectors.shape[1]
    rows = np.concatenate([np.zeros((1, dimension), np.float32), vectors])
    index: ExactIndex | PartitionedIndex = (
        ExactIndex(rows) if partitioned is None else PartitionedIndex(rows, partitioned)
    )

    def search(readers: tf.Tensor) -> dict[str, tf.Tensor]:
        readers = tf.reshape(readers, [-1, dimension])
        everyone = tf.range(tf.shape(readers, tf.int64)[0])
        padding = tf.stack([everyone, tf.zeros_like(everyone)], axis=1)
        return {"rows": index.ask(readers).best(padding, limit)[0] - 1}

    return _by_session(folder, index, search)


def _by_session(folder: Path, module: tf.Module, search: Callable[[tf.Tensor], Any]) -> Search:
    write_saved_model(folder, [module], {"search": (search, {"readers": tf.float32})})
    signature = ExportedSignature(folder, "search")
    return lambda readers: signature(readers=readers.ravel())["rows"]  # inputs of an export have rank 1


def _faiss(vectors: Vectors, limit: int) -> Search:
    faiss = peer_module("faiss")
    faiss.omp_set_num_threads(threads())
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    return lambda readers: index.search(readers, limit)[1]


def _beside(
    case: str,
    ours: Search,
    peers: dict[str, Search],
    vectors: Vectors,
    readers: Vectors,
    options: BenchOptions,
) -> list[Row]:
    found = ours(readers)
    for name, peer in peers.items():
        require_same_articles(case, vectors, readers, found, name, peer(readers))
    sides = {name: _rate(peer, readers, options) for name, peer in peers.items()}
    return compare(case, UNIT, _rate(ours, readers, options), sides, options)


def _rate(search: Search, readers: Vectors, options: BenchOptions) -> Any:
    return rate_of(lambda: search(readers), len(readers), options)


def require_same_articles(
    case: str, vectors: Vectors, readers: Vectors, ours: Found, name: str, theirs: Found
) -> None:
    """Raise FailureError if two sides found different articles; `ours`, `theirs` int [B, K], best first.

    Articles with nearly equal scores may swap places, also with one just below the limit.
    """
    scores = [np.einsum("bkd,bd->bk", vectors[rows], readers) for rows in (ours, theirs)]
    if ours.shape != theirs.shape or not np.abs(scores[0] - scores[1]).max() <= _TOLERANCE:
        raise FailureError(
            f"{case}: ours and {name} find different articles, so the speeds cannot be compared"
        )


def recall(found: Found, exact: Found) -> float:
    """Mean share of the exact answer that was found; both arguments are rows, int [B, K]."""
    shares = [len(np.intersect1d(*rows)) / len(rows[1]) for rows in zip(found, exact, strict=True)]
    return float(np.mean(shares))

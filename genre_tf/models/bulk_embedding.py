"""Vectors of every article of a catalogue, in files that any program can read.

A folder has these files: `news_ids.txt`, one id per line; `embeddings-00000-of-00003.npy` and so on, float32
matrices whose rows, one shard after another, belong to the ids; and `manifest.json`. NumPy's own format
without pickles can be read by every language with a reader for arrays, can be memory-mapped, and does not
need TensorFlow.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from genre_tf.data.articles import Article, ArticleTable
from genre_tf.data.beam.runners import Runner
from genre_tf.data.faults import FaultPolicy
from genre_tf.data.lines import find_file
from genre_tf.data.manifest import (
    MANIFEST_FILE,
    Manifest,
    file_fingerprint,
    output_fingerprints,
    write_manifest,
)
from genre_tf.data.mind import NEWS, read_news, split_files
from genre_tf.errors import InputError
from genre_tf.files import whole_folder
from genre_tf.models.checkpoint import BACKBONE_FOLDER, WEIGHTS_FILE, load_ranker, load_two_tower
from genre_tf.models.news_encoder import NewsEncoder

IDS_FILE = "news_ids.txt"

SHARD_ARTICLES = 8192
"""Rows in a file, the smallest unit for a worker: some tens of seconds of work on two cores."""

_KIND = "article embeddings"
_STAGES = {"two_tower": "retrieval", "ranker": "ranking"}


def embed_split(
    run: Path,
    data: Path,
    split: str,
    out: Path,
    *,
    model: str = "two_tower",
    runner: Runner | None = None,
    max_bad_rows: int = 0,
    overwrite: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> Manifest:
    """Embed every article of a split's news file.

    Args:
        run: the run folder.
        data: folder of a MIND-format data set.
        split: folder of the split in this data set; only its news file is read.
        out: folder to write.
        model: whose article vectors to compute: `two_tower` (for retrieval) or `ranker`.
        runner: the Beam runner to use; None: this process. The bytes are the same.
        max_bad_rows: number of faulty rows that may be skipped.
        overwrite: replace an existing folder that this function wrote.
        on_progress: called with (shards done, all shards), in this process only.

    Returns:
        The manifest.

    Raises:
        InputError: faulty data, no such trained model, or `out` already exists.
        FailureError: `out` cannot be written, or the runner failed.
    """
    if runner is not None:
        runner.require()
    _require_free(out, overwrite)
    news = find_file(data / split, NEWS) or split_files(data, split)[0]  # raises: names what is missing
    policy = FaultPolicy.allowing(max_bad_rows)
    articles = ArticleTable(read_news(news, policy).values()).articles[1:]
    pieces = [articles[start : start + SHARD_ARTICLES] for start in range(0, len(articles), SHARD_ARTICLES)]
    with whole_folder(out) as folder:
        ids = "".join(f"{article.news_id}\n" for article in articles)
        (folder / IDS_FILE).write_text(ids, "utf-8")
        if runner is None:
            _write_here(run, model, pieces, folder, on_progress)
        else:
            from genre_tf.models.beam_embedding import embed_with_beam

            embed_with_beam(run, model, pieces, folder, runner)
        manifest = {
            "kind": _KIND,
            "model": model,
            "weights": file_fingerprint(run / _STAGES[model] / WEIGHTS_FILE),
            "news": file_fingerprint(news),
            "articles": len(articles),
            "dimension": int(np.load(folder / shard_name(0, len(pieces)), mmap_mode="r").shape[1]),
            "bad_rows": policy.bad_rows,
            "outputs": output_fingerprints(folder),
        }
        write_manifest(manifest, folder)
    return manifest


def load_encoder(run: Path, model: str) -> NewsEncoder:
    """The trained news encoder of a run's `two_tower` or `ranker`.

    Raises:
        InputError: the run has not trained that model, or one of its files is missing or damaged.
    """
    return (load_two_tower if model == "two_tower" else load_ranker)(run).news


def run_members(model: str) -> list[str]:
    """The parts of a run folder that `load_encoder` reads."""
    return ["config.toml", BACKBONE_FOLDER, f"{_STAGES[model]}/{WEIGHTS_FILE}"]


def shard_name(shard: int, shards: int) -> str:
    """File name of a shard, such as `embeddings-00000-of-00003.npy`."""
    return f"embeddings-{shard:05d}-of-{shards:05d}.npy"


def write_vectors(news: NewsEncoder, articles: Sequence[Article], path: Path) -> None:
    """Write the vectors of one shard; the bytes are the same in any process."""
    np.save(path, news.encode(articles), allow_pickle=False)


def read_embeddings(folder: Path) -> tuple[list[str], npt.NDArray[np.float32]]:
    """Read what `embed_split` wrote.

    Returns:
        N article ids, and their vectors, float32 [N, D].

    Raises:
        InputError: there is no such folder, or it is damaged.
    """
    try:
        manifest = json.loads((folder / MANIFEST_FILE).read_text("utf-8"))
        ids = (folder / IDS_FILE).read_text("utf-8").split()
        files = sorted(name for name in manifest["outputs"] if name != IDS_FILE)
        vectors = np.concatenate([np.load(folder / name, allow_pickle=False) for name in files])
        if vectors.shape != (len(ids), manifest["dimension"]):
            raise ValueError(f"{len(ids)} ids and vectors of shape {vectors.shape}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder} has no article embeddings ({error}); run `genre embed`") from None
    return ids, vectors


def _write_here(
    run: Path,
    model: str,
    pieces: Sequence[Sequence[Article]],
    folder: Path,
    on_progress: Callable[[int, int], None] | None,
) -> None:
    news = load_encoder(run, model)
    for shard, piece in enumerate(pieces):
        write_vectors(news, piece, folder / shard_name(shard, len(pieces)))
        if on_progress:
            on_progress(shard + 1, len(pieces))


def _require_free(out: Path, overwrite: bool) -> None:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    try:
        ours: Any = json.loads((out / MANIFEST_FILE).read_text("utf-8"))["kind"] == _KIND
    except (OSError, ValueError, KeyError, TypeError):
        ours = False
    if not ours:
        raise InputError(f"{out} exists and does not contain article embeddings; give a new folder")
    if not overwrite:
        raise InputError(f"{out} already contains article embeddings; give --overwrite to replace them")

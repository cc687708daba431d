"""`genre embed` writes the vectors that the run's models work with, the same bytes with any runner."""

import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from genre_tf.cli.predict import embed
from genre_tf.data.articles import ArticleTable
from genre_tf.data.beam.runners import Runner
from genre_tf.data.mind import read_split
from genre_tf.errors import InputError
from genre_tf.models import article_features, bulk_embedding
from genre_tf.models.bulk_embedding import embed_split
from genre_tf.models.checkpoint import load_ranker, load_two_tower

needs_beam = pytest.mark.skipif(
    find_spec("apache_beam") is None, reason="Apache Beam is not installed: pip install 'genre-tf[beam]'"
)

MODELS = ("two_tower", "ranker")


@pytest.fixture(autouse=True, scope="module")
def small_files() -> Iterator[None]:
    """39 articles: three shards of several batches, the last one shorter."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bulk_embedding, "SHARD_ARTICLES", 16)
        patch.setattr(article_features, "_BATCH_TEXTS", 5)
        yield


@pytest.fixture(scope="module")
def embedded(
    small_files: None, tiny_run: Path, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """What one process writes."""
    folders = {model: tmp_path_factory.mktemp("embedded") / model for model in MODELS}
    for model, out in folders.items():
        embed(tiny_run, data=tiny_data, split="dev", out=out, model=model)
    return folders


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("model", MODELS)
def test_the_vectors_are_those_that_evaluation_scores_with(
    tiny_run: Path, tiny_data: Path, embedded: dict[str, Path], model: str
) -> None:
    ids = (embedded[model] / "news_ids.txt").read_text("utf-8").split()
    files = sorted(embedded[model].glob("embeddings-*-of-00003.npy"))
    vectors = np.concatenate([np.load(file, allow_pickle=False) for file in files])
    table = ArticleTable.of(read_split(tiny_data, "dev"))
    load = load_two_tower if model == "two_tower" else load_ranker
    news = load(tiny_run).news
    expected = news.embed(news.features(table))[1:]
    assert ids == table.news_ids[1:]
    assert vectors.dtype == np.float32
    # Evaluation keeps the states of frozen layers as float16.
    np.testing.assert_allclose(vectors, expected, atol=2e-3)
    assert np.abs(expected).max() > 0.1
    assert len(files) == 3


@needs_beam
@pytest.mark.parametrize("temporary", [False, True])
def test_a_runner_writes_the_bytes_of_one_process(
    tiny_run: Path, tiny_data: Path, embedded: dict[str, Path], tmp_path: Path, temporary: bool
) -> None:
    options = (f"temp_location={tmp_path / 'temporary'}",) if temporary else ()
    embed_split(tiny_run, tiny_data, "dev", tmp_path / "beam", runner=Runner("DirectRunner", options))
    local, beam = files_of(embedded["two_tower"]), files_of(tmp_path / "beam")
    assert len(local) == 3 + 2
    assert beam == local
    assert not temporary or list((tmp_path / "temporary").iterdir()) == []


def test_only_our_own_files_are_replaced_and_only_when_told(
    tiny_run: Path, tiny_data: Path, embedded: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copytree(embedded["two_tower"], tmp_path / "out")
    with pytest.raises(InputError, match="--overwrite"):
        embed_split(tiny_run, tiny_data, "train", tmp_path / "out")
    assert embed_split(tiny_run, tiny_data, "train", tmp_path / "out", overwrite=True)["articles"] == 29
    with pytest.raises(InputError, match="does not contain article embeddings"):
        embed_split(tiny_run, tiny_data, "dev", tiny_data, overwrite=True)


def test_what_is_missing_is_told(tiny_run: Path, tiny_data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="splits found: dev, test, train"):
        embed_split(tiny_run, tiny_data, "nowhere", tmp_path / "out")
    with pytest.raises(InputError, match="name a runner too"):
        embed(tiny_run, data=tiny_data, split="dev", out=tmp_path / "out", runner_option=["streaming"])


def test_a_runner_without_beam_names_the_remedy(
    tiny_run: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("genre_tf.data.beam.runners.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'genre-tf\[beam\]'"):
        embed_split(tiny_run, tiny_data, "dev", tmp_path / "out", runner=Runner("FlinkRunner"))

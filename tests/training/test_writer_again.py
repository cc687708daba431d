"""A writer and the towers it reads belong together, and an earlier writer stays until a new one is there."""

import dataclasses
import os
import shutil
import signal
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from genre_tf.config import (
    DataConfig,
    GenerationConfig,
    NewsConfig,
    OptimizerConfig,
    RunConfig,
    WritingConfig,
)
from genre_tf.data.learning_texts import TextExample
from genre_tf.data.prepared import file_fingerprint, read_articles
from genre_tf.errors import InputError, StoppedError
from genre_tf.models.checkpoint import (
    WEIGHTS_FILE,
    load_generator,
    load_news_encoder,
    load_two_tower,
    two_tower_of,
)
from genre_tf.models.text_model import save_own_weights
from genre_tf.synth.newsroom import write_newsroom
from genre_tf.synth.settings import NewsroomSettings
from genre_tf.training.generation import ReaderVectors, reader_vectors
from genre_tf.training.progress import FitResult
from genre_tf.training.run_folder import open_run, stage_fingerprints, train
from genre_tf.training.stage_data import load_stage_data

STEPS = OptimizerConfig(
    steps=4, batch_size=4, validate_every=2, patience=99, save_every_seconds=0.0, learning_rate=3e-3
)
CONFIG = RunConfig(
    data=DataConfig(max_history=6, validation_share=0.2),
    news=NewsConfig(backbone="tiny", category_dimension=4, max_title_tokens=8),
    generation=GenerationConfig(
        backbone="new",
        vocabulary_size=300,
        layers=1,
        heads=2,
        hidden=16,
        max_tokens=48,
        max_examples=40,
        validation_texts=9,
        shown_readers=0,
        optimizer=STEPS,
    ),
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("again") / "room"
    write_newsroom(folder, NewsroomSettings(articles=120, readers=20, impressions=80))
    return folder


@pytest.fixture(scope="module")
def trained(data: Path) -> Path:
    """A run with untrained towers and a writer of four steps."""
    run = data.parent / "run"
    open_run(run, data, CONFIG, print)
    (run / "retrieval").mkdir()
    new_towers(run, seed=1)
    write_again(run, data)
    return run


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    shutil.copytree(trained, tmp_path / "run")
    return tmp_path / "run"


def new_towers(run: Path, seed: int) -> None:
    """As `genre train retrieval --again` leaves them."""
    keras.utils.set_random_seed(seed)
    towers = two_tower_of(load_news_encoder(run, CONFIG), CONFIG)
    save_own_weights(towers, run / "retrieval" / WEIGHTS_FILE)


def write_again(run: Path, data: Path, config: RunConfig = CONFIG) -> tuple[list[str], FitResult]:
    said: list[str] = []
    return said, train(["generation"], data, run, config, said.append)["generation"]


def test_a_writer_of_other_towers_is_refused_and_is_not_kept(run: Path, data: Path) -> None:
    assert load_generator(run).towers == file_fingerprint(run / "retrieval" / WEIGHTS_FILE)
    said, _ = write_again(run, data)
    assert any("kept" in line for line in said)
    new_towers(run, seed=2)
    with pytest.raises(InputError, match=r"trained with other towers.*genre train generation --run"):
        load_generator(run)
    load_generator(run, trained=False)  # to start from
    said, _ = write_again(run, data)
    assert any("it is trained again" in line for line in said)
    assert "40 texts for training, 9 for validation" in said
    load_generator(run)


def test_how_a_writer_writes_is_no_reason_to_train_it_again(run: Path) -> None:
    def with_settings(**changed: object) -> dict[str, str]:
        settings = dataclasses.replace(CONFIG.generation, **changed)  # type: ignore[arg-type]
        return stage_fingerprints(run, dataclasses.replace(CONFIG, generation=settings))

    assert with_settings(writing=WritingConfig(samples=2)) == with_settings()
    assert with_settings(dropout=0.2) != with_settings()


def test_the_earlier_writer_stays_until_a_new_one_has_weights(
    run: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ended(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("genre_tf.training.loop.Training.fit", ended)
    smaller = dataclasses.replace(CONFIG.generation, vocabulary_size=280)
    with pytest.raises(KeyboardInterrupt):
        write_again(run, data, dataclasses.replace(CONFIG, generation=smaller))
    assert load_generator(run).prompts.tokenizer.vocabulary_size == 300


@pytest.mark.proof
def test_an_ended_training_goes_on_unless_the_towers_are_others_by_then(run: Path, data: Path) -> None:
    def stop(line: str) -> None:
        if line.startswith("step 2/4"):
            os.kill(os.getpid(), signal.SIGTERM)

    faster = dataclasses.replace(CONFIG.generation, prefix_tokens=2)
    config = dataclasses.replace(CONFIG, generation=faster)
    with pytest.raises(StoppedError, match="after step 2 of 4"):
        train(["generation"], data, run, config, stop)
    assert load_generator(run).reader_prefix.prefix_tokens == 2  # its best so far
    other = run.with_name("other")
    shutil.copytree(run, other)
    said, _ = write_again(run, data, config)
    assert "resuming after step 2 of 4" in said
    new_towers(other, seed=2)
    said, _ = write_again(other, data, config)
    assert any("starting over" in line for line in said) and not any("resuming" in line for line in said)
    for folder in (run, other):
        load_generator(folder)
        assert not (folder / "generation" / "new").exists()


def test_texts_without_a_reader_share_a_row_of_zeros(run: Path) -> None:
    to_vectors, dimension = reader_vectors(run, load_stage_data(run, CONFIG, print))
    titles = read_articles(run / "prepared").titles
    histories: list[list[int]] = [[], [1, 2, 3], [], [4, 5], []]
    found = to_vectors([TextExample("title", np.array(h, np.int32), "", titles[1], 1) for h in histories])
    assert isinstance(found, ReaderVectors) and found.shape == (5, dimension) == (len(found), dimension)
    assert found.vectors.shape == (3, dimension)
    towers = load_two_tower(run)
    articles = towers.news.embed(load_stage_data(run, CONFIG, print).features)
    for text, history in enumerate(histories):
        expected = np.zeros(dimension)
        if history:
            clicks = tf.constant(articles[history][None])
            expected = towers.user_vector(clicks, tf.ones((1, len(history)), tf.bool))[0]
        np.testing.assert_allclose(found[np.array([text])][0], expected, atol=1e-5)

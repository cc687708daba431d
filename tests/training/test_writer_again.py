"""A writer is trained without the other stages, and an earlier one stays until a new one is there."""

import dataclasses
import os
import shutil
import signal
from pathlib import Path

import pytest

from genre_tf.config import (
    DataConfig,
    GenerationConfig,
    NewsConfig,
    OptimizerConfig,
    RunConfig,
    WritingConfig,
)
from genre_tf.errors import StoppedError
from genre_tf.models.checkpoint import (
    load_generator,
)
from genre_tf.synth.newsroom import write_newsroom
from genre_tf.synth.settings import NewsroomSettings
from genre_tf.training.progress import FitResult
from genre_tf.training.run_folder import stage_fingerprints, train

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
    """A run with a writer of four steps."""
    run = data.parent / "run"
    write_again(run, data)
    return run


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    shutil.copytree(trained, tmp_path / "run")
    return tmp_path / "run"


def write_again(run: Path, data: Path, config: RunConfig = CONFIG) -> tuple[list[str], FitResult]:
    said: list[str] = []
    return said, train(["generation"], data, run, config, said.append)["generation"]


def test_a_writer_is_kept_until_it_is_to_be_trained_again(run: Path, data: Path) -> None:
    said, _ = write_again(run, data)
    assert any("kept" in line for line in said)
    said, _ = write_again(run, data, dataclasses.replace(CONFIG, seed=2))
    assert "40 texts for training, 9 for validation" in said


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
def test_an_ended_training_goes_on(run: Path, data: Path) -> None:
    def stop(line: str) -> None:
        if line.startswith("step 2/4"):
            os.kill(os.getpid(), signal.SIGTERM)

    wider = dataclasses.replace(CONFIG, generation=dataclasses.replace(CONFIG.generation, hidden=24))
    with pytest.raises(StoppedError, match="after step 2 of 4"):
        train(["generation"], data, run, wider, stop)
    assert load_generator(run).language_model.hidden == 24  # its best so far
    said, _ = write_again(run, data, wider)
    assert "resuming after step 2 of 4" in said
    load_generator(run)
    assert not (run / "generation" / "new").exists()

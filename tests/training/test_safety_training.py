"""`genre train safety`: faults by line, an honest threshold, and a classifier that serves."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from typer.testing import CliRunner

from genre_tf.cli.main import _register, app
from genre_tf.config import NewsConfig, RunConfig, write_config
from genre_tf.data.learning_texts import read_labelled_texts
from genre_tf.data.lines import FaultPolicy
from genre_tf.errors import InputError
from genre_tf.generation.safety import load_classifier
from genre_tf.models.checkpoint import WEIGHTS_FILE, load_ranker, save_backbone
from genre_tf.models.news_encoder import Categories
from genre_tf.models.text_model import save_own_weights
from genre_tf.training.safety import judged, threshold_for, train_safety

SAFE = ["the", "mayor", "opens", "a", "new", "school", "garden"]
UNSAFE = ["sick", "trolls", "insult", "weak", "losers", "again"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a ranker as before training, and that is all."""
    folder = tmp_path_factory.mktemp("safety") / "run"
    folder.mkdir()
    write_config(RunConfig(news=NewsConfig(backbone="tiny")), folder / "config.toml")
    save_backbone("tiny", Categories.of(["news"]), folder)
    (folder / "ranking").mkdir()
    save_own_weights(load_ranker(folder, trained=False), folder / "ranking" / WEIGHTS_FILE)
    return folder


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    random = np.random.default_rng(0)
    file = tmp_path_factory.mktemp("labels") / "labelled.tsv"
    lines = [
        f"{label}\t{' '.join(random.choice(words, 5))} {number}"
        for label, words in (("safe", SAFE), ("unsafe", UNSAFE))
        for number in range(80)
    ]
    file.write_text("\n".join(lines) + "\n", "utf-8")
    return file


@pytest.fixture(scope="module")
def found(run: Path, examples: Path) -> dict:
    return train_safety(examples, run, recall=0.9, seed=1, report=lambda line: None)


def test_what_is_reported_was_measured_on_texts_that_nothing_was_chosen_with(found: dict, run: Path) -> None:
    assert (found["learned"], found["unsafe_learned"]) == (96, 48)
    assert (found["measured"], found["unsafe_measured"]) == (32, 16)
    assert found["auc"] > 0.9
    assert found["recall"] > 0.6
    assert found["precision"] > 0.6
    kept = json.loads((run / "reports" / "training-safety.json").read_text())
    assert kept == found


def test_vectors_are_judged_in_a_graph_and_empty_texts_are_safe(found: dict, run: Path) -> None:
    classifier = load_classifier(run, run / "ranking" / WEIGHTS_FILE)
    encoder = load_ranker(run).news
    texts = tf.constant(["the new school garden", "sick trolls insult losers", ""])
    unsafe = tf.function(lambda texts: classifier.is_unsafe(encoder(texts)))(texts)
    assert unsafe.numpy().tolist() == [False, True, False]


def test_a_classifier_of_another_ranker_is_refused(found: dict, run: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.h5"
    other.write_bytes(b"other")
    with pytest.raises(InputError, match="trained with another ranker"):
        load_classifier(run, other)
    assert load_classifier(tmp_path, other) is None
    (tmp_path / "safety").mkdir()
    (tmp_path / "safety" / "classifier.json").write_text("{}")
    with pytest.raises(InputError, match="cannot be read"):
        load_classifier(tmp_path, other)


def test_the_threshold_catches_the_share_that_was_asked_for() -> None:
    logits = np.arange(10.0)
    for recall in (0.05, 0.1, 0.5, 0.9, 0.95, 1.0):
        caught = (logits >= threshold_for(logits, recall)).mean()
        assert recall <= caught < recall + 0.1


def test_measures_are_those_of_a_hand_count() -> None:
    logits, unsafe = np.array([3.0, 2.0, 1.0, 1.0]), np.array([True, False, True, False])
    found = judged(logits, unsafe, 1.5)
    assert found["auc"] == (2 + 0.5) / 4
    assert (found["precision"], found["recall"], found["flagged"]) == (0.5, 0.5, 0.5)
    assert judged(logits, unsafe, 9.0)["precision"] is None


def test_labels_are_read_with_faults_by_line(tmp_path: Path) -> None:
    file = tmp_path / "labels.tsv"
    file.write_text("safe\tgood\n\n1\tbad\tindeed\nUNSAFE\tworse\n0\tgood\n", "utf-8")
    read = read_labelled_texts(file, FaultPolicy())
    assert read.texts == ["good", "bad\tindeed", "worse"]
    assert read.unsafe.tolist() == [False, True, True]
    faults = {
        "safe\ta\nspam\tb\n": ":2: label: 'spam' is not a label; give safe or unsafe",
        "safe good\n": ":1: label: 'safe good' is not a label",
        "safe\t \n": ":1: text: is missing",
        "safe\ta\nunsafe\ta\n": ":2: label: line 1 has the same text with the other label",
    }
    for text, said in faults.items():
        file.write_text(text, "utf-8")
        with pytest.raises(InputError, match=re.escape(said)):
            read_labelled_texts(file, FaultPolicy())
    file.write_bytes(b"safe\tcaf\xe9\nunsafe\tb\n")
    assert read_labelled_texts(file, FaultPolicy(1)).texts == ["b"]


def test_what_cannot_be_learned_is_said(run: Path, examples: Path, tmp_path: Path) -> None:
    few = tmp_path / "few.tsv"
    few.write_text("".join(f"safe\ttext {number}\n" for number in range(30)) + "unsafe\tbad\n")
    with pytest.raises(InputError, match="1 different unsafe texts; give at least 25"):
        train_safety(few, run, recall=0.9, seed=1)
    with pytest.raises(InputError, match=r"above 0 and at most 1; got 1\.5"):
        train_safety(examples, run, recall=1.5, seed=1)
    with pytest.raises(InputError, match="has no trained ranking stage"):
        (tmp_path / "empty").mkdir()
        train_safety(examples, tmp_path / "empty", recall=0.9, seed=1)


def test_the_verb_takes_its_recall_and_prints_what_it_measured(run: Path, examples: Path) -> None:
    _register("train")
    _register("tune")
    given = ["train", "safety", "--data", str(examples), "--run", str(run), "--recall", "0.5", "--json"]
    answer = CliRunner().invoke(app, given)
    assert answer.exit_code == 0, answer.output
    printed = json.loads(answer.stdout)
    assert printed["asked_recall"] == 0.5
    assert printed["flagged"] <= 0.6
    refused = CliRunner().invoke(app, ["train", "safety", "--data", str(run), "--run", str(run)])
    assert isinstance(refused.exception, InputError) and "is not a file" in str(refused.exception)
    refused = CliRunner().invoke(app, ["tune", "safety", "--data", str(run), "--run", str(run)])
    assert refused.exit_code == 2 and "is not one of" in refused.output

"""Who looks on at a training: a trace of steps, Weights & Biases, what the writer writes by then."""

import dataclasses
import json
from collections import defaultdict

import keras
import numpy as np
import pytest
import tensorflow as tf

from genre_tf.cli.train import observers_of
from genre_tf.config import (
    DataConfig,
    GenerationConfig,
    NewsConfig,
    OptimizerConfig,
    RunConfig,
)
from genre_tf.errors import FailureError, InputError
from genre_tf.models.checkpoint import WEIGHTS_FILE, load_news_encoder, ranker_of, two_tower_of
from genre_tf.models.text_model import save_own_weights
from genre_tf.synth.newsroom import write_newsroom
from genre_tf.synth.settings import NewsroomSettings
from genre_tf.training.generation import headlines
from genre_tf.training.learner import Learner
from genre_tf.training.loop import Training
from genre_tf.training.observers import Observers
from genre_tf.training.progress import Goal
from genre_tf.training.run_folder import open_run, train
from genre_tf.training.stage_data import load_stage_data
from genre_tf.training.stage_files import StageFiles, learned_settings

SETTINGS = OptimizerConfig(learning_rate=0.1, validate_every=4)
STEPS = 8


class Line(keras.Model):
    def __init__(self):
        super().__init__()
        self.kernel = self.add_weight(shape=(3,), initializer="zeros", name="kernel")
        self.built = True


class Fitted(Learner):
    def loss_of(self, batch, training):
        return tf.reduce_mean((tf.linalg.matvec(batch["x"], self.model.kernel) - batch["labels"]) ** 2)


def _fit(run, observers=Observers(), config=SETTINGS, bad=None):  # noqa: B008  (frozen)
    random = np.random.default_rng(5)
    labels = random.normal(size=4 * STEPS).astype(np.float32)
    if bad is not None:
        labels[4 * (bad - 1)] = np.nan
    rows = {"x": random.normal(size=(4 * STEPS, 3)).astype(np.float32), "labels": labels}
    batches = tf.data.Dataset.from_tensor_slices(rows).batch(4).repeat()
    goal = Goal(validate=lambda: {"quality": 0.5}, metric="quality", greater_is_better=True)
    files = StageFiles(run, "ranking", "these settings", observers=observers)
    trainer = Fitted(Line())
    Training(trainer=trainer, batches_from=batches.skip, steps=STEPS, config=config, goal=goal).fit(
        files, lambda line: None
    )
    return trainer.model.kernel.numpy()


def _traces(run):
    return sorted((run / "logs" / "ranking" / "plugins" / "profile").glob("*/*.xplane.pb"))


@pytest.mark.parametrize(("span", "at_once"), [((3, 4), 1), ((2, 2), 3), ((7, 900), 1)])
def test_the_steps_of_a_span_are_traced_once_and_learn_the_same(tmp_path, span, at_once):
    config = dataclasses.replace(SETTINGS, steps_per_execution=at_once)
    plain = _fit(tmp_path / "plain", config=config)
    assert not _traces(tmp_path / "plain")
    np.testing.assert_array_equal(_fit(tmp_path / "run", Observers(profile=span), config), plain)
    (trace,) = _traces(tmp_path / "run")
    assert b"MatVec" in trace.read_bytes() or b"MatMul" in trace.read_bytes()  # the ops of the step are in it


def test_a_training_that_fails_within_the_span_ends_its_trace(tmp_path):
    for run in ("first", "second"):  # a trace that still ran would refuse the next one
        with pytest.raises(FailureError):
            _fit(tmp_path / run, Observers(profile=(2, 8)), bad=3)
        assert len(_traces(tmp_path / run)) == 1


def test_what_is_no_span_or_goes_with_no_stage_is_refused():
    assert observers_of("all", None, "20-25") == {"wandb": None, "profile": (20, 25)}
    for wrong in ("20", "0-3", "5-4", "a-b", ""):
        with pytest.raises(InputError, match="must be FIRST-LAST"):
            observers_of("ranking", None, wrong)
    with pytest.raises(InputError, match="safety does not"):
        observers_of("safety", None, "1-2")


def _records(log):
    """Of LevelDB's log format, in its first block: check sum (4 bytes), length (2), kind (1), the record."""
    assert log[:4] == b":W&B" and len(log) < 32768
    at = 7
    while at < len(log):
        length = int.from_bytes(log[at + 4 : at + 6], "little")
        yield log[at + 7 : at + 7 + length]
        at += 7 + length


def _history(run):
    """Of each offline run of Weights & Biases: its name, and name of a scalar -> values by step."""
    from wandb.proto.wandb_internal_pb2 import Record

    found = []
    for file in sorted((run / "logs" / "wandb").glob("offline-run-*/*.wandb")):
        name, scalars = None, defaultdict(dict)
        for data in _records(file.read_bytes()):
            record = Record.FromString(data)
            name = record.run.display_name or name
            for item in record.history.item:
                key = item.key or "/".join(item.nested_key)
                scalars[key][record.history.step.num] = json.loads(item.value_json)
        found.append((name, scalars))
    return found


def test_weights_and_biases_gets_the_scalars_and_nothing_is_learned_otherwise(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="wandb is not installed: the extra genre-tf[wandb]")
    for name, value in (("WANDB_MODE", "offline"), ("WANDB_SILENT", "true")):
        monkeypatch.setenv(name, value)
    kernel = _fit(tmp_path / "run", Observers(wandb="news"))
    np.testing.assert_array_equal(kernel, _fit(tmp_path / "plain"))
    ((name, scalars),) = _history(tmp_path / "run")
    assert name == "run ranking"
    assert scalars["validation/quality"] == {0: 0.5, 4: 0.5, 8: 0.5}
    assert set(scalars["train/loss"]) == {8} and scalars["train/gradient_norm"][8] > 0
    # Anew, it is another run; the same one would have its steps already.
    _fit(tmp_path / "run", Observers(wandb="news"))
    assert len(_history(tmp_path / "run")) == 2


def _texts(run):
    found = {}
    for file in (run / "logs" / "generation" / "validation").glob("events.*"):
        for record in tf.data.TFRecordDataset(str(file)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            for value in event.summary.value:
                if value.metadata.plugin_data.plugin_name == "text":
                    (text,) = tf.make_ndarray(value.tensor).reshape(-1)
                    found[value.tag, event.step] = text.decode()
    return found


def test_what_the_writer_writes_is_shown_at_each_validation(tmp_path):
    write_newsroom(tmp_path / "room", NewsroomSettings(articles=160, readers=24, impressions=120))
    run = tmp_path / "run"
    config = RunConfig(
        data=DataConfig(max_history=6, validation_share=0.2),
        news=NewsConfig(backbone="tiny", category_dimension=4, max_title_tokens=8),
        generation=GenerationConfig(
            backbone="new",
            vocabulary_size=300,
            layers=1,
            heads=2,
            hidden=16,
            max_tokens=64,
            max_examples=40,
            optimizer=OptimizerConfig(steps=4, batch_size=4, validate_every=2, patience=99),
        ),
    )
    open_run(run, tmp_path / "room", config, print)
    for stage, model in (("retrieval", two_tower_of), ("ranking", ranker_of)):  # untrained, which is quicker
        (run / stage).mkdir()
        save_own_weights(model(load_news_encoder(run, config), config), run / stage / WEIGHTS_FILE)
    train(["generation"], tmp_path / "room", run, config, lambda line: None)
    texts = _texts(run)
    assert {step for _, step in texts} == {0, 2, 4} and len(texts) in (3, 6, 9, 12)
    by_step = [texts["generation/written/1", step] for step in (0, 2, 4)]
    before, _, after = (text.split("**Written, as served:**") for text in by_step)
    assert before[0] == after[0] and "**Source:**" in before[0]  # the same reader and article
    assert before[1] != after[1] and "interest" in after[1] and "grounding" in after[1]
    settings = config.generation
    nobody = dataclasses.replace(settings, shown_readers=0)
    assert headlines(None, load_stage_data(run, config, print), (), nobody) is None
    assert learned_settings(nobody) == learned_settings(settings)  # whoever is shown, the same is learned
    # Without a ranker nobody can tell interest, and the writer learns all the same.
    (run / "ranking" / "model.weights.h5").unlink()
    assert headlines(None, load_stage_data(run, config, print), (), settings) is None

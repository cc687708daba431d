"""Towers over a backbone with additions: trained by the common fit, read back, and exported."""

import json
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from genre_tf.config import NewsConfig, OptimizerConfig
from genre_tf.data.articles import Article, ArticleTable
from genre_tf.export.gate import portability_violations
from genre_tf.export.saved_model import write_saved_model
from genre_tf.models.checkpoint import news_encoder_of
from genre_tf.models.news_encoder import Categories
from genre_tf.models.text_model import load_own_weights
from genre_tf.training.learner import Learner
from genre_tf.training.loop import Training
from genre_tf.training.progress import Goal
from genre_tf.training.stage_files import StageFiles

MODES = ("lora 4", "adapters 3 last 1", "prefix 5 last 1")
CATEGORIES = Categories.of(["sports", "food"])
TABLE = ArticleTable(
    [
        Article("N1", "sports", "", "a long match on a hot day", ""),
        Article("N2", "food", "", "cheese", "and wine"),
        Article("N3", "", "", "rain ends the match", ""),
    ]
)
TITLES = ["a long match on a hot day", "", "cheese and wine"]
# As TensorFlow Serving does: by session, in a process that knows nothing of this package.
FRESH = """
import json, sys
import tensorflow as tf
for folder in sys.argv[2:]:
    with tf.compat.v1.Session(graph=tf.Graph()) as session:
        meta = tf.compat.v1.saved_model.loader.load(session, ["serve"], folder)
        signature = meta.signature_def["embed_news"]
        titles = {signature.inputs["text"].name: [title.encode() for title in json.loads(sys.argv[1])]}
        print(json.dumps(session.run(signature.outputs["embedding"].name, titles).tolist()))
assert not any(name.startswith(("genre_tf", "keras_hub")) for name in sys.modules)
"""


class ToGoal(Learner):
    """Pulls every article's vector to one goal."""

    def loss_of(self, batch, training):
        return tf.reduce_mean((self.model(batch, training=training) - 1.0) ** 2)


def _tower(folder, mode, **settings):
    config = NewsConfig(backbone="tiny", trainable=mode, interest_dimension=0, **settings)
    return news_encoder_of(folder, config, CATEGORIES)


def _fit(tower, folder, steps=8):
    features = tower.features(TABLE).gather(np.arange(4))
    losses = []

    def validate():
        losses.append(float(tf.reduce_mean((tower(features) - 1.0) ** 2)))
        return {"loss": losses[-1]}

    settings = OptimizerConfig(learning_rate=0.02, decay="none", validate_every=steps)
    trainer = ToGoal(tower)
    training = Training(
        trainer=trainer,
        batches_from=tf.data.Dataset.from_tensors(features).repeat().skip,
        steps=steps,
        config=settings,
        goal=Goal(validate=validate, metric="loss", greater_is_better=False),
    )
    result = training.fit(StageFiles(folder, "ranking", "these settings"), lambda line: None)
    return trainer, result


@pytest.mark.parametrize(
    ("mode", "settings"),
    [
        ("lora 4", {"precision": "mixed_float16"}),
        ("adapters 3 last 1", {"precision": "mixed_bfloat16", "chunk": 3}),
        ("prefix 5 last 1", {}),
    ],
)
def test_a_stage_trains_and_its_weights_are_read_back(tiny_bert, tmp_path, mode, settings):
    keras.utils.set_random_seed(4)
    tower = _tower(tiny_bert, mode, **settings)
    frozen = [weight for weight in tower.upper.weights if not weight.trainable]
    before = [weight.numpy() for weight in frozen]
    trainer, result = _fit(tower, tmp_path)
    assert result.best_step > 0 and result.best < result.before
    of_backbone = {id(weight) for weight in tower.upper.weights}
    heads = sum(w.value.numpy().size for w in tower.trainable_weights if id(w) not in of_backbone)
    of_bert = sum(weight.value.numpy().size for weight in tower.upper.trainable_weights)
    assert result.trainable_parameters == of_bert + heads
    scaled = settings.get("precision") == "mixed_float16"
    assert isinstance(trainer.optimizer, keras.optimizers.LossScaleOptimizer) == scaled
    for weight, start in zip(frozen, before, strict=True):
        np.testing.assert_array_equal(weight, start, weight.path)
    again = _tower(tiny_bert, mode, **settings)
    features = again.features(TABLE).gather(np.arange(4))
    assert np.abs(again(features) - tower(features)).max() > 1e-3
    load_own_weights(again, tmp_path / "ranking" / "model.weights.h5")
    np.testing.assert_array_equal(again(features), tower(features))
    assert again(features).dtype == tf.float32


def test_pooling_and_everything_above_stay_float32(tiny_bert):
    tower = _tower(tiny_bert, "all", precision="mixed_float16")
    layers = set(tower._flatten_layers()) - {
        inner for block in tower.upper.blocks for inner in block._flatten_layers()
    }
    assert {layer.compute_dtype for layer in layers} == {"float32"}


def test_frozen_states_are_shared_with_the_mode_that_trains_the_same_layers(tiny_bert):
    names = {
        mode: _tower(tiny_bert, mode).frozen.identity() for mode in ("last 1", "lora 4 last 1", "last 2")
    }
    assert names["last 1"] == names["lora 4 last 1"] != names["last 2"]


def test_the_progress_line_says_what_is_trained(tiny_bert):
    backbone = _tower(tiny_bert, "lora 4 last 1")
    assert backbone.trained_share().startswith("news backbone, lora 4 last 1: 512 trained parameters")


@pytest.mark.proof
def test_every_mode_is_exported_with_portable_ops_and_answers_as_trained(tiny_bert, tmp_path):
    expected = {}
    for number, mode in enumerate(MODES):
        tower = _tower(tiny_bert, mode)
        untrained = tower(tf.constant(TITLES)).numpy()
        random = np.random.default_rng(number)
        for weight in tower.upper.trainable_weights:
            weight.assign_add(random.normal(size=weight.shape))
        folder = tmp_path / str(number)
        _export(tower, folder)
        assert not portability_violations(folder)
        expected[folder] = tower(tf.constant(TITLES)).numpy()
        assert np.abs(expected[folder] - untrained).max() > 1e-3, "the additions act"
    command = [sys.executable, "-c", FRESH, json.dumps(TITLES), *map(str, expected)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    for line, vectors in zip(done.stdout.strip().split("\n"), expected.values(), strict=True):
        np.testing.assert_allclose(json.loads(line), vectors, atol=1e-5)


def _export(encoder, folder):
    def embed_news(text):
        return {"embedding": encoder(text)}

    signature = (embed_news, {"text": tf.string})
    write_saved_model(folder, [encoder.bert.tokenizer], {"embed_news": signature})

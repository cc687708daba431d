"""AdaLoRA: which singular values stay, and what starts where."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from genre_tf.backbones.bert import load_bert
from genre_tf.backbones.layers import EncoderLayers, split_layers
from genre_tf.backbones.trainable import parse_trainable
from genre_tf.layers.block import AdaptiveLowRank
from genre_tf.training.learner import Learner
from genre_tf.training.rank_budget import RankBudget


def upper_layers() -> EncoderLayers:
    keras.utils.set_random_seed(2)
    return split_layers(load_bert("tiny").backbone, parse_trainable("adalora 4"))[1]


def updates_of(model: Any) -> list[AdaptiveLowRank]:
    return RankBudget.of(model, 1).updates  # type: ignore[union-attr]


def left_in(updates: list[AdaptiveLowRank]) -> int:
    return sum(int(np.count_nonzero(update.values)) for update in updates)


def test_a_model_without_such_updates_has_no_budget() -> None:
    assert RankBudget.of(split_layers(load_bert("tiny").backbone, parse_trainable("lora 4"))[1], 10) is None


def test_an_update_starts_with_orthogonal_vectors_and_changes_nothing() -> None:
    update = AdaptiveLowRank(12, 8, 4, "query")
    assert update.values.shape == (6,), "half again as many as are left"
    np.testing.assert_array_equal(update.added(), np.zeros((12, 8)))
    np.testing.assert_allclose(update.losses, [0, 0], atol=1e-8)
    update.left.assign(2 * update.left)
    assert float(update.losses[0]) > 1
    assert AdaptiveLowRank(12, 5, 4, "value").values.shape == (5,), "no more than the kernel has"


def test_the_least_important_values_go_over_all_updates_and_as_many_stay_as_the_rank_says() -> None:
    steps, model = 40, upper_layers()
    budget = RankBudget.of(model, steps)
    assert budget is not None
    updates, random = budget.updates, np.random.default_rng(0)
    assert left_in(updates) == 0
    for update in updates:
        update.values.assign(np.ones(6))
    counts = []
    for _ in range(steps):
        gradients = {id(weight): random.normal(0, 1e-3, weight.shape) for weight in budget._weights()}
        gradients[id(updates[0].values)] += random.normal(0, 1, 6)  # it matters more than all others
        budget.after_step({key: tf.constant(value, tf.float32) for key, value in gradients.items()})
        counts.append(left_in(updates))
    first, last = 6 * len(updates), 4 * len(updates)
    assert counts[3] == first, "nothing goes during the warm-up"
    assert counts[-1] == last and sorted(counts, reverse=True) == counts
    assert np.count_nonzero(updates[0].values) == 6


def test_a_training_ends_within_the_budget_and_a_resumed_one_knows_what_matters() -> None:
    class Towards(Learner):
        def loss_of(self, batch: dict[str, tf.Tensor], training: bool) -> tf.Tensor:
            goal = tf.random.stateless_normal([32], [1, 2])
            return tf.reduce_mean((self.model(batch["ids"], training=training) - goal) ** 2)

    trainer = Towards(upper_layers())
    trainer.prepare(keras.optimizers.Adam(0.01), steps=12)
    ids = tf.constant([[2, 40, 41, 3], [2, 50, 3, 0]])
    batches = iter(tf.data.Dataset.from_tensors({"ids": ids}).repeat())
    losses = [trainer.run(batches, 1)[0][0] for _ in range(12)]
    assert losses[-1] < losses[0]
    assert left_in(updates_of(trainer.model)) == 4 * len(updates_of(trainer.model))
    budget = trainer.rank_budget
    assert budget is not None and int(budget.step) == 12
    assert all(np.abs(each).max() > 0 for each in budget.variables[1:])

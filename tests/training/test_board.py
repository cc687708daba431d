"""TensorBoard logs of a training: tags grouped by stage, charts that find them, histograms of weights."""

import re
from pathlib import Path

import keras
import tensorflow as tf
from tensorboard.plugins.custom_scalar import layout_pb2

from genre_tf.training.observers import StageBoard, stage_charts


def _values(folder: Path):
    for file in folder.glob("events.*"):
        for record in tf.data.TFRecordDataset(str(file)):
            yield from tf.compat.v1.Event.FromString(record.numpy()).summary.value


def test_training_and_validation_share_tags_and_charts_that_name_them_exactly(tmp_path):
    board = StageBoard(tmp_path, "ranking")
    board.scalars("validation", 0, {"auc": 0.6, "auc_counters": 0.7, "ndcg@10": 0.4, "loss": 1.0})
    board.scalars("train", 10, {"loss": 0.5, "learning_rate": 1e-3})
    board.scalars("validation", 10, {"auc": 0.61, "auc_counters": 0.71, "ndcg@10": 0.41, "loss": 0.9})
    board.close()
    train, validation = (list(_values(tmp_path / part)) for part in ("train", "validation"))
    tags = {value.tag for value in train + validation if value.metadata.plugin_data.plugin_name == "scalars"}
    assert tags == {f"ranking/{name}" for name in ("auc", "auc_counters", "ndcg@10", "loss", "learning_rate")}
    (layout,) = (
        layout_pb2.Layout.FromString(tf.make_ndarray(value.tensor).item())
        for value in validation
        if value.metadata.plugin_data.plugin_name == "custom_scalars"
    )
    (category,) = layout.category
    assert category.title == "Training: ranking"
    found = {
        chart.title: {tag for tag in tags for pattern in chart.multiline.tag if re.match(pattern, tag)}
        for chart in category.chart
    }
    assert found["AUC"] == {"ranking/auc", "ranking/auc_counters"}
    assert found["loss"] == {"ranking/loss"}
    assert found["nDCG"] == {"ranking/ndcg@10"}
    one_by_one = [pattern for chart in category.chart for pattern in chart.multiline.tag if "auc$" in pattern]
    assert [bool(re.match(one_by_one[0], tag)) for tag in ("ranking/auc", "ranking/auc_counters")] == [
        True,
        False,
    ]


def test_what_is_not_known_by_its_name_has_a_chart_of_its_own():
    charts = stage_charts("generation", ["perplexity", "loss"])
    assert charts["perplexity"] == ["generation/perplexity"]
    assert charts["loss"] == ["generation/loss"]
    assert charts["gradient norm before clipping"] == ["generation/gradient_norm"]


def test_weights_are_histograms_and_of_a_large_one_some_values_are_enough(tmp_path):
    board = StageBoard(tmp_path, "ranking")
    large = keras.Variable(keras.ops.ones([300, 200]), name="large")
    board.weights(3, [large, keras.Variable(2.0, name="lone")])
    board.close()
    found = {value.tag: tf.make_ndarray(value.tensor) for value in _values(tmp_path / "train")}
    assert set(found) == {"ranking_weights/large", "ranking_weights/lone"}
    assert 10_000 < found["ranking_weights/large"][:, 2].sum() <= 20_000
    assert found["ranking_weights/lone"][:, 2].sum() == 1

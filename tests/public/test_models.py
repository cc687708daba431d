"""The public models behave as Keras models do."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import genre_tf
from genre_tf.errors import InputError
from genre_tf.metrics.ranking import mean_metrics, ranking_metrics

HERE = Path(__file__).parent
QUESTION = {"history": [["Storm closes schools"], []], "candidates": [["Snow", "Cup final"], ["Snow"]]}


def used(mind: Path, devices: int) -> dict[str, Any]:
    command = [sys.executable, str(HERE / "use_models.py"), str(mind), str(devices)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def alone(mind: Path) -> dict[str, Any]:
    return used(mind, 1)


def well(found: dict[str, Any]) -> None:
    assert set(found) == {"NewsEncoder", "Ranker", "TwoTower", "Writer"}
    for name, seen in found.items():
        for claim in ("moved", "loaded", "preset", "clone", "clone_fits", "goes_on"):
            assert seen[claim], f"{name}: {claim}"
        assert seen["loss"][-1] < seen["loss"][0], name


def test_each_model_is_fitted_saved_loaded_and_cloned(alone: dict[str, Any]) -> None:
    well(alone)
    assert set(alone["Ranker"]["evaluated"]) == {"loss", "impression_auc", "impression_ndcg@5"}
    assert set(alone["TwoTower"]["evaluated"]) == {"loss", "pool_recall@5"}
    assert 0 < alone["TwoTower"]["evaluated"]["pool_recall@5"] <= 1


@pytest.mark.proof
def test_two_devices_learn_what_one_does(mind: Path, alone: dict[str, Any]) -> None:
    together = used(mind, 2)
    well(together)
    for name in ("Ranker", "TwoTower"):
        np.testing.assert_allclose(together[name]["loss"], alone[name]["loss"], rtol=1e-4)
        for metric, value in alone[name]["evaluated"].items():
            assert together[name]["evaluated"][metric] == pytest.approx(value, rel=1e-4), metric


@pytest.fixture(scope="module")
def news() -> Any:
    return genre_tf.models.NewsEncoder.from_preset("tiny")


@pytest.fixture(scope="module")
def ranker(news: Any) -> Any:
    return genre_tf.models.Ranker(news, max_history=5)


def test_a_log_that_names_no_category_makes_models_of_text_alone() -> None:
    news = genre_tf.models.NewsEncoder.from_preset("tiny", categories=[""])
    assert news.category is None
    two_tower = genre_tf.models.TwoTower(news, max_history=5, dimension=24)
    genre_tf.models.Ranker(news, max_history=5)
    clone = keras.models.clone_model(two_tower)
    assert clone.count_params() == two_tower.count_params()


def test_the_metrics_are_those_of_evaluation() -> None:
    random = np.random.default_rng(2)
    sizes = random.integers(2, 9, 40)
    scores = [random.integers(0, 4, size) / 4.0 for size in sizes]  # with ties
    clicked = [random.random(size) < 0.3 for size in sizes]
    labels, padded = -np.ones([40, 8]), np.full([40, 8], 9.0)
    for row, size in enumerate(sizes):
        labels[row, :size], padded[row, :size] = clicked[row], scores[row]
    expected = mean_metrics(ranking_metrics(scores, clicked))
    metrics = genre_tf.metrics
    for metric, name in (
        (metrics.ImpressionAUC(), "auc"),
        (metrics.ImpressionMRR(), "mrr"),
        (metrics.ImpressionNDCG(k=5), "ndcg@5"),
        (metrics.ImpressionNDCG(k=10), "ndcg@10"),
    ):
        metric.update_state(labels[:25], padded[:25])
        metric.update_state(labels[25:], padded[25:])
        assert float(metric.result()) == pytest.approx(expected[name], abs=1e-5), name


def test_keras_callbacks_watch_save_and_stop(mind: Path, news: Any, tmp_path: Path) -> None:
    log = genre_tf.data.read_mind(mind, split="train").head(60)
    model = genre_tf.models.Ranker(news, max_history=5)
    model.compile(
        "adam", loss=genre_tf.losses.ClickCrossEntropy(), metrics=[genre_tf.metrics.ImpressionAUC()]
    )
    batches = log.batches(model, batch_size=30)
    callbacks = [
        keras.callbacks.BackupAndRestore(tmp_path / "backup", delete_checkpoint=False),
        keras.callbacks.TensorBoard(tmp_path / "logs"),
        keras.callbacks.EarlyStopping("val_loss", patience=1, min_delta=10.0, restore_best_weights=True),
    ]
    seen = model.fit(batches, validation_data=batches, epochs=4, verbose=0, callbacks=callbacks)
    assert len(seen.history["loss"]) == 2, "no loss is lower by 10"
    assert list((tmp_path / "logs").rglob("events.*")) and any((tmp_path / "backup").iterdir())
    seen = model.fit(batches, epochs=3, verbose=0, callbacks=callbacks[:1])
    assert seen.epoch == [2], "the epochs of the backup are not repeated"


def test_a_reader_s_row_of_probabilities_does_not_depend_on_the_other_rows(ranker: Any) -> None:
    together = ranker.predict(QUESTION, verbose=0)
    alone = ranker.predict({name: rows[:1] for name, rows in QUESTION.items()}, verbose=0)
    np.testing.assert_allclose(together[0], alone[0], atol=1e-6)
    assert np.isnan(together[1, 1]) and ((together[0] > 0) & (together[0] < 1)).all()
    one_by_one = ranker.predict(QUESTION, batch_size=1, verbose=0)
    np.testing.assert_allclose(one_by_one, together, atol=1e-6)


def test_models_of_one_encoder_share_its_frozen_layers_alone(news: Any) -> None:
    first, second = genre_tf.models.Ranker(news), genre_tf.models.TwoTower(news)
    assert first.news.frozen is second.news.frozen is news.frozen
    texts = ["Storm closes schools"]
    before = news.predict(texts)
    first.news.projection.kernel.assign_add(np.ones(first.news.projection.kernel.shape, np.float32))
    np.testing.assert_array_equal(news.predict(texts), before)
    np.testing.assert_array_equal(second.news.predict(texts), before)


@pytest.mark.parametrize(
    ("use", "said"),
    [
        (lambda model: model.predict([[1, 2]]), 'raw data is a dict {"history"'),
        (lambda model: model.predict({"history": [[1]], "candidates": [["a"]]}), "must be strings; got 1"),
        (lambda model: model.predict({"history": ["a"], "candidates": [["a"]]}), "a list of titles for each"),
        (lambda model: model.fit({"history": [["a"]], "candidates": [["a"]]}, [[1, 0]]), "but 2 labels"),
        (lambda model: model.fit({"history": [["a"]], "candidates": []}, [[1]]), "history has 1 readers"),
    ],
)
def test_data_of_another_form_is_refused(ranker: Any, use: Any, said: str) -> None:
    ranker.compile("adam", loss=genre_tf.losses.ClickCrossEntropy())
    with pytest.raises(InputError, match=said):
        use(ranker)


def test_batches_of_another_models_tokenizer_are_refused(mind: Path, ranker: Any) -> None:
    log = genre_tf.data.read_mind(mind, split="dev").head(4)
    other = genre_tf.models.Ranker(genre_tf.models.NewsEncoder.from_preset("tiny", max_tokens=8))
    with pytest.raises(InputError, match="made for another model"):
        ranker.predict(log.batches(other))


def test_a_folder_that_is_no_preset_of_this_class_is_refused(ranker: Any, tmp_path: Path) -> None:
    load = genre_tf.models.Ranker.from_preset
    with pytest.raises(InputError, match=r"genre_tf\.json is missing"):
        load(tmp_path)
    preset = tmp_path / "preset"
    ranker.save_to_preset(preset)
    with pytest.raises(InputError, match=r"holds a Ranker, not a TwoTower: use Ranker\.from_preset"):
        genre_tf.models.TwoTower.from_preset(preset)
    with pytest.raises(InputError, match="exists and is not a preset"):
        ranker.save_to_preset(tmp_path)
    described = preset / "genre_tf.json"
    newer = {**json.loads(described.read_text("utf-8")), "format": 99}
    described.write_text(json.dumps(newer), "utf-8")
    with pytest.raises(InputError, match="format 99, this version reads 1: update genre_tf"):
        load(preset)
    described.write_text("{", "utf-8")
    with pytest.raises(InputError, match="is damaged"):
        load(preset)


def test_a_keras_file_or_a_preset_cut_short_is_refused(ranker: Any, tmp_path: Path) -> None:
    ranker.save(tmp_path / "ranker.keras")
    whole = (tmp_path / "ranker.keras").read_bytes()
    (tmp_path / "cut.keras").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"accessible `\.keras` zip file"):
        keras.saving.load_model(tmp_path / "cut.keras")
    ranker.save_to_preset(tmp_path / "preset")
    weights = tmp_path / "preset" / "model.weights.h5"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(InputError, match="is damaged"):
        genre_tf.models.Ranker.from_preset(tmp_path / "preset")

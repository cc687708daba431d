"""What a pretraining's batches hold besides tokens, for whom, and how much that counts."""

import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest

from genre_tf.backbones.language_models import GPT2, save_language_model, tiny_byte_pair
from genre_tf.config import OptimizerConfig, PretrainConfig, RunConfig
from genre_tf.environment import prefer_onednn, without_preferences
from genre_tf.pretraining import pretrain as module
from genre_tf.pretraining.language_models import LanguageTrainer, causal_language_model, masked_language_model
from genre_tf.pretraining.packed_batches import PackedBatches
from genre_tf.pretraining.pretrain import packed_corpus

CORPUS = [f"Article {number} tells of the {number % 7} goals" for number in range(60)]
SETTINGS = PretrainConfig(
    vocabulary_size=300, layers=1, hidden=16, heads=2, max_tokens=32, backbone="new", smoothing_end=0.25
)
OPTIMIZER = OptimizerConfig(steps=4, batch_size=2)


def batches_of(
    folder: Path, kind: str = "gpt2", jit_compile: bool = False, settings: PretrainConfig = SETTINGS
) -> tuple[PackedBatches, LanguageTrainer]:
    if kind == "gpt2":
        language_model = causal_language_model(settings, CORPUS, folder, 1)
    else:
        language_model = masked_language_model(settings, CORPUS, 1)
    trainer = LanguageTrainer(language_model.model)
    config = RunConfig(pretrain=settings)
    return packed_corpus(language_model, trainer, CORPUS, config, OPTIMIZER, jit_compile), trainer


def test_the_share_of_ngrams_falls_to_its_end(tmp_path: Path) -> None:
    packed, trainer = batches_of(tmp_path)
    assert trainer.ngrams is not None
    rows = list(packed.batches().take(6))
    assert [float(row["smoothing"][0, 0]) for row in rows] == pytest.approx(
        [1, 0.8125, 0.625, 0.4375, 0.25, 0.25]
    )
    later = next(iter(packed.batches(start=3)))  # a training that goes on
    for name, value in rows[3].items():
        np.testing.assert_array_equal(value, later[name])
    assert rows[0]["contexts"].shape == (2, 32, 3)
    assert np.isfinite(float(trainer.loss_of(rows[0], True)))


def test_without_a_share_the_loss_is_that_of_the_text(tmp_path: Path) -> None:
    packed, trainer = batches_of(tmp_path)
    packed.smoothing = lambda number: 0.0
    batch = next(iter(packed.batches()))
    smoothed = float(trainer.loss_of(batch, False))
    trainer.ngrams = None
    assert smoothed == pytest.approx(float(trainer.loss_of(batch, False)), rel=1e-5)


def test_others_learn_without_ngrams(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "checkpoint"
    save_language_model(GPT2.new(tiny_byte_pair(), layers=1, heads=2, hidden=16, max_tokens=32), folder)
    found = [
        batches_of(tmp_path, "bert"),
        batches_of(tmp_path, jit_compile=True),
        batches_of(tmp_path, settings=dataclasses.replace(SETTINGS, backbone=str(folder))),
        batches_of(tmp_path, settings=dataclasses.replace(SETTINGS, smoothing_tokens=0)),
    ]
    monkeypatch.setattr(module, "LONGEST_CORPUS", 100)
    found.append(batches_of(tmp_path))
    for packed, trainer in found:
        assert trainer.ngrams is None
        assert not {"contexts", "smoothing"} & set(packed.batches().element_spec)


def test_onednn_is_preferred_where_nothing_else_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    for machine, said, expected in (("x86_64", None, "1"), ("x86_64", "0", "0"), ("aarch64", None, None)):
        monkeypatch.setattr("platform.machine", lambda name=machine: name)
        monkeypatch.setattr("genre_tf.environment._preferred", set())
        monkeypatch.setattr("os.environ", {} if said is None else {"TF_ENABLE_ONEDNN_OPTS": said})
        prefer_onednn()
        assert os.environ.get("TF_ENABLE_ONEDNN_OPTS") == expected
        assert without_preferences().get("TF_ENABLE_ONEDNN_OPTS") == said

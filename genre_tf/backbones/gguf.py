"""GGUF files, converted once to Hugging Face folders, which everything else here reads."""

import hashlib
import importlib.util
import json
import os
import struct
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from genre_tf.errors import InputError
from genre_tf.files import read_json_object
from genre_tf.text.byte_pair_files import ByteVocabulary, write_byte_vocabulary

# In float32 a 4-bit file becomes eight times as large on the disk.
MAX_FILE_BYTES = 2 << 30
_MOST_VALUES = 1 << 22  # in one list of the header: eight times the merges of the largest vocabularies
_FORM = "1"  # version of the written folder; changing it makes every folder again
# How a vocabulary's texts are split, by llama.cpp's name for it: whether digits are separate. Other names
# mean other expressions than GPT-2's.
_SPLITS_DIGITS = {"gpt-2": False, "smollm": True}
_SUPPORTED = {
    "general.architecture": ("llama",),
    "tokenizer.ggml.model": ("gpt2",),
    "tokenizer.ggml.pre": tuple(_SPLITS_DIGITS),
    "llama.rope.scaling.type": (None, "none"),
}
_EMBEDDING, _OUTPUT = "token_embd.weight", "output.weight"
_ROWS_AT_ONCE = 4096
_SIZES = {
    "hidden_size": "llama.embedding_length",
    "intermediate_size": "llama.feed_forward_length",
    "num_hidden_layers": "llama.block_count",
    "num_attention_heads": "llama.attention.head_count",
    "num_key_value_heads": "llama.attention.head_count_kv",
    "max_position_embeddings": "llama.context_length",
}
# llama.cpp's name of each tensor, and Hugging Face's; first of the model, then of one layer.
_TENSORS = {"token_embd": "embed_tokens", "output_norm": "norm"}
_LAYER_TENSORS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
# Matrices whose rows llama.cpp stores in another order, and the number of their heads.
_HEADS_OF = {"self_attn.q_proj": "num_attention_heads", "self_attn.k_proj": "num_key_value_heads"}
_SPECIAL_TOKENS = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}


def gguf_folder(file: Path) -> Path:
    """The Hugging Face folder of a GGUF file: configuration, tokenizer, safetensors in float32.

    It is made at the first call and kept in the user's cache, under a hash of the file's content. The file
    holds weights of a Llama architecture with a byte-pair vocabulary, in any type that the package `gguf` can
    dequantise.

    Raises:
        InputError: the file is damaged, too large or of another kind, the package that reads it is not
            installed, or the cache cannot be written.
    """
    if not file.is_file():
        raise InputError(f"There is no file {file}. Give the path of a GGUF file.")
    size = file.stat().st_size
    if size > MAX_FILE_BYTES:
        raise InputError(
            f"{file} has {size / 2**30:.1f} GiB; at most {MAX_FILE_BYTES >> 30} GiB are supported, because "
            "weights are trained in float32. Use a smaller model."
        )
    with file.open("rb") as opened:
        if opened.read(4) != b"GGUF":
            raise InputError(f"{file} is not a GGUF file: it does not begin with GGUF. Fetch it again.")
        opened.seek(0)
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    kept = cache / "genre_tf" / "gguf" / f"{digest}-{_FORM}"
    if kept.is_dir():
        return kept
    if importlib.util.find_spec("gguf") is None:
        raise InputError(
            f"{file} needs the package gguf, which is not installed. Run: pip install 'genre-tf[gguf]'"
        )
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".", dir=kept.parent) as beside:
            made = Path(beside) / "made"
            made.mkdir()
            _convert(file, made)
            if not kept.is_dir():  # unless another process was faster
                made.rename(kept)
    except OSError as error:
        raise InputError(
            f"{file} could not be converted in {kept.parent} ({error}). Free some space there, or set "
            "XDG_CACHE_HOME to a folder that is writable."
        ) from error
    return kept


def _convert(file: Path, folder: Path) -> None:
    try:
        reader = _opened(file)
        described = {name: field.contents() for name, field in reader.fields.items()}
        for name, known in _SUPPORTED.items():
            if described.get(name) not in known:
                raise InputError(
                    f"{file}: {name} is {described.get(name)!r}; supported: "
                    f"{', '.join(filter(None, known))}. Name another model, or a Hugging Face folder."
                )
        tensors = {tensor.name: tensor for tensor in reader.tensors}
        config = _config(described, len(tensors), file)
        named = _named(tensors, config["num_hidden_layers"], file)
        config["vocab_size"] = int(tensors[_EMBEDDING].shape[-1])  # its rows may be more than the tokens
        (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", "utf-8")
        _write_tokenizer(described, file, folder)
        _write_weights(named, config, folder / "model.safetensors")
    except (InputError, OSError):
        raise
    except NotImplementedError as error:
        raise InputError(
            f"{file} has tensors of a type that the package gguf cannot read ({error}). Fetch the model in "
            "another quantization, such as Q8_0 or Q4_K_M."
        ) from None
    # Depending on the damage, the reader raises anything from IndexError to UnicodeDecodeError.
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"{file} is damaged or of an unknown format ({reason[:200]}). Fetch it again."
        ) from error


def _opened(file: Path) -> Any:
    """The package's reader, which maps the file into memory; sizes beyond the file's end are errors.

    By itself it reads nothing beyond the end, again and again if a damaged header says so.
    """
    from gguf import GGUFReader, GGUFValueType

    class Reader(GGUFReader):
        def _get(self, offset: int, dtype: Any, count: int = 1, override_order: Any = None) -> Any:
            if offset + np.dtype(dtype).itemsize * int(count) > len(self.data):
                raise ValueError("it ends too early")
            return super()._get(offset, dtype, count, override_order)

        def _get_field_parts(self, orig_offs: int, raw_type: int) -> Any:
            if raw_type == GGUFValueType.ARRAY:  # after the type of its values comes their number
                values = int(self._get(orig_offs + 4, np.uint64)[0])
                if values > _MOST_VALUES:
                    raise ValueError(f"a list of {values} values")
            return super()._get_field_parts(orig_offs, raw_type)

    reader = Reader(file)
    if reader.byte_order == "S":
        raise InputError(f"{file} is written for processors of the other byte order. Fetch another file.")
    return reader


def _config(described: Mapping[str, Any], tensors: int, file: Path) -> dict[str, Any]:
    """The content of `config.json`, except the number of embedding rows."""
    heads = described.get("llama.attention.head_count")
    found = {"llama.attention.head_count_kv": heads, **described}
    sizes = {ours: found.get(theirs) for ours, theirs in _SIZES.items()}
    for ours, size in sizes.items():
        most = tensors if ours == "num_hidden_layers" else 2**31 - 1
        if not isinstance(size, int) or not 0 < size <= most:
            raise InputError(
                f"{file}: {_SIZES[ours]} must be a whole number from 1 to {most}; got {size!r}. "
                "Fetch the file again."
            )
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        "dtype": "float32",
        **sizes,
        "head_dim": described.get("llama.rope.dimension_count"),
        "rms_norm_eps": float(described["llama.attention.layer_norm_rms_epsilon"]),
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": float(described.get("llama.rope.freq_base", 10_000.0)),
        },
        **{f"{name}_token_id": number for name, number in _special_tokens(described).items()},
    }
    return {name: value for name, value in config.items() if value is not None}


def _named(tensors: Mapping[str, Any], layers: int, file: Path) -> dict[str, Any]:
    """The tensors by their Hugging Face names; raises an error if there are others, or too few."""
    names = dict(_TENSORS)
    for layer in range(layers):
        names |= {f"blk.{layer}.{own}": f"layers.{layer}.{name}" for own, name in _LAYER_TENSORS.items()}
    found = {}
    for own, name in names.items():
        if f"{own}.weight" not in tensors:
            raise InputError(f"{file} lacks the tensor {own}.weight. Name a file that holds the whole model.")
        found[f"model.{name}.weight"] = tensors[f"{own}.weight"]
    for name, tensor in tensors.items():
        embedding, parts = tensors[_EMBEDDING], range(0, len(tensor.data), _ROWS_AT_ONCE)
        rows = (slice(start, start + _ROWS_AT_ONCE) for start in parts)
        tied = (
            name == _OUTPUT
            and tensor.shape.tolist() == embedding.shape.tolist()
            and all(np.array_equal(_values(tensor, some), _values(embedding, some)) for some in rows)
        )
        if not tied and name.removesuffix(".weight") not in names:
            reason = f"differs from {_EMBEDDING}" if name == _OUTPUT else "is not part of a supported Llama"
            raise InputError(f"{file}: the tensor {name} {reason}. Name another model.")
    return found


def _values(tensor: Any, rows: slice = slice(None)) -> np.ndarray:
    from gguf import dequantize

    with np.errstate(all="ignore"):  # what is not finite is refused when it is written
        return np.asarray(dequantize(tensor.data[rows], tensor.tensor_type), np.float32)


def _write_weights(named: Mapping[str, Any], config: Mapping[str, Any], path: Path) -> None:
    """Write a safetensors file, one tensor at a time: the library would hold all of them in memory."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in named.items():
        start, end = end, end + 4 * int(tensor.n_elements)
        shape = tensor.shape[::-1].tolist()
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    with path.open("wb") as out:
        out.write(struct.pack("<Q", len(encoded)) + encoded)
        for name, tensor in named.items():
            values = _values(tensor)
            if not np.isfinite(values).all():
                raise ValueError(f"{tensor.name} has values that are not finite")
            for part, heads in _HEADS_OF.items():
                if part in name:
                    # A rotation turns pairs of rows. llama.cpp stores the two of a pair one after another,
                    # Hugging Face all first ones of a head before all second ones.
                    pairs = values.reshape(config[heads], -1, 2, values.shape[1])
                    values = pairs.swapaxes(1, 2).reshape(values.shape)  # [heads * depth, inputs]
            out.write(np.ascontiguousarray(values, "<f4").data)


def _write_tokenizer(described: Mapping[str, Any], file: Path, folder: Path) -> None:
    tokens, rules = (described.get(f"tokenizer.ggml.{name}", []) for name in ("tokens", "merges"))
    ids = {token: number for number, token in enumerate(tokens)}
    if len(ids) != len(tokens):
        raise InputError(f"{file}: some tokens occur twice. Fetch it again.")
    pairs = [(left, right) for left, right in (rule.split(" ") for rule in rules)]
    split_digits = _SPLITS_DIGITS[described["tokenizer.ggml.pre"]]
    write_byte_vocabulary(ByteVocabulary(ids, pairs, split_digits=split_digits), folder)
    path = folder / "tokenizer_config.json"
    config = read_json_object(path)
    config |= {f"{name}_token": tokens[number] for name, number in _special_tokens(described).items()}
    if described.get("tokenizer.chat_template"):
        config["chat_template"] = described["tokenizer.chat_template"]
    path.write_text(json.dumps(config, ensure_ascii=False) + "\n", "utf-8")


def _special_tokens(described: Mapping[str, Any]) -> dict[str, int]:
    found = {name: described.get(f"tokenizer.ggml.{own}_token_id") for name, own in _SPECIAL_TOKENS.items()}
    return {name: number for name, number in found.items() if number is not None}

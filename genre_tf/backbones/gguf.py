"""GGUF files, converted once to Hugging Face folders, which everything else here reads."""

import contextlib
import hashlib
import importlib.util
import io
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from genre_tf.errors import InputError
from genre_tf.text.byte_pair_files import ByteVocabulary, write_byte_vocabulary

# In float32 a 4-bit file becomes eight times as large: once on the disk, twice in memory.
MAX_FILE_BYTES = 2 << 30
_NEEDED = ("torch", "gguf", "accelerate")
_FORM = "1"  # version of the written folder; changing it makes every folder again
# How a vocabulary's texts are split, by llama.cpp's name for it: whether digits are separate. Other names
# mean other expressions than GPT-2's.
_SPLITS_DIGITS = {"gpt-2": False, "smollm": True}


def gguf_folder(file: Path) -> Path:
    """The Hugging Face folder of a GGUF file: configuration, tokenizer, safetensors in float32.

    It is made at the first call and kept in the user's cache, under a hash of the file's content.

    Args:
        file: weights of a Llama architecture with a byte-pair vocabulary, in any type that `transformers`
            can dequantise.

    Raises:
        InputError: the file is damaged, too large or of another kind, the packages that read it are not
        installed, or the cache cannot be written.
    """
    _check_file(file)
    kept = _cache() / f"{_digest(file)}-{_FORM}"
    if kept.is_dir():
        return kept
    _check_packages(file)
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


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "genre_tf" / "gguf"


def _check_file(file: Path) -> None:
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


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _check_packages(file: Path) -> None:
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(
            f"{file} needs the packages {', '.join(_NEEDED)}; not installed: {', '.join(missing)}. "
            "Run: pip install 'genre-tf[gguf]'"
        )


def _convert(file: Path, folder: Path) -> None:
    try:
        described = _read_header(file)
        vocabulary = _vocabulary(file, described)
        config, tensors = _dequantised(file)
    except (InputError, OSError):
        raise
    # Depending on the damage, the readers raise anything from struct.error to AttributeError.
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"{file} is damaged or of an unknown format ({reason[:200]}). Fetch it again."
        ) from error
    import safetensors.numpy

    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", "utf-8")
    write_byte_vocabulary(vocabulary, folder)
    safetensors.numpy.save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def _read_header(file: Path) -> dict[str, Any]:
    """The names and values in the file; raises an error if it is not of a supported kind."""
    from gguf import GGUFReader

    described = {name: field.contents() for name, field in GGUFReader(file).fields.items()}
    expected = {
        "general.architecture": ("llama",),
        "tokenizer.ggml.model": ("gpt2",),
        "tokenizer.ggml.pre": tuple(_SPLITS_DIGITS),
    }
    for name, known in expected.items():
        if described.get(name) not in known:
            raise InputError(
                f"{file}: {name} is {described.get(name)!r}; supported: {', '.join(known)}. "
                "Name another model, or a Hugging Face folder."
            )
    return described


def _vocabulary(file: Path, described: dict[str, Any]) -> ByteVocabulary:
    # `transformers` knows the tokens too, but not how this model splits its texts.
    tokens, rules = (described.get(f"tokenizer.ggml.{name}", []) for name in ("tokens", "merges"))
    ids = {token: number for number, token in enumerate(tokens)}
    if len(ids) != len(tokens):
        raise InputError(f"{file}: some tokens occur twice. Fetch it again.")
    pairs = [(left, right) for left, right in (rule.split(" ") for rule in rules)]
    return ByteVocabulary(ids, pairs, split_digits=_SPLITS_DIGITS[described["tokenizer.ggml.pre"]])


def _dequantised(file: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The configuration, and every tensor under its Hugging Face name, float32."""
    import torch
    from transformers import GgufConfig, LlamaForCausalLM

    with contextlib.redirect_stderr(io.StringIO()):  # its progress bars would disturb our output
        model = LlamaForCausalLM.from_pretrained(
            file.parent,
            gguf_file=file.name,
            dtype=torch.float32,
            quantization_config=GgufConfig(dequantize=True),
            local_files_only=True,
        )
    # Metadata other than weights (file path, packing) is of no use to a reader.
    config = {
        name: value
        for name, value in json.loads(model.config.to_json_string()).items()
        if not name.startswith("_") and name != "quantization_config"
    }
    config |= {"architectures": ["LlamaForCausalLM"]}
    tied = config["tie_word_embeddings"]
    tensors = {
        name: tensor.numpy()
        for name, tensor in model.state_dict().items()
        if not (tied and name == "lm_head.weight")
    }
    return config, tensors

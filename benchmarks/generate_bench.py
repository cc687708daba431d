"""`genre bench generate`: the exported decoder against PyTorch and CTranslate2; same weights and prompts."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt

from genre_tf.backbones.checkpoints import Family
from genre_tf.backbones.language_models import (
    END_OF_TEXT,
    GPT2,
    LLAMA,
    LanguageModel,
    save_language_model,
)
from genre_tf.benchmarks.copying_gpt2 import make_copying
from genre_tf.benchmarks.decoder_sides import CTranslate2, Exported, Side, Torch
from genre_tf.benchmarks.measuring import BenchOptions, Row, compare, rate_of
from genre_tf.errors import FailureError
from genre_tf.text.byte_pair import BytePair
from genre_tf.text.byte_pair_files import printable_bytes

UNIT = "tokens per second"
BATCHES = (1, 4, 8)
DRAFT_TOKENS = 7

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class _Shape:
    name: str  # in front of the batch size
    family: Family
    vocabulary: int
    sizes: Mapping[str, int]


_GPT2 = _Shape("", GPT2, 50257, {"layers": 12, "heads": 12, "hidden": 768, "max_tokens": 1024})
_SMOLLM2 = _Shape(
    "SmolLM2 135M, ",
    LLAMA,
    49152,
    {
        "layers": 30,
        "heads": 9,
        "key_heads": 3,
        "hidden": 576,
        "intermediate": 1536,
        "max_tokens": 1024,
    },
)
_TOKENS = 64  # length of the prompt, and of the written text


def bench(options: BenchOptions) -> list[Row]:
    """Compare a random GPT-2 and a random Llama at three batch sizes, and a GPT-2 that copies its prompt.

    Raises:
        InputError: a peer is not installed.
        FailureError: the sides write different tokens.
    """
    shapes, tokens = (_quick(_GPT2), _quick(_SMOLLM2)) if options.quick else (_GPT2, _SMOLLM2), _TOKENS
    if options.quick:
        tokens = 20
    rows = []
    with TemporaryDirectory(prefix="genre-bench-") as folder:
        for shape in shapes:
            random = np.random.default_rng(1)
            prompts = random.integers(0, shape.vocabulary - 1, (max(BATCHES), tokens))
            sides = _sides(shape, tokens, Path(folder) / shape.family.name, options, copying=False)
            for batch in BATCHES:
                rows += _compare(f"{shape.name}batch {batch}", *sides, prompts[:batch], options)
            del sides  # frees about a gigabyte each
        prompts = np.random.default_rng(1).integers(0, shapes[0].vocabulary - 1, (1, tokens))
        sides = _sides(shapes[0], tokens, Path(folder) / "copying", options, copying=True)
        rows += _compare("copied, batch 1", *sides, prompts, options)
    return rows


def _quick(shape: _Shape) -> _Shape:
    small = {"layers": 2, "heads": 2, "key_heads": 1, "hidden": 128, "intermediate": 256}
    sizes = {name: small.get(name, size) for name, size in shape.sizes.items()}
    return replace(shape, vocabulary=300, sizes=sizes)


def _sides(
    shape: _Shape, tokens: int, folder: Path, options: BenchOptions, copying: bool
) -> tuple[Side, Mapping[str, Side]]:
    options.say(f"making a {'copying' if copying else 'random'} {shape.family.name}")
    model, draft_tokens = _random_model(shape), DRAFT_TOKENS if copying else 0
    if copying:
        make_copying(model.backbone, tokens)
    save_language_model(model, folder / "model")
    ours = Exported(model, folder / "exported", tokens, draft_tokens)
    peers: dict[str, Side] = {
        "torch": Torch(folder / "model", tokens, draft_tokens),
        "ctranslate2": CTranslate2(folder / "model", folder / "converted", tokens),
    }
    return ours, peers


def _random_model(shape: _Shape) -> LanguageModel:
    made_up = (f"<{number}>" for number in range(shape.vocabulary - 257))
    words = [*printable_bytes(), *made_up, END_OF_TEXT]
    tokenizer = BytePair({word: number for number, word in enumerate(words)}, [])
    dropout: dict[str, Any] = {"dropout": 0.0} if shape.family is GPT2 else {}
    return shape.family.new(tokenizer, **shape.sizes, **dropout)


def _compare(
    case: str, ours: Side, peers: Mapping[str, Side], prompts: Array, options: BenchOptions
) -> list[Row]:
    written = ours(prompts)
    for name, peer in peers.items():
        require_same_tokens(case, written, name, peer(prompts))

    def rate(side: Side) -> Any:
        return rate_of(lambda: side(prompts), written.size, options)

    sides = {name: rate(peer) for name, peer in peers.items()}
    return compare(case, UNIT, rate(ours), sides, options, warm=False)  # all have just run


def require_same_tokens(case: str, ours: Array, name: str, theirs: Array) -> None:
    """Raise FailureError if two sides wrote different tokens; both arguments are int [B, new tokens]."""
    if ours.shape != theirs.shape or (ours != theirs).any():
        raise FailureError(
            f"{case}: ours and {name} write different tokens, so the speeds cannot be compared"
        )

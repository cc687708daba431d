"""`genre bench generate`: the exported decoder against PyTorch and CTranslate2; same weights and prompts."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt

from genre_tf.backbones.language_models import END_OF_TEXT, GPT2, LanguageModel, save_language_model
from genre_tf.benchmarks.copying_gpt2 import make_copying
from genre_tf.benchmarks.gpt2_sides import CTranslate2Gpt2, ExportedGpt2, Side, TorchGpt2
from genre_tf.benchmarks.measuring import BenchOptions, Row, compare, rate_of
from genre_tf.errors import FailureError
from genre_tf.text.byte_pair import BytePair
from genre_tf.text.byte_pair_files import printable_bytes

UNIT = "tokens per second"
BATCHES = (1, 4, 8)
DRAFT_TOKENS = 7

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class _Sizes:
    vocabulary: int
    layers: int
    heads: int
    hidden: int
    tokens: int  # length of the prompt, and of the written text


_GPT2 = _Sizes(vocabulary=50257, layers=12, heads=12, hidden=768, tokens=64)
_QUICK = _Sizes(vocabulary=300, layers=2, heads=2, hidden=128, tokens=20)


def bench(options: BenchOptions) -> list[Row]:
    """Compare a random GPT-2 at three batch sizes, and one that copies its prompt.

    Raises:
        InputError: a peer is not installed.
        FailureError: the sides write different tokens.
    """
    sizes = _QUICK if options.quick else _GPT2
    prompts = np.random.default_rng(1).integers(0, sizes.vocabulary - 1, (max(BATCHES), sizes.tokens))
    rows = []
    with TemporaryDirectory(prefix="genre-bench-") as folder:
        ours, peers = _sides(sizes, Path(folder) / "random", options, copying=False)
        for batch in BATCHES:
            rows += _compare(f"batch {batch}", ours, peers, prompts[:batch], options)
        del ours, peers  # frees about a gigabyte each
        ours, peers = _sides(sizes, Path(folder) / "copying", options, copying=True)
        rows += _compare("copied, batch 1", ours, peers, prompts[:1], options)
    return rows


def _sides(
    sizes: _Sizes, folder: Path, options: BenchOptions, copying: bool
) -> tuple[Side, Mapping[str, Side]]:
    options.say("making a copying GPT-2" if copying else "making a random GPT-2")
    gpt2, draft_tokens = _random_gpt2(sizes), DRAFT_TOKENS if copying else 0
    if copying:
        make_copying(gpt2.backbone, sizes.tokens)
    save_language_model(gpt2, folder / "gpt2")
    ours = ExportedGpt2(gpt2, folder / "exported", sizes.tokens, draft_tokens)
    peers: dict[str, Side] = {
        "torch": TorchGpt2(folder / "gpt2", sizes.tokens, draft_tokens),
        "ctranslate2": CTranslate2Gpt2(folder / "gpt2", folder / "converted", sizes.tokens),
    }
    return ours, peers


def _random_gpt2(sizes: _Sizes) -> LanguageModel:
    made_up = (f"<{number}>" for number in range(sizes.vocabulary - 257))
    tokens = [*printable_bytes(), *made_up, END_OF_TEXT]
    tokenizer = BytePair({token: number for number, token in enumerate(tokens)}, [])
    shape = {"layers": sizes.layers, "heads": sizes.heads, "hidden": sizes.hidden}
    return GPT2.new(tokenizer, **shape, max_tokens=1024, dropout=0.0)


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

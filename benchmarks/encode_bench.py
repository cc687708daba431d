"""`genre bench encode`: the package's BERT compared with PyTorch's; same weights, inputs and threads.

In `forward` and `train step` both sides get the same padded batch. The package computes no padding, PyTorch's
BERT does. The `full` cases have no padding, so both sides compute the same tokens.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from genre_tf.backbones.bert import Bert, load_bert
from genre_tf.backbones.layers import EncoderLayers, split_layers
from genre_tf.backbones.trainable import parse_trainable
from genre_tf.benchmarks.bench_data import bench_data
from genre_tf.benchmarks.measuring import BenchOptions, Row, compare, rate_of
from genre_tf.benchmarks.torch_bert import TorchBert
from genre_tf.config import OptimizerConfig
from genre_tf.data.mind import read_news, split_files
from genre_tf.errors import FailureError, InputError
from genre_tf.models.article_features import FrozenText
from genre_tf.training.learner import Learner
from genre_tf.training.optimizers import make_optimizer

UNIT = "titles per second"  # each padded to 32 tokens, or repeated up to 32 (`full`); `titles` is not padded
PEER = "torch"
MAX_TOKENS = 32
_BATCH = 64
_TITLES = 1024  # a few seconds of work for each side
_DROPOUT = 0.1  # as in the checkpoint's training, and the package's default
_TOLERANCE = 1e-4
_TOLERANCE_BFLOAT16 = 0.1  # states are between -3 and 3, and bfloat16 has 8 bits
_LEARNING_RATE = 1e-5

Array = npt.NDArray[Any]


def bench(options: BenchOptions) -> list[Row]:
    """Compare the forward pass, the training step, and the encoding of titles.

    Raises:
        InputError: a peer is not installed, the backbone does not exist, or there are too few titles.
        FailureError: the results of the two sides differ.
    """
    bert = load_bert(options.news_backbone, dropout=_DROPOUT)
    if bert.folder is None:
        raise InputError(
            f"{options.news_backbone} is not a Hugging Face folder, so PyTorch cannot read it: "
            "choose another --news-backbone"
        )
    peer = TorchBert(bert.folder, _DROPOUT)
    with bench_data(options) as data:
        titles = _titles(data)[: 64 if options.quick else _TITLES]
    lower, _ = split_layers(bert.backbone, parse_trainable("none"), bert.tokenizer.pad_id)
    assert lower is not None
    padded = _padded(bert, titles)
    full = _padded(bert, [f"{title} " * MAX_TOKENS for title in titles])
    return [
        *_forward("forward", lower, padded, bert.tokenizer.pad_id, peer, options),
        *_forward("forward, full", lower, full, bert.tokenizer.pad_id, peer, options),
        *_titles_as_they_come(FrozenText(bert, lower, MAX_TOKENS), titles, peer, options),
        *_train_step("train step", bert, padded, peer, options),  # last, since it changes the weights
        *_train_step("train step, full", bert, full, peer, options),
    ]


def _titles(data: Path) -> list[str]:
    news, _ = split_files(data, "train")
    titles = [article.title for article in read_news(news).values() if article.title]
    if len(titles) < _BATCH:
        raise InputError(
            f"{data} has {len(titles)} titles, but a batch needs {_BATCH}: choose a larger data set"
        )
    return titles


def _padded(bert: Bert, titles: list[str]) -> Array:
    """Token ids of the first titles, padded to `MAX_TOKENS`: int32 [64, 32]."""
    ids = bert.tokenizer(tf.constant(titles[:_BATCH]), MAX_TOKENS).numpy()
    width = MAX_TOKENS - ids.shape[1]
    return np.pad(ids, ((0, 0), (0, width)), constant_values=bert.tokenizer.pad_id)


def _forward(
    case: str, lower: EncoderLayers, token_ids: Array, pad_id: int, peer: TorchBert, options: BenchOptions
) -> list[Row]:
    compiled = tf.function(lower, input_signature=[tf.TensorSpec([None, None], tf.int32)])
    given, mask = tf.constant(token_ids), token_ids != pad_id
    _require_equal(case, compiled(given).numpy()[mask], peer.states(token_ids, mask)[mask])
    return compare(
        case,
        UNIT,
        rate_of(lambda: compiled(given).numpy(), _BATCH, options),
        {PEER: rate_of(lambda: peer.states(token_ids, mask), _BATCH, options)},
        options,
    )


def _titles_as_they_come(
    frozen: FrozenText, titles: list[str], peer: TorchBert, options: BenchOptions
) -> list[Row]:
    """From strings to the states of all tokens; each side tokenizes and batches in its own way.

    Where the package computes them in bfloat16, PyTorch does it too, as a second peer.
    """
    encoder, bfloat16 = frozen.states, frozen.rounds
    ours, theirs = encoder(titles), peer.encode(titles, _BATCH, MAX_TOKENS)
    rows = np.arange(min(_BATCH, len(titles)))
    states, mask = ours.gather(rows)
    # The package keeps states as float16, so the peer's states are rounded too.
    expected = theirs[0][:, : states.shape[1]][mask].astype(np.float16).astype(np.float32)
    tolerance = _TOLERANCE_BFLOAT16 if bfloat16 else _TOLERANCE
    _require_equal("titles", states[mask].astype(np.float32), expected, tolerance, rounding=2**-10)
    peers = {PEER: rate_of(lambda: peer.encode(titles, _BATCH, MAX_TOKENS), len(titles), options)}
    if bfloat16:
        peers[f"{PEER} bfloat16"] = rate_of(
            lambda: peer.encode(titles, _BATCH, MAX_TOKENS, bfloat16=True), len(titles), options
        )
    return compare(
        "titles",
        UNIT,
        rate_of(lambda: encoder(titles), len(titles), options),
        peers,
        options,
        warm=False,  # both have just run
    )


class PooledTrainer(Learner):
    """Trains mean-pooled states towards target vectors (squared distance) with the package's step."""

    def loss_of(self, batch: dict[str, tf.Tensor], training: bool) -> tf.Tensor:
        """Mean loss of a batch, float32 []."""
        states = self.model(batch["token_ids"], mask=batch["mask"], training=training)
        share = tf.cast(batch["mask"], tf.float32)
        share /= tf.reduce_sum(share, 1, keepdims=True)
        return tf.reduce_mean((tf.einsum("nt,nth->nh", share, states) - batch["target"]) ** 2)


def _train_step(case: str, bert: Bert, token_ids: Array, peer: TorchBert, options: BenchOptions) -> list[Row]:
    mask = token_ids != bert.tokenizer.pad_id
    target = np.random.default_rng(0).normal(0.0, 0.05, (_BATCH, bert.backbone.hidden_dim))
    batch = {"token_ids": token_ids, "mask": mask, "target": target.astype(np.float32)}
    _, upper = split_layers(bert.backbone, parse_trainable("all"), bert.tokenizer.pad_id)
    return compare(
        case,
        UNIT,
        rate_of(_trainer(upper, batch), _BATCH, options),
        {PEER: rate_of(peer.trainer(token_ids, mask, batch["target"], _LEARNING_RATE), _BATCH, options)},
        options,
    )


def _trainer(upper: EncoderLayers, batch: dict[str, Array]) -> Callable[[], float]:
    """A function that does one step as training does it, and returns the loss."""
    settings = OptimizerConfig(learning_rate=_LEARNING_RATE, decay="none", clip_norm=0.0)
    trainer = PooledTrainer(upper)
    trainer.prepare(make_optimizer(settings, 1000, upper.trainable_weights), jit_compile=False)
    # `from_tensors` would fix the shape of the batch, which training does only on TPUs.
    given = tf.data.Dataset.from_tensor_slices(batch).batch(_BATCH).cache().repeat()
    batches: Iterator[Any] = iter(given)

    def step() -> float:
        return trainer.run(batches, 1)[0][0]

    return step


def _require_equal(
    case: str, ours: Array, theirs: Array, tolerance: float = _TOLERANCE, rounding: float = 0.0
) -> None:
    """Raise FailureError if values differ by more than the tolerance plus `rounding` times the value."""
    excess = np.abs(ours - theirs) - rounding * np.abs(theirs)
    if not float(excess.max()) <= tolerance:
        raise FailureError(
            f"{case}: the two sides differ by {np.abs(ours - theirs).max():.2g}, "
            "so the speeds cannot be compared"
        )

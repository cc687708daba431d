"""States below the trained layers: kept once, used again, and nothing changes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from genre_tf.backbones.language_models import GPT2, LLAMA, tiny_byte_pair
from genre_tf.data.articles import Article, ArticleTable
from genre_tf.data.learning_texts import NO_HISTORY, TextExample
from genre_tf.generation.prompt_form import CONTROL_TOKENS
from genre_tf.losses.tokens import mean_token_loss, token_losses
from genre_tf.models.frozen_rows import FrozenRows, frozen_rows
from genre_tf.models.text_rows import TextBatching, TextRows
from genre_tf.models.writer import Writer

SIZES = {"layers": 3, "heads": 4, "hidden": 16, "max_tokens": 64}
BATCHING = TextBatching(tokens=240, drop_reader=0.5, context_weight=0.5)
TABLE = ArticleTable(Article(f"N{n}", "", "", f"Cup {n * 7}", "") for n in range(6))


@pytest.fixture(scope="module", params=[GPT2, LLAMA], ids=lambda family: family.name)
def writer(request: Any) -> Writer:
    more = {"key_heads": 2, "intermediate": 32} if request.param is LLAMA else {}
    model = request.param.new(tiny_byte_pair(CONTROL_TOKENS), dropout=0.0, **SIZES, **more)
    built = Writer(model, trained_layers="lora 2 last 1")
    random = np.random.default_rng(1)
    for weight in built.weights:
        if "int" not in weight.dtype:
            weight.assign(weight + random.normal(0, 0.2, weight.shape))
    return built


@pytest.fixture(scope="module")
def rows(writer: Writer) -> TextRows:
    histories = [NO_HISTORY, np.array([1, 2], np.int32), np.array([4], np.int32)]
    texts = [
        TextExample("title", histories[n % 3], "It snows." * (n % 2), f"Snow {'o' * n}", 1) for n in range(12)
    ]
    return TextRows(texts, TABLE, writer.prompts)


def kept(writer: Writer, rows: TextRows, batches: int, cache: Path | None = None) -> FrozenRows:
    forms = rows.forms(BATCHING, 5, batches)
    return frozen_rows(writer, forms, rows.token_ids(forms), cache)


def losses(writer: Writer, batches: Any) -> list[float]:
    return [float(mean_token_loss(token_losses(writer, batch, True))) for batch in batches]


def test_losses_and_gradients_are_the_same_with_and_without_kept_states(
    writer: Writer, rows: TextRows
) -> None:
    count = 2 * rows.mean_batches(BATCHING)  # rows lose and get back their readers
    frozen = kept(writer, rows, count)
    options: dict[str, Any] = {"seed": 5, "epochs": None}
    plain = list(rows.batches(BATCHING, **options).take(count))
    given = list(rows.batches(BATCHING, frozen=frozen, **options).take(count))
    assert len(frozen.forms) > len(rows) and "frozen_states" not in plain[0]
    np.testing.assert_allclose(losses(writer, plain), losses(writer, given), rtol=2e-3)
    both = []
    for batch in (plain[0], given[0]):
        with tf.GradientTape() as tape:
            loss = mean_token_loss(token_losses(writer, batch, True))
        both.append(tape.gradient(loss, writer.trainable_weights))
    for ours, theirs in zip(*both, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-3 * float(tf.linalg.global_norm(both[0])))
    (later,) = rows.batches(BATCHING, frozen=frozen, start=2, **options).take(1)
    np.testing.assert_array_equal(later["frozen_states"], given[2]["frozen_states"])


def test_states_are_read_from_the_cache_until_a_frozen_weight_changes(
    writer: Writer, rows: TextRows, tmp_path: Path
) -> None:
    first = kept(writer, rows, 4, tmp_path)
    for weight in writer.trainable_weights:
        weight.assign(1.1 * weight)
    again = kept(writer, rows, 4, tmp_path)
    assert len(list(tmp_path.glob("*/offsets.npy"))) == 1
    np.testing.assert_array_equal(first.states.values, again.states.values)
    table = writer.backbone.token_embedding.embeddings
    table.assign(1.1 * table)
    assert not np.array_equal(kept(writer, rows, 4, tmp_path).states.values, first.states.values)
    assert len(list(tmp_path.glob("*/offsets.npy"))) == 2
    table.assign(table / 1.1)

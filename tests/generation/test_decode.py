"""The decode loop against `transformers`, against the whole model, and against itself in other company."""

from collections.abc import Callable
from typing import Any

import keras_hub
import numpy as np
import pytest
import tensorflow as tf

from genre_tf.generation.cached_gpt2 import CachedGpt2
from genre_tf.generation.constraints import Constraints
from genre_tf.generation.decode import Decoded, DecodeOptions, decode
from genre_tf.generation.sampling import Sample

VOCABULARY, POSITIONS, END = 61, 64, 0
SIZES = {"num_layers": 2, "num_heads": 2, "hidden_dim": 16, "intermediate_dim": 64}


@pytest.fixture(scope="module")
def backbone() -> Any:
    model = keras_hub.models.GPT2Backbone(VOCABULARY, max_sequence_length=POSITIONS, **SIZES)
    random = np.random.default_rng(3)
    for variable in model.trainable_variables:  # far enough from zero for texts that differ
        variable.assign(variable + random.normal(0, 0.25, variable.shape))
    return model


@pytest.fixture(scope="module")
def write(backbone: Any) -> Callable[..., Decoded]:
    model = CachedGpt2(backbone)

    def run(
        prompts: list[list[int]], seeds: list[int] | None = None, width: int = 0, **options: Any
    ) -> Decoded:
        width = max(width, *map(len, prompts))
        token_ids = tf.constant([[7] * (width - len(row)) + row for row in prompts])
        mask = tf.constant([[False] * (width - len(row)) + [True] * len(row) for row in prompts])
        limits = options.pop("limits", None)
        forbidden = options.pop("forbidden", None)
        return tf.function(decode)(
            model,
            model.embed(token_ids),
            mask,
            seeds=tf.constant(seeds or [0] * len(prompts), tf.int64),
            options=DecodeOptions(**({"end_id": END, "max_tokens": 20} | options)),
            limits=limits,
            forbidden=forbidden,
        )

    return run


PROMPTS = [[5, 9, 3, 22, 8, 41, 2, 60], [4, 4, 17], [33]]


def test_greedy_equals_transformers(backbone: Any, write: Callable[..., Decoded]) -> None:
    torch = pytest.importorskip("torch")
    reference = as_transformers(backbone)
    texts = write(PROMPTS, constraints=Constraints(min_tokens=0)).ids.numpy()[:, 0]
    for prompt, ours in zip(PROMPTS, texts, strict=True):
        ids = torch.tensor([prompt])
        settings = {"do_sample": False, "eos_token_id": END, "pad_token_id": END, "max_new_tokens": 20}
        theirs = reference.generate(ids, attention_mask=torch.ones_like(ids), **settings)[0, len(prompt) :]
        assert ours[ours >= 0].tolist() == theirs.tolist()


def test_log_probability_is_that_of_the_whole_model(backbone: Any, write: Callable[..., Decoded]) -> None:
    sharp = Sample(temperature=0.3, top_k=5)  # must not show in the log probability
    decoded = write(PROMPTS, samples=2, strategy=sharp, constraints=Constraints(no_repeat_ngram=2))
    for row, prompt in enumerate(PROMPTS):
        for sample in range(2):
            text = [token for token in decoded.ids[row, sample].numpy().tolist() if token >= 0]
            ids = tf.constant([prompt + text])
            states = backbone({"token_ids": ids, "padding_mask": tf.ones_like(ids)})
            scores = tf.nn.log_softmax(backbone.token_embedding(states, reverse=True))[
                0, len(prompt) - 1 : -1
            ]
            expected = tf.reduce_mean(tf.gather(scores, text, batch_dims=1))
            np.testing.assert_allclose(decoded.log_probability[row, sample], expected, atol=1e-5)


def test_padding_and_company_do_not_change_a_row(write: Callable[..., Decoded]) -> None:
    options = {"samples": 3, "strategy": Sample(top_k=10)}
    together = write(PROMPTS, [11, 12, 13], width=14, **options)
    for row, prompt in enumerate(PROMPTS):
        alone = write([prompt], [11 + row], **options)
        longest = alone.ids.shape[2]
        np.testing.assert_array_equal(together.ids[row, :, :longest], alone.ids[0])
        assert np.all(together.ids[row, :, longest:].numpy() == -1)
        np.testing.assert_allclose(together.log_probability[row], alone.log_probability[0], atol=1e-5)


def test_samples_and_seeds_differ(write: Callable[..., Decoded]) -> None:
    strategy = Sample(temperature=1.0, top_k=0, top_p=1.0)
    ids = write([PROMPTS[0]] * 2, [1, 2], samples=3, strategy=strategy, max_tokens=12).ids.numpy()
    assert len({tuple(text) for row in ids for text in row}) == 6


def test_rows_stop_at_their_own_limit_and_the_loop_with_the_last(write: Callable[..., Decoded]) -> None:
    never_ends = tf.constant([[END]] * 3)
    decoded = write(PROMPTS, limits=tf.constant([2, 5, 3]), forbidden=never_ends)
    assert (decoded.ids.numpy()[:, 0] >= 0).sum(axis=1).tolist() == [2, 5, 3]
    assert decoded.ids.shape[2] == 5


def test_forbidden_ids_never_come(write: Callable[..., Decoded]) -> None:
    forbidden = tf.constant([list(range(55))] * 3)
    strategy = Sample(temperature=5.0, top_k=0, top_p=1.0)
    ids = write(PROMPTS, samples=4, strategy=strategy, forbidden=forbidden).ids.numpy()
    assert ids.min() >= 55


def test_refresh_takes_over_what_the_backbone_learned(backbone: Any) -> None:
    model = CachedGpt2(backbone)
    mask = tf.ones([1, 3], tf.bool)

    def logits() -> np.ndarray:
        return model.prefill(model.embed(tf.constant([[1, 2, 3]])), mask)[0].numpy()

    variable = backbone.transformer_layers[0]._self_attention_layer._query_dense.kernel
    before, kept = logits(), tf.identity(variable)
    variable.assign(variable + 1.0)
    np.testing.assert_array_equal(logits(), before)
    model.refresh()
    assert np.abs(logits() - before).max() > 1e-3
    variable.assign(kept)


def as_transformers(backbone: Any) -> Any:
    """The same weights as a `transformers` model."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    hidden, layers = backbone.hidden_dim, backbone.num_layers
    config = GPT2Config(vocab_size=VOCABULARY, n_positions=POSITIONS, n_embd=hidden, n_layer=layers, n_head=2,
                        bos_token_id=END, eos_token_id=END)  # fmt: skip
    model = GPT2LMHeadModel(config).eval()
    state = {
        "wte.weight": backbone.token_embedding.embeddings,
        "wpe.weight": backbone.position_embedding.position_embeddings,
        "ln_f.weight": backbone.layer_norm.gamma,
        "ln_f.bias": backbone.layer_norm.beta,
    }
    for index, layer in enumerate(backbone.transformer_layers):
        attention = layer._self_attention_layer
        parts = (attention._query_dense, attention._key_dense, attention._value_dense)
        kernels = [np.reshape(part.kernel.numpy(), (hidden, hidden)) for part in parts]
        weights = {
            "ln_1": (layer._self_attention_layer_norm.gamma, layer._self_attention_layer_norm.beta),
            "attn.c_attn": (
                np.concatenate(kernels, 1),
                np.concatenate([np.reshape(x.bias.numpy(), -1) for x in parts]),
            ),
            "attn.c_proj": (
                np.reshape(attention._output_dense.kernel.numpy(), (hidden, hidden)),
                attention._output_dense.bias,
            ),
            "ln_2": (layer._feedforward_layer_norm.gamma, layer._feedforward_layer_norm.beta),
            "mlp.c_fc": _weights(layer._feedforward_intermediate_dense),
            "mlp.c_proj": _weights(layer._feedforward_output_dense),
        }
        for name, (weight, bias) in weights.items():
            state |= {f"h.{index}.{name}.weight": weight, f"h.{index}.{name}.bias": bias}
    tensors = {name: torch.tensor(np.array(tf.convert_to_tensor(value))) for name, value in state.items()}
    model.transformer.load_state_dict(tensors)
    return model


def _weights(dense: Any) -> tuple[Any, Any]:
    return dense.kernel, dense.bias

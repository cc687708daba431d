"""A GPT-2 whose greedy text copies its prompt, as a title copies names and numbers of its article.

This needs no trained weights: the first layer attends by position to the token one prompt length back and
adds it. All other layers keep their random weights, so every matrix product has its full size.
"""

from typing import Any

import numpy as np

from genre_tf.backbones.checkpoints import Weight
from genre_tf.backbones.language_models import GPT2

OWN_TOKEN_EVERY = 16  # positions from one token that is not copied to the next
_SHARPNESS = 5.0  # scale of the attention scores: the copied token gets nearly all of the attention
_GAIN = 8.0  # weight of the copied token relative to the current one
_OWN = 100.0  # weight of a token that is not copied, far above all other terms


def make_copying(backbone: Any, distance: int, seed: int = 0) -> None:
    """Change the weights of a random GPT-2 so that it repeats the token `distance` tokens back.

    Args:
        backbone: a `keras_hub.models.GPT2Backbone`.
        distance: length of the prompts in tokens.
        seed: seed of the position codes and of the tokens that are not copied.
    """
    random = np.random.default_rng(seed)
    weights = {weight.name: weight for weight in GPT2.weights(backbone)}
    depth = backbone.hidden_dim // backbone.num_heads
    frequency = random.uniform(0.0, np.pi, depth // 2)
    angle = np.arange(backbone.max_sequence_length)[:, None] * frequency
    tokens, positions = weights["wte.weight"].write(), np.zeros_like(weights["wpe.weight"].write())
    tokens[:, :depth] = 0.0  # the first dimensions hold the position
    positions[:, :depth] = 0.02 * np.sqrt(2) * np.concatenate([np.cos(angle), np.sin(angle)], axis=1)
    own = np.arange(distance - 1 + OWN_TOKEN_EVERY, len(positions), OWN_TOKEN_EVERY)
    positions[own] += _OWN * tokens[random.integers(0, len(tokens) - 1, len(own))]
    _set(weights["wte.weight"], tokens)
    _set(weights["wpe.weight"], positions)
    _set(weights["h.0.attn.c_attn.weight"], _look_back(backbone, frequency * (distance - 1)))
    _set(weights["h.0.attn.c_proj.weight"], _GAIN * np.eye(backbone.hidden_dim))


def _look_back(backbone: Any, turn: Any) -> Any:
    """Kernel of query, key and value, [hidden, 3 * hidden]: attention by position, values copied as is."""
    hidden, heads = backbone.hidden_dim, backbone.num_heads
    depth = hidden // heads
    cosine, sine = np.diag(np.cos(turn)), np.diag(np.sin(turn))
    rotation = np.block([[cosine, -sine], [sine, cosine]])  # [cos, sin] @ rotation turns by -turn
    query, key = np.zeros((2, hidden, hidden))
    for head in range(heads):
        query[:depth, head * depth : (head + 1) * depth] = _SHARPNESS * rotation
        key[:depth, head * depth : (head + 1) * depth] = np.eye(depth)
    return np.concatenate([query, key, np.eye(hidden)], axis=1)


def _set(weight: Weight, values: Any) -> None:
    weight.read(np.asarray(values, np.float32))

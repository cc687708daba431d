"""Number of trained parameters for each way to train a backbone."""

from collections.abc import Sequence

import keras_hub

from genre_tf.backbones.trainable import Trainable, check_fits, parse_trainable

COMMON = ("none", "last 1", "last 2", "all", "lora 8", "lora 8 last 2", "adapters 16", "prefix 8")


def trained_parameters(backbone: keras_hub.models.BertBackbone, trainable: Trainable) -> int:
    """Number of trained parameters in the backbone or added to it.

    Args:
        backbone: the complete backbone; it is not changed.
        trainable: what to train.

    Raises:
        InputError: `trainable` does not fit the backbone.
    """
    layers = backbone.transformer_layers
    hidden, heads, size = backbone.hidden_dim, backbone.num_heads, trainable.size
    check_fits(trainable, len(layers), hidden, backbone.max_sequence_length)
    per_layer = {
        "layers": layers[0].count_params(),
        "lora": 2 * size * 2 * hidden,  # for query and value: down and up
        "adapters": 2 * (2 * hidden * size + size + hidden) + 4 * hidden,  # with biases; plus two norms
        "prefix": 2 * size * hidden + heads,  # keys and values, plus gates
    }[trainable.method]
    if trainable.last is not None:
        return per_layer * trainable.last
    embeddings = ("token_embedding", "position_embedding", "segment_embedding", "embeddings_layer_norm")
    below = sum(backbone.get_layer(name).count_params() for name in embeddings)
    return per_layer * len(layers) + below * (trainable.method == "layers")


def trained_parameter_counts(
    backbone: keras_hub.models.BertBackbone, modes: Sequence[str] = COMMON
) -> dict[str, int]:
    """Numbers of trained parameters by mode, to choose a mode.

    Args:
        backbone: the complete backbone; it is not changed.
        modes: in the form of `parse_trainable`; all must fit the backbone.

    Raises:
        InputError: a mode is invalid or does not fit the backbone.
    """
    return {mode: trained_parameters(backbone, parse_trainable(mode)) for mode in modes}

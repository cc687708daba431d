"""How many values each way of training a backbone trains."""

from collections.abc import Sequence

import keras_hub

from genre_tf.backbones.trainable import Trainable, check_fits, parse_trainable

COMMON = ("none", "last 1", "last 2", "all", "lora 8", "lora 8 last 2", "adapters 16", "prefix 8")


def trained_parameters(backbone: keras_hub.models.BertBackbone, trainable: Trainable) -> int:
    """Number of values of the backbone, or added to it, that are trained.

    Args:
        backbone: the whole; it is not changed.
        trainable: what of it is trained.

    Raises:
        InputError: when it does not fit the backbone.
    """
    layers = backbone.transformer_layers
    hidden, heads, size = backbone.hidden_dim, backbone.num_heads, trainable.size
    check_fits(trainable, len(layers), hidden, backbone.max_sequence_length)
    per_layer = {
        "layers": layers[0].count_params(),
        "lora": 2 * size * 2 * hidden,  # query and value; down and up
        "adapters": 2 * (2 * hidden * size + size + hidden) + 4 * hidden,  # with biases; and two norms
        "prefix": 2 * size * hidden + heads,  # keys and values; gates
    }[trainable.method]
    if trainable.last is not None:
        return per_layer * trainable.last
    embeddings = ("token_embedding", "position_embedding", "segment_embedding", "embeddings_layer_norm")
    below = sum(backbone.get_layer(name).count_params() for name in embeddings)
    return per_layer * len(layers) + below * (trainable.method == "layers")


def trained_parameter_counts(
    backbone: keras_hub.models.BertBackbone, modes: Sequence[str] = COMMON
) -> dict[str, int]:
    """Trained values by mode, for a choice among them.

    Args:
        backbone: the whole; it is not changed.
        modes: as `parse_trainable` reads them; all must fit the backbone.

    Raises:
        InputError: a mode that is none, or does not fit the backbone.
    """
    return {mode: trained_parameters(backbone, parse_trainable(mode)) for mode in modes}

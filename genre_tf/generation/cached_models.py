"""The cached decoder of a language model of any family."""

from typing import Any

from genre_tf.backbones.gpt2_layers import Gpt2Layers
from genre_tf.generation.cached_decoder import CachedDecoder
from genre_tf.generation.cached_gpt2 import CachedGpt2


def cached_decoder_of(language_model: Any) -> CachedDecoder:
    """A language model's current weights in decoding layout, with all trained additions merged in.

    Args:
        language_model: from `backbones.language_models.layers_of`.
    """
    if isinstance(language_model, Gpt2Layers):
        with language_model.merged() as backbone:
            return CachedGpt2(backbone)
    from genre_tf.generation.cached_llama import CachedLlama

    llama: CachedDecoder = CachedLlama(language_model)
    return llama


def refresh_decoder(decoder: CachedDecoder, language_model: Any) -> None:
    """Update a decoder to the current weights of its language model."""
    if isinstance(language_model, Gpt2Layers):
        with language_model.merged():
            decoder.refresh()
    else:
        decoder.refresh()

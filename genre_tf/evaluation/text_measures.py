"""What tells a text worth reading from noise: fluency under an unadapted language model, and the topic."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from genre_tf.backbones.language_models import END_OF_TEXT, LanguageModel, load_language_model
from genre_tf.backbones.layers import LanguageLayers
from genre_tf.models.news_encoder import NewsEncoder

_BATCH_TEXTS = 32
_LEAST_PAIRS, _MOST_PAIRS = 20, 400  # the quantile of 400 cosines is known to about 0.02
_MOST_TOKENS = 256  # enough for every kind of text
Floats = npt.NDArray[np.float64]


class Fluency:
    """Mean log probability per token of texts, in nats, under a language model that was not adapted.

    A text is read alone, behind the model's end-of-text token, so that only its language counts. Compare it
    with the values of real titles under the same model; those of another model have another level.

    Args:
        model: the language model as it was published; `of` loads one by name.

    Example:
        >>> from genre_tf.evaluation.text_measures import Fluency
        >>> Fluency.of("tiny")(["Snow closes schools", "Snow closes schools", ""]).shape
        (3,)
    """

    def __init__(self, model: LanguageModel) -> None:
        tokenizer, layers = model.tokenizer, LanguageLayers(model.backbone)
        start = tokenizer.token_id(END_OF_TEXT)
        most = min(_MOST_TOKENS, layers.max_positions) - 1

        def of_batch(texts: Any) -> Any:
            """string [N] -> float32 [N]."""
            ids = tokenizer.encode(texts)[:, :most]
            labels = ids.to_tensor()  # [N, time]
            read = tf.pad(labels, [[0, 0], [1, 0]], constant_values=start)[:, :-1]
            logits = layers.logits(layers.states(layers.embed(read)))  # [N, time, vocabulary]
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
            real = tf.sequence_mask(ids.row_lengths(), tf.shape(labels)[1], tf.float32)
            return -tf.math.divide_no_nan(tf.reduce_sum(losses * real, 1), tf.reduce_sum(real, 1))

        self._of_batch = tf.function(
            of_batch, input_signature=[tf.TensorSpec([None], tf.string)], autograph=False
        )

    @classmethod
    def of(cls, backbone: str) -> "Fluency":
        """By a language model of any name that `generation.backbone` may have.

        Raises:
            InputError: there is no such model.
        """
        return cls(load_language_model(backbone))

    def __call__(self, texts: Sequence[str]) -> Floats:
        """float64 [N], in the order of the texts; 0 for a text without tokens, which is no text."""
        found = np.zeros(len(texts))
        order = sorted(range(len(texts)), key=lambda at: len(texts[at]))  # little padding
        for places in _batches(order):
            found[places] = self._of_batch(tf.constant([texts[at] for at in places])).numpy()
        return found


def topic(encoder: NewsEncoder, texts: Sequence[str], sources: Sequence[str]) -> Floats:
    """How close each text is to the topic of its source: the cosine of their text vectors, float64 [N].

    The encoder is that of the run's ranker, as in the servable. It reads the beginning of a source. An empty
    text or source gives 0.
    """
    if len(texts) != len(sources):
        raise ValueError(f"{len(texts)} texts but {len(sources)} sources; give one for each")
    ours, theirs = (
        np.asarray(encoder.topic_part(encoder.encode(list(each))), np.float64) for each in (texts, sources)
    )
    lengths = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    cosines: Floats = np.sum(ours * theirs, axis=1) / np.maximum(lengths, 1e-12)
    return cosines


def topic_floor(
    encoder: NewsEncoder, titles: Sequence[str], sources: Sequence[str], share: float, seed: int = 0
) -> float:
    """The closeness to its source that a text needs: a `share` of real titles is farther from their sources.

    Measured on at most 400 articles that have both; -1, which every text reaches, if fewer than 20 have.
    """
    both = zip(titles, sources, strict=True)
    pairs = [(title, source) for title, source in both if title.strip() and source.strip()]
    if len(pairs) < _LEAST_PAIRS or not share:
        return -1.0
    chosen = np.random.default_rng(seed).permutation(len(pairs))[:_MOST_PAIRS]
    cosines = topic(encoder, *zip(*(pairs[at] for at in chosen), strict=True))
    return float(np.quantile(cosines, share))


def _batches(rows: Sequence[int]) -> Iterator[list[int]]:
    for start in range(0, len(rows), _BATCH_TEXTS):
        yield list(rows[start : start + _BATCH_TEXTS])

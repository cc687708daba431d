"""A corpus as pretraining batches; a new model gets a head start from corpus statistics."""

import dataclasses
from collections.abc import Sequence

from genre_tf.config import OptimizerConfig, RunConfig
from genre_tf.training.embedding_start import start_embeddings
from genre_tf.training.language_modelling import LanguageModel, LanguageTrainer
from genre_tf.training.ngram_targets import LONGEST_CORPUS, SmoothedNgrams
from genre_tf.training.packed_batches import PackedBatches, TokenTexts


def packed_corpus(
    language_model: LanguageModel,
    trainer: LanguageTrainer,
    corpus: Sequence[str],
    config: RunConfig,
    optimizer: OptimizerConfig,
    jit_compile: bool,
) -> PackedBatches:
    """Batches to train on.

    The token embeddings of a new model start from which tokens occur near each other. A new causal model
    whose corpus fits into memory also learns from n-grams; their share of the targets falls from all to the
    configured final value.

    Args:
        language_model: the model before training.
        trainer: its trainer, which receives the n-grams.
        corpus: training texts.
        config: its `pretrain` section, and the seed.
        optimizer: gives the rows per batch and the number of batches.
        jit_compile: leave out n-grams, because their number varies from batch to batch.
    """
    texts, settings, width = language_model.tokenize(corpus), config.pretrain, language_model.width
    if language_model.name is not None:
        return PackedBatches(texts, width, optimizer.batch_size, config.seed)
    table = language_model.model.backbone.token_embedding.embeddings
    vocabulary, hidden = table.shape
    if settings.start_embeddings:
        table.assign(start_embeddings(texts.inputs, vocabulary, hidden, config.seed))
    if not jit_compile:
        texts, trainer.ngrams = _with_ngrams(texts, vocabulary, settings.smoothing_tokens)
    packed = PackedBatches(texts, width, optimizer.batch_size, config.seed)
    batches = optimizer.steps_of(packed.in_epoch) * optimizer.accumulate
    fall = 1.0 - settings.smoothing_end
    packed.smoothing = lambda number: 1.0 - fall * min(1.0, number / batches)
    return packed


def _with_ngrams(
    texts: TokenTexts, vocabulary: int, longest: int
) -> tuple[TokenTexts, SmoothedNgrams | None]:
    if texts.labels is None or longest < 2 or texts.lengths.sum() > LONGEST_CORPUS:
        return texts, None
    ngrams = SmoothedNgrams(texts.inputs, texts.labels, vocabulary, longest)
    return dataclasses.replace(texts, contexts=ngrams.contexts), ngrams

"""A WordPiece vocabulary learned from a corpus, for languages that no checkpoint at hand knows."""

from collections.abc import Iterable

from genre_tf.errors import InputError
from genre_tf.text.wordpiece import WordPiece

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def learn_wordpiece(texts: Iterable[str], vocabulary_size: int, lowercase: bool = True) -> WordPiece:
    """Learn BERT's kind of vocabulary; the same one for the same texts.

    Chinese characters, each a word to BERT, are tokens by themselves; of other scripts frequent words and
    pieces are. The rarest characters are unknown where there is no room for all.

    Args:
        texts: the corpus.
        vocabulary_size: most tokens there may be, the special ones counted in.
        lowercase: make an "uncased" vocabulary, without accents.

    Returns:
        The tokenizer.

    Raises:
        InputError: the size leaves no room for letters.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    if vocabulary_size < 100:
        raise InputError(
            f"a WordPiece vocabulary of {vocabulary_size} tokens has no room for letters: give 100 or more"
        )
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))  # noqa: S106
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocabulary_size,
        special_tokens=list(SPECIAL_TOKENS),
        # A letter costs two tokens, at the beginning of a word and within: a quarter stays for whole words.
        limit_alphabet=max(26, vocabulary_size * 3 // 4),
        show_progress=False,
    )
    tokenizer.train_from_iterator(list(texts), trainer)
    ids = tokenizer.get_vocab()
    return WordPiece(sorted(ids, key=ids.__getitem__)[:vocabulary_size], lowercase)

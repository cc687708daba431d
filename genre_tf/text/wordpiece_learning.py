"""A WordPiece vocabulary learned from a corpus, for languages that no available checkpoint covers."""

from collections import Counter
from collections.abc import Iterable

from genre_tf.errors import InputError
from genre_tf.text.wordpiece import WordPiece

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_LETTERS_SHARE = 0.75  # maximum share of the vocabulary; the rest is for words


def learn_wordpiece(texts: Iterable[str], vocabulary_size: int, lowercase: bool = True) -> WordPiece:
    """Learn a vocabulary of BERT's kind; equal texts give equal vocabularies.

    Chinese characters, which are words to BERT, become single tokens; in other scripts frequent words and
    pieces become tokens. The rarest characters are unknown if there is no room for all of them.

    Args:
        texts: the corpus.
        vocabulary_size: maximum number of tokens, including special tokens.
        lowercase: make an "uncased" vocabulary, without accents.

    Returns:
        The tokenizer.

    Raises:
        InputError: the size leaves no room for letters.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    if vocabulary_size < 100:
        raise InputError(
            f"a WordPiece vocabulary of {vocabulary_size} tokens has no room for letters; give at least 100"
        )
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))  # noqa: S106
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    corpus = list(texts)
    words: Counter[str] = Counter()
    for text in corpus:
        clean = tokenizer.normalizer.normalize_str(text)
        words.update(word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(clean))
    letters, continuing = _letters(words, int(vocabulary_size * _LETTERS_SHARE))
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocabulary_size,
        # The library numbers letters within words in the order of its hash table, and breaks ties by number.
        special_tokens=[*SPECIAL_TOKENS, *(f"##{letter}" for letter in continuing)],
        initial_alphabet=letters,
        limit_alphabet=len(letters),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    ids = tokenizer.get_vocab()
    return WordPiece(sorted(ids, key=ids.__getitem__), lowercase)


def _letters(words: Counter[str], most: int) -> tuple[list[str], list[str]]:
    """The most frequent characters, and those of them inside words; together at most this many tokens."""
    counts: Counter[str] = Counter()
    within: set[str] = set()
    for word, count in words.items():
        within.update(word[1:])
        for letter in word:
            counts[letter] += count
    kept: list[str] = []
    room = most
    for letter in sorted(counts, key=lambda each: (-counts[each], each)):
        room -= 2 if letter in within else 1
        if room < 0:
            break
        kept.append(letter)
    return sorted(kept), sorted(within.intersection(kept))

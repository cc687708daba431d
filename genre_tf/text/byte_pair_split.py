"""GPT-2's way to split text into words, as arithmetic over code points.

The pattern is `'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+`, in
Radford et al. 2019. TensorFlow's regular expressions have no lookahead, so this module computes where each
word begins.
"""

import functools

import numpy as np
import tensorflow as tf

OTHER, LETTER, NUMBER, SPACE = 0, 1, 2, 3
# No letter, number or space has a code point above this one.
TABLE_SIZE = 0x32400
_NOTHING = -1  # stands for a code point before the first and after the last


@functools.cache
def character_classes() -> np.ndarray:
    """Letter, number, space or other, for each code point below `TABLE_SIZE`: int8 [TABLE_SIZE].

    As the reference tokenizer sees them: Python's tables are those of another version of Unicode.
    """
    from tokenizers import Regex, pre_tokenizers

    classes = np.zeros(TABLE_SIZE, np.int8)
    codes = np.array([*range(0xD800), *range(0xE000, TABLE_SIZE)], "<u4")  # all but surrogates
    for kind, pattern in ((LETTER, r"\p{L}+"), (NUMBER, r"\p{N}+"), (SPACE, r"\s+")):
        matches = pre_tokenizers.Split(Regex(pattern), "removed", invert=True)
        for part in np.array_split(codes, 50):  # a long text takes several times as long
            for _, (begin, end) in matches.pre_tokenize_str(part.tobytes().decode("utf-32-le")):
                classes[part[begin:end]] = kind
    return classes


def split_words(text: tf.Tensor, split_digits: bool = False) -> tuple[tf.Tensor, tf.Tensor]:
    """Split texts into the words within which byte pairs are merged.

    Args:
        text: string [N], valid UTF-8.
        split_digits: whether every number is a separate word; the text between two of them is then split as
            if it were a complete text.

    Returns:
        The words, string [W], and the text that each belongs to, int64 [W]. Joined, they give the text again.
    """
    codes = tf.strings.unicode_decode(text, "UTF-8")
    flat, owner = codes.flat_values, codes.value_rowids()
    begins = _begins(flat, _between_digits(flat, owner) if split_digits else owner)
    words = tf.RaggedTensor.from_value_rowids(  # type: ignore[attr-defined]
        flat,
        tf.cumsum(tf.cast(begins, tf.int64)) - 1,
        nrows=tf.math.count_nonzero(begins),
        validate=False,
    )
    return tf.strings.unicode_encode(words, "UTF-8"), tf.boolean_mask(owner, begins)


def _kinds(codes: tf.Tensor) -> tf.Tensor:
    """Letter, number, space or other: int32 [M]."""
    classes = tf.gather(character_classes(), tf.minimum(codes, TABLE_SIZE - 1))
    return tf.where(codes < TABLE_SIZE, tf.cast(classes, tf.int32), OTHER)


def _between_digits(codes: tf.Tensor, owner: tf.Tensor) -> tf.Tensor:
    """Like `owner`, but different for each number and for each stretch between numbers: int64 [M]."""
    number = _kinds(codes) == NUMBER
    cuts = (owner[1:] != owner[:-1]) | number[1:] | number[:-1]
    first = tf.zeros_like(owner[:1])
    return tf.concat([first, tf.cumsum(tf.cast(cuts, owner.dtype))], 0)


def _begins(codes: tf.Tensor, owner: tf.Tensor) -> tf.Tensor:
    """Whether a word begins at each code point: bool [M]."""
    kind = _kinds(codes)
    same_before = tf.concat([[False], owner[1:] == owner[:-1]], 0)
    same_after = tf.concat([same_before[1:], [False]], 0)[: tf.size(codes)]
    kind_before = tf.where(same_before, _shift(kind, 1), _NOTHING)
    kind_after = tf.where(same_after, _shift(kind, -1), _NOTHING)
    code_before = tf.where(same_before, _shift(codes, 1), _NOTHING)

    # The last space before something else joins what follows or stands alone: the lookahead.
    last_of_spaces = same_after & (kind_after != SPACE)
    space_begins = (kind_before != SPACE) | last_of_spaces
    other_begins = (kind_before != kind) & (code_before != ord(" "))
    begins = tf.where(kind == SPACE, space_begins, other_begins)
    return _with_contractions(begins, codes, owner)


def _with_contractions(begins: tf.Tensor, codes: tf.Tensor, owner: tf.Tensor) -> tf.Tensor:
    """Make 's, 't, 'm, 'd, 're, 've and 'll separate words, if the apostrophe begins a word."""
    first, second = _following(codes, owner, 1), _following(codes, owner, 2)
    apostrophe = begins & (codes == ord("'"))
    short = apostrophe & _is_one_of(first, "stmd")
    long = apostrophe & (
        _is_one_of(first, "rv") & _is_one_of(second, "e") | _is_one_of(first, "l") & _is_one_of(second, "l")
    )
    inside = _moved(short | long, 1)
    ended = _moved(short, 2) | _moved(long, 3)
    return (begins & tf.logical_not(inside)) | ended


def _following(codes: tf.Tensor, owner: tf.Tensor, distance: int) -> tf.Tensor:
    """The code point that many positions later in the same text, or -1."""
    return tf.where(_shift(owner, -distance) == owner, _shift(codes, -distance), _NOTHING)


def _is_one_of(codes: tf.Tensor, letters: str) -> tf.Tensor:
    return functools.reduce(tf.logical_or, [codes == ord(letter) for letter in letters])


def _shift(values: tf.Tensor, by: int) -> tf.Tensor:
    """Values shifted to the right (or left, if negative); the gap is filled with -1: [M]."""
    filling = tf.fill([abs(by)], tf.cast(_NOTHING, values.dtype))
    joined = tf.concat([filling, values] if by > 0 else [values, filling], 0)
    return joined[: tf.size(values)] if by > 0 else joined[-by:]


def _moved(flags: tf.Tensor, by: int) -> tf.Tensor:
    """Flags shifted to the right; the gap is filled with False: bool [M]."""
    return tf.concat([tf.zeros([by], tf.bool), flags], 0)[: tf.size(flags)]

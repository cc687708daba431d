"""Split the joined strings of a request into ids, titles and numbers, inside the graph.

Every input of a signature is one string per row (DESIGN.md, Contract 2): ids and numbers joined by white
space, titles joined by newlines. The content of one row can never fail the other rows of its batch:

- invalid UTF-8 becomes U+FFFD, the replacement character;
- ids and numbers are separated by any run of spaces, tabs and newlines;
- an unreadable, negative or infinite number becomes 0; a number above `LARGEST_NUMBER` is reduced to it;
- a row may be empty, and may have any number of parts.
"""

from collections.abc import Sequence

import tensorflow as tf

from genre_tf.contract import LARGEST_NUMBER

_NUMBER = r"[+]?([0-9]{1,30}[.]?[0-9]{0,30}|[.][0-9]{1,30})([eE][+-]?[0-9]{1,2})?"
_PLAIN_NUMBERS = r"\s*([0-9]{1,15}([.][0-9]{1,15})?\s+)*([0-9]{1,15}([.][0-9]{1,15})?)?"


def clean_text(text: tf.Tensor) -> tf.Tensor:
    """Replace invalid UTF-8 by U+FFFD: string of any shape -> string."""
    return tf.strings.unicode_transcode(text, "UTF-8", "UTF-8", errors="replace")


def split_ids(text: tf.Tensor) -> tf.RaggedTensor:
    """Split rows at white space: string [B] -> string [B, (parts)]; an empty row has no parts."""
    return tf.strings.split(text)


def split_history_titles(text: tf.Tensor) -> tf.RaggedTensor:
    """Split rows at newlines, without blank lines: string [B] -> valid UTF-8 [B, (titles)], stripped."""
    lines = _lines(text)
    return keep_entries(lines, tf.not_equal(lines.flat_values, ""))


def split_candidate_titles(text: tf.Tensor) -> tf.RaggedTensor:
    """As `split_history_titles`, but a blank line is a candidate without a title.

    A newline at the end of a row does not begin another candidate, and an empty row has no candidates, so the
    n-th answer always belongs to the n-th line of the request.
    """
    ended = tf.strings.regex_replace(text, r"\r?\n\z", "", replace_global=False)
    lines = _lines(ended)
    return keep_entries(lines, tf.gather(tf.not_equal(text, ""), lines.value_rowids()))


def split_numbers(text: tf.Tensor) -> tf.RaggedTensor:
    """Split rows at white space and read numbers: string [B] -> float32 [B, (parts)]; 0 if unreadable."""
    parts = split_ids(text)
    values = parts.flat_values

    def one_by_one() -> tf.Tensor:
        return tf.where(tf.strings.regex_full_match(values, _NUMBER), values, "0")

    # Complete rows are checked first, because it is slow to match thousands of numbers one by one.
    plain = tf.reduce_all(tf.strings.regex_full_match(text, _PLAIN_NUMBERS))
    numbers = tf.strings.to_number(tf.cond(plain, lambda: values, one_by_one), tf.float32)
    return parts.with_flat_values(tf.clip_by_value(numbers, 0.0, LARGEST_NUMBER))


def read_examples(serialized: tf.Tensor, names: Sequence[str]) -> list[tf.Tensor]:
    """Read bytes features of serialized `tf.Example`s as joined rows: string [B] -> string [B] for each name.

    A feature may be missing, empty, one joined string or a list of ids: its values are joined by spaces.
    Other features are ignored. If a row is not a `tf.Example`, or its feature has numbers, TensorFlow's own
    parser refuses the whole request.
    """
    features = {name: tf.io.RaggedFeature(tf.string, row_splits_dtype=tf.int64) for name in names}
    parsed = tf.io.parse_example(serialized, features)
    return [
        tf.strings.unsorted_segment_join(
            parsed[name].flat_values, parsed[name].value_rowids(), parsed[name].nrows(), separator=" "
        )
        for name in names
    ]


def newest(rows: tf.RaggedTensor, limit: int) -> tf.RaggedTensor:
    """The last entries of each row, the newest in a history: [B, (parts)] -> [B, (at most limit)]."""
    lengths = rows.row_lengths()
    positions = tf.ragged.range(lengths).flat_values
    first = tf.gather(tf.maximum(lengths - limit, 0), rows.value_rowids())
    return keep_entries(rows, positions >= first)


def first(rows: tf.RaggedTensor, limit: int) -> tf.RaggedTensor:
    """The first entries of each row: [B, (parts)] -> [B, (at most limit)]."""
    return keep_entries(rows, tf.ragged.range(rows.row_lengths()).flat_values < limit)


def _lines(text: tf.Tensor) -> tf.RaggedTensor:
    lines = tf.strings.split(clean_text(text), "\n")
    return lines.with_flat_values(tf.strings.strip(lines.flat_values))


def widest(rows: tf.RaggedTensor) -> tf.Tensor:
    """Length of the longest row: int64 [], 0 without rows."""
    return tf.reduce_max(tf.concat([[0], rows.row_lengths()], 0))


def to_dense(rows: tf.RaggedTensor, width: tf.Tensor | None = None) -> tuple[tf.Tensor, tf.Tensor]:
    """Pad rows with zeros on the right: [B, (parts), …] -> [B, W, …] and bool [B, W], True for entries.

    Longer rows than `width` are cut to it; None: the length of the longest row.
    """
    width = widest(rows) if width is None else width
    own = tf.sequence_mask(rows.row_lengths(), width)  # [B, W]
    places = rows.row_starts()[:, None] + tf.range(width)[None, :]  # [B, W]
    # One padding entry after all parts; it exists even if there are no parts.
    padding = tf.zeros([1, *rows.flat_values.shape[1:]], rows.dtype)
    behind = tf.shape(rows.flat_values, tf.int64)[0]
    return tf.gather(tf.concat([rows.flat_values, padding], 0), tf.where(own, places, behind)), own


def keep_entries(rows: tf.RaggedTensor, keep: tf.Tensor) -> tf.RaggedTensor:
    """Remove entries, but no row: [B, (parts)] and bool [all parts of all rows] -> [B, (kept parts)]."""
    return tf.RaggedTensor.from_value_rowids(  # type: ignore[attr-defined]
        tf.boolean_mask(rows.flat_values, keep),
        tf.boolean_mask(rows.value_rowids(), keep),
        nrows=rows.nrows(),
        validate=False,
    )

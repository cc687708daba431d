"""Joined strings of a request into rows of ids, titles and numbers, inside the graph.

Every input of a signature is one string a row (DESIGN.md, Contract 2): ids and numbers joined by white space,
titles by newlines. No content of a row can fail the batch that it shares with others:

- invalid UTF-8 becomes U+FFFD, the replacement character;
- runs of spaces, tabs and newlines part ids and numbers just as one space does;
- a number that cannot be read, is negative or not finite counts as 0; large ones are cut to `LARGEST_NUMBER`;
- a row may be empty, and may hold any number of parts.
"""

from collections.abc import Sequence

import tensorflow as tf

LARGEST_NUMBER = 1e9
_NUMBER = r"[+]?([0-9]{1,30}[.]?[0-9]{0,30}|[.][0-9]{1,30})([eE][+-]?[0-9]{1,2})?"
_PLAIN_NUMBERS = r"\s*([0-9]{1,15}([.][0-9]{1,15})?\s+)*([0-9]{1,15}([.][0-9]{1,15})?)?"


def clean_text(text: tf.Tensor) -> tf.Tensor:
    """Replace what is no UTF-8 by U+FFFD.

    Args:
        text: string, any shape.

    Returns:
        string, the same shape, always valid UTF-8.
    """
    return tf.strings.unicode_transcode(text, "UTF-8", "UTF-8", errors="replace")


def split_ids(text: tf.Tensor) -> tf.RaggedTensor:
    """Split rows at white space.

    Args:
        text: string [B].

    Returns:
        string [B, (parts)]; an empty row has none.
    """
    return tf.strings.split(text)


def split_history_titles(text: tf.Tensor) -> tf.RaggedTensor:
    """Split rows at newlines; blank lines are no titles.

    Args:
        text: string [B].

    Returns:
        string [B, (titles)], valid UTF-8, without white space around.
    """
    lines = _lines(text)
    return keep_entries(lines, tf.not_equal(lines.flat_values, ""))


def split_candidate_titles(text: tf.Tensor) -> tf.RaggedTensor:
    """Split rows at newlines, one candidate a line; a blank line within is a candidate without a title.

    A newline at the end of a row begins no further candidate, and an empty row has none, so that the n-th
    answer always belongs to the n-th line that was sent.

    Args:
        text: string [B].

    Returns:
        string [B, (titles)], valid UTF-8, without white space around.
    """
    ended = tf.strings.regex_replace(text, r"\r?\n\z", "", replace_global=False)
    lines = _lines(ended)
    return keep_entries(lines, tf.gather(tf.not_equal(text, ""), lines.value_rowids()))


def split_numbers(text: tf.Tensor) -> tf.RaggedTensor:
    """Split rows at white space and read numbers.

    Args:
        text: string [B].

    Returns:
        float32 [B, (parts)], each between 0 and `LARGEST_NUMBER`; 0 where it could not be read.
    """
    parts = split_ids(text)
    values = parts.flat_values

    def one_by_one() -> tf.Tensor:
        return tf.where(tf.strings.regex_full_match(values, _NUMBER), values, "0")

    # Whole rows are looked at first: thousands of numbers would take a match each.
    plain = tf.reduce_all(tf.strings.regex_full_match(text, _PLAIN_NUMBERS))
    numbers = tf.strings.to_number(tf.cond(plain, lambda: values, one_by_one), tf.float32)
    return parts.with_flat_values(tf.clip_by_value(numbers, 0.0, LARGEST_NUMBER))


def read_examples(serialized: tf.Tensor, names: Sequence[str]) -> list[tf.Tensor]:
    """Read bytes features of serialized `tf.Example`s as joined rows.

    A feature may be missing, empty, one joined string or a list of ids: its values are joined by spaces.
    Other features are not looked at. Bytes that are no `tf.Example`, and a feature that holds numbers, are
    refused by TensorFlow's own parser, and the whole request with them.

    Args:
        serialized: string [B].
        names: of the features.

    Returns:
        string [B] for each name; "" where an example has no such feature.
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
    """Keep the last `limit` entries of each row: histories are oldest first.

    Args:
        rows: [B, (parts)].
        limit: entries to keep.

    Returns:
        [B, (at most limit)].
    """
    lengths = rows.row_lengths()
    positions = tf.ragged.range(lengths).flat_values
    first = tf.gather(tf.maximum(lengths - limit, 0), rows.value_rowids())
    return keep_entries(rows, positions >= first)


def first(rows: tf.RaggedTensor, limit: int) -> tf.RaggedTensor:
    """Keep the first entries of each row.

    Args:
        rows: [B, (parts)].
        limit: entries to keep.

    Returns:
        [B, (at most limit)].
    """
    return keep_entries(rows, tf.ragged.range(rows.row_lengths()).flat_values < limit)


def _lines(text: tf.Tensor) -> tf.RaggedTensor:
    lines = tf.strings.split(clean_text(text), "\n")
    return lines.with_flat_values(tf.strings.strip(lines.flat_values))


def widest(rows: tf.RaggedTensor) -> tf.Tensor:
    """Length of the longest row; int64 [], 0 if there is none."""
    return tf.reduce_max(tf.concat([[0], rows.row_lengths()], 0))


def to_dense(rows: tf.RaggedTensor, width: tf.Tensor | None = None) -> tuple[tf.Tensor, tf.Tensor]:
    """Pad rows with zeros on the right.

    Args:
        rows: numbers [B, (parts), …].
        width: longer rows are cut to it; the longest row's length if left out.

    Returns:
        [B, W, …] in the type of `rows`, and bool [B, W], which of them are a row's own.
    """
    width = widest(rows) if width is None else width
    own = tf.sequence_mask(rows.row_lengths(), width)  # [B, W]
    places = rows.row_starts()[:, None] + tf.range(width)[None, :]  # [B, W]
    # The padding stands behind all parts, and is there even if there are no parts at all.
    padding = tf.zeros([1, *rows.flat_values.shape[1:]], rows.dtype)
    behind = tf.shape(rows.flat_values, tf.int64)[0]
    return tf.gather(tf.concat([rows.flat_values, padding], 0), tf.where(own, places, behind)), own


def keep_entries(rows: tf.RaggedTensor, keep: tf.Tensor) -> tf.RaggedTensor:
    """Drop entries; a row may become empty, and no row goes.

    Args:
        rows: [B, (parts)].
        keep: bool [all parts of all rows].

    Returns:
        [B, (kept parts)].
    """
    return tf.RaggedTensor.from_value_rowids(  # type: ignore[attr-defined]
        tf.boolean_mask(rows.flat_values, keep),
        tf.boolean_mask(rows.value_rowids(), keep),
        nrows=rows.nrows(),
        validate=False,
    )

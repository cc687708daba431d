"""What editors decided, as files to learn from: approved texts, and labelled ones."""

from collections.abc import Mapping
from pathlib import Path

from genre_tf.contract import KINDS
from genre_tf.data.approved_texts import MOST_TEXTS, ApprovedText, write_texts
from genre_tf.data.articles import Article
from genre_tf.serving.app.storage import Store

_APPROVED = """
SELECT kind, article, coalesce(edited, written) AS words FROM texts
WHERE status = 'approved' AND decided < :until ORDER BY id DESC
"""


def write_approved(store: Store, articles: Mapping[str, Article], file: Path, until: int) -> int:
    """Write the texts that editors approved or edited before a time, and return their number.

    They are all those of the database, in the order in which they were written: the writer is not trained in
    each turn. Without a text no file is written. No reader is named.
    """
    found = [
        ApprovedText(row.kind, row.article, row.words)
        for row in store.read(_APPROVED, until=until)
        if row.kind in KINDS and row.article in articles and row.words.strip()
    ]
    texts = list(dict.fromkeys(reversed(found[:MOST_TEXTS])))
    if texts:
        write_texts(file, texts)
    return len(texts)

"""What a run was trained on, counted from its prepared folder."""

from collections import Counter
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from genre_tf.data.manifest import SPLITS, load_manifest
from genre_tf.data.records import read_articles, read_examples

_EPOCH = datetime(1970, 1, 1)
_MOST = {
    "clicks before an impression": 60,
    "articles shown at once": 120,
    "characters of a title": 160,
    "characters of an abstract, in tens": 80,
}  # longer ones are counted as of this length


def data_card(prepared: Path) -> dict[str, Any]:
    """Counts, dates, cold shares and lengths.

    Args:
        prepared: the run's prepared folder.

    Returns:
        "articles", "with_abstract" (share), "categories" (names and article counts, largest first),
        "readers", "bad_rows", "splits" (for each: "impressions", "clicks", "candidates", "click_rate",
        "first", "last", "no_history", and for validation "unseen_readers" and "unseen_clicks", the shares
        that do not occur in training), and "lengths": label -> counts by length.

    Raises:
        InputError: there is no prepared folder, or it is damaged.
    """
    manifest = load_manifest(prepared)
    articles = read_articles(prepared).articles[1:]
    lengths = {label: np.zeros(most + 1, np.int64) for label, most in _MOST.items()}

    def count(label: str, values: npt.ArrayLike) -> None:
        most = _MOST[label]
        lengths[label] += np.bincount(np.minimum(np.asarray(values, np.int64), most), minlength=most + 1)

    splits: dict[str, Any] = {}
    readers: set[str] = set()
    known = np.zeros(0, np.int32)
    for split in SPLITS:
        examples, found = read_examples(prepared, split), manifest["splits"][split]
        earlier, cold_readers, cold_clicks, empty = frozenset(readers), 0, 0, 0
        for block in examples.blocks("user_id", "history", "candidates", "labels"):
            read = np.diff(block.history_ends)
            count("clicks before an impression", read)
            count("articles shown at once", np.diff(block.candidate_ends))
            empty += int(np.count_nonzero(read == 0))
            cold_readers += sum(user not in earlier for user in block.user_id)
            cold_clicks += int(np.count_nonzero(~np.isin(block.candidates[block.labels > 0], known)))
            readers.update(block.user_id)
        known = np.union1d(known, examples.articles("candidates", "history"))
        splits[split] = {
            **{name: found[name] for name in ("impressions", "clicks", "candidates")},
            "click_rate": found["clicks"] / max(1, found["candidates"]),
            **{name: _moment(found.get(f"{name}_hours")) for name in ("first", "last")},
            "no_history": empty / max(1, found["impressions"]),
        }
        if split != SPLITS[0]:
            splits[split]["unseen_readers"] = cold_readers / max(1, found["impressions"])
            splits[split]["unseen_clicks"] = cold_clicks / max(1, found["clicks"])
    count("characters of a title", [len(article.title) for article in articles])
    count(
        "characters of an abstract, in tens",
        [-(-len(each.abstract) // 10) for each in articles if each.abstract],
    )
    return {
        "articles": len(articles),
        "with_abstract": sum(bool(article.abstract) for article in articles) / max(1, len(articles)),
        "categories": Counter(article.category or "(none)" for article in articles).most_common(),
        "readers": len(readers),
        "bad_rows": manifest.get("bad_rows", 0),
        "splits": splits,
        "lengths": {label: np.trim_zeros(counts, "b").tolist() for label, counts in lengths.items()},
    }


def _moment(hours: float | None) -> str:
    return "" if hours is None else f"{_EPOCH + timedelta(hours=hours):%Y-%m-%d %H:%M}"

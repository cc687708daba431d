"""What a run was trained on, counted from its prepared folder."""

from collections import Counter
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from genre_tf.data.manifest import SPLITS, load_manifest
from genre_tf.data.records import read_articles, read_examples

_EPOCH = datetime(1970, 1, 1)
_LONGEST = {"clicks before an impression": 60, "articles shown at once": 120, "characters of a title": 160}
_ABSTRACT = ("characters of an abstract, in tens", 80)


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
    table = read_articles(prepared)
    articles = table.articles[1:]
    splits, lengths, readers = _log(prepared, manifest)
    lengths["characters of a title"] = Counter(len(article.title) for article in articles)
    lengths[_ABSTRACT[0]] = Counter(-(-len(each.abstract) // 10) for each in articles if each.abstract)
    most = {**_LONGEST, _ABSTRACT[0]: _ABSTRACT[1]}
    return {
        "articles": len(articles),
        "with_abstract": sum(bool(article.abstract) for article in articles) / max(1, len(articles)),
        "categories": Counter(article.category or "(none)" for article in articles).most_common(),
        "readers": readers,
        "bad_rows": manifest.get("bad_rows", 0),
        "splits": splits,
        "lengths": {label: _up_to(lengths[label], most[label]) for label in lengths},
    }


def _log(prepared: Path, manifest: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Counter[int]], int]:
    lengths: dict[str, Counter[int]] = {name: Counter() for name in list(_LONGEST)[:2]}
    splits: dict[str, Any] = {}
    readers: set[str] = set()
    known = np.zeros(0, np.int32)
    for split in SPLITS:
        examples = read_examples(prepared, split)
        earlier, cold_readers, cold_clicks, empty = frozenset(readers), 0, 0, 0
        for block in examples.blocks("user_id", "history", "candidates", "labels"):
            read = np.diff(block.history_ends)
            lengths["clicks before an impression"].update(read.tolist())
            lengths["articles shown at once"].update(np.diff(block.candidate_ends).tolist())
            empty += int(np.count_nonzero(read == 0))
            cold_readers += sum(user not in earlier for user in block.user_id)
            cold_clicks += int(np.count_nonzero(~np.isin(block.candidates[block.labels > 0], known)))
            readers.update(block.user_id)
        known = np.union1d(known, examples.articles("candidates", "history"))
        found = manifest["splits"][split]
        cold = {"unseen_readers": cold_readers, "unseen_clicks": cold_clicks}
        splits[split] = {
            **{name: found[name] for name in ("impressions", "clicks", "candidates")},
            "click_rate": found["clicks"] / max(1, found["candidates"]),
            **{name: _moment(found.get(f"{name}_hours")) for name in ("first", "last")},
            "no_history": empty / max(1, found["impressions"]),
            **({} if split == SPLITS[0] else _shares(cold, found)),
        }
    return splits, lengths, len(readers)


def _shares(cold: dict[str, int], found: dict[str, Any]) -> dict[str, float]:
    return {
        "unseen_readers": cold["unseen_readers"] / max(1, found["impressions"]),
        "unseen_clicks": cold["unseen_clicks"] / max(1, found["clicks"]),
    }


def _moment(hours: float | None) -> str:
    return "" if hours is None else f"{_EPOCH + timedelta(hours=hours):%Y-%m-%d %H:%M}"


def _up_to(counts: Counter[int], most: int) -> list[int]:
    """Counts by length; lengths above `most` are counted in the last place."""
    kept = [0] * (min(most, max(counts, default=0)) + 1)
    for length, count in counts.items():
        kept[min(length, most)] += count
    return kept

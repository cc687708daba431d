"""Printed tables of the whole-pool part of a report."""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from rich.table import Table

from genre_tf.evaluation.tables import plain_table

FOUND = MappingProxyType(
    {
        "recall@10": "recall@10",
        "recall@50": "@50",
        "recall@100": "@100",
        "recall@300": "@300",
        "ndcg@10": "nDCG@10",
        "mrr": "MRR",
    }
)
"""Metrics of the clicked articles, with headings."""

QUALITIES = MappingProxyType(
    {
        "fresh": "fresh",
        "coverage": "coverage",
        "diversity": "diversity",
        "category_diversity": "of categories",
        "novelty": "novelty",
    }
)
"""Metrics of the lists themselves, with headings."""


def pool_tables(section: Mapping[str, Any], split: str) -> Iterator[Table | str]:
    """Tables and lines that show what `recommend` would answer from the whole pool.

    Args:
        section: result of `pool_section`.
        split: the split it was measured on.
    """
    scorers = pool_rows(section)
    rows = {
        name: {**parts["all"], "coverage": section["coverage"].get(name)} for name, parts in scorers.items()
    }
    described = {
        name: row for name, row in rows.items() if any(row.get(key) is not None for key in QUALITIES)
    }
    yield plain_table(f"Whole pool on {split}: what `recommend` would answer", rows, list(FOUND), FOUND)
    yield pool_line(section["pool"])
    if section["calibration"].get("mean_score") is not None:
        yield calibration_line(section["calibration"])
    if described:
        yield plain_table("Whole pool: the first ten of a list", described, list(QUALITIES), QUALITIES)
    recalls = {
        name: {part: metrics["recall@10"] for part, metrics in parts.items()}
        for name, parts in scorers.items()
    }
    headings = {part: f"{part.replace('_', ' ')}\n({count})" for part, count in section["slices"].items()}
    yield plain_table("Whole pool: recall@10 by slice", recalls, list(headings), headings)


def pool_rows(section: Mapping[str, Any]) -> dict[str, Any]:
    """The measured models and baselines: name > slice > metric."""
    models = {name: section[name] for name in ("recommend", "retrieval")}
    return {name: parts for name, parts in {**models, **section["baselines"]}.items() if parts}


def pool_line(pool: Mapping[str, Any]) -> str:
    """One sentence about the content of the pool."""
    sizes = pool["per_moment"]
    if sizes["mean"] is None:
        return "No impression was measured."
    return (
        f"{pool['impressions']} impressions; pool of {sizes['mean']:.0f} articles on average "
        f"({sizes['least']} to {sizes['most']}), {pool['articles']} in total: {pool['reason']}."
    )


def calibration_line(found: Mapping[str, Any]) -> str:
    """One sentence about the scores of `recommend` as click probabilities."""
    ratio = "" if found["ratio"] is None else f" (ratio {found['ratio']:.2f})"
    return (
        f"Scores of `recommend`: mean {found['mean_score']:.4f}, click rate {found['click_rate']:.4f}{ratio};"
        f" Brier score {found['brier']:.4f} (constant click rate: {found['brier_of_click_rate']:.4f})."
    )

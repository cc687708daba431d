"""The tables of an evaluation: made once, shown in the terminal, in TensorBoard and on the HTML page."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table

_SCORERS = {
    "two_tower": "two-tower model",
    "ranker_counters": "ranker with counters",
    "category": "categories read before",
    "bm25": "BM25 of titles",
    "click_through_rate": "click-through rate",
    "clicks": "all clicks so far",
    "clicks_1h": "clicks halved every hour",
    "clicks_6h": "clicks halved every 6 hours",
    "clicks_24h": "clicks halved every 24 hours",
    "clicks_of_categories": "clicks in categories read before",
    "newest": "newest first",
}
_HEADINGS = {
    "auc": "AUC",
    "mrr": "MRR",
    "ndcg@5": "nDCG@5",
    "ndcg@10": "nDCG@10",
    "before": "AUC before",
    "category_diversity": "of categories",
    "rouge1": "ROUGE-1",
    "rouge2": "ROUGE-2",
    "rougeL": "ROUGE-L",
    "distinct2": "distinct-2",
    "copy_rate": "copied",
    "shown_share": "shown",
    "click_share": "clicked",
    "share_above": "above",
    "share_above_low": "low",
    "share_above_high": "high",
    "share_equal": "equal",
    "win_rate": "win rate",
    "auc_filled": "AUC filled",
    "mean": "more",
}
_SHORT = {"recall@50": "@50", "recall@100": "@100", "recall@300": "@300"}
_FOUND = ("recall@10", "recall@50", "recall@100", "recall@300", "ndcg@10", "mrr")
_QUALITIES = ("fresh", "coverage", "diversity", "category_diversity", "novelty")
_TEXTS = ("perplexity", "rouge1", "rouge2", "rougeL", "distinct2", "grounding")
_OF_WRITER = (
    *("judge", "judge_low", "judge_high", "chooser", "served"),
    *("fluency", "topic", "grounding", "copy_rate", "rouge1", "rouge2", "rougeL", "distinct2"),
)
_ANSWER_HEADINGS = {
    "evidence_recall@1": "evidence @1",
    "evidence_recall@5": "evidence @5",
    "f1": "F1",
    "exact_match": "exact match",
    "declined": "declined",
    "declined_answerable": "declined wrongly",
    "grounding": "grounding",
}
_ANSWERS = tuple(_ANSWER_HEADINGS)
_DIFFERENCE = ("difference", "low", "high")
_ONLY_ON_THE_PAGE = ("categories", "activity")
MOST_CATEGORIES = 50

Rows = Mapping[str, Mapping[str, Any]]
"""Name -> metric -> number."""


@dataclass(frozen=True, kw_only=True)
class MetricTable:
    """A table of numbers; a cell is empty if its row lacks the number."""

    title: str
    columns: Sequence[str]  # the metrics to show
    rows: Rows
    ends: Rows = field(default_factory=dict)  # of 95% intervals, shown where there is room for them
    baselines: Collection[str] = ()  # names of rows that are set apart
    percent: bool = False  # whether floats are shown in percent
    digits: int = 3  # decimal places of other floats
    names: Mapping[str, str] = field(default_factory=dict)  # headings of columns without a usual one

    @property
    def headings(self) -> list[str]:
        """The headings of the columns."""
        return [self.names.get(column, _HEADINGS.get(column, column)) for column in self.columns]

    def text(self, value: Any, missing: str = "") -> str:
        """A number of the table as text."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            return missing
        if isinstance(value, int):
            return str(value)
        return f"{100 * value:.1f}" if self.percent else f"{value:.{self.digits}f}"

    def lines(self, missing: str = "") -> Iterator[tuple[str, list[tuple[str, str]]]]:
        """Each row that has numbers: its name, and for each column its number and its interval, as text."""
        for name, values in self.rows.items():
            ends = self.ends.get(name, {})
            cells = []
            for column in self.columns:
                low, high = ends.get(column) or (None, None)
                interval = "" if None in (low, high) else f"{self.text(low)} to {self.text(high)}"
                cells.append((self.text(values.get(column), missing), interval))
            if values:
                yield name, cells


def scorer_name(name: str) -> str:
    """A model, a baseline, or "one over another: metric", for people: `bm25` is "BM25 of titles"."""
    scorers, *metric = name.split(": ")
    words = " over ".join(_SCORERS.get(part, part.replace("_", " ")) for part in scorers.split(" over "))
    return ": ".join([words, *metric])


def print_report(report: Mapping[str, Any], console: Console) -> None:
    """Print a report: the tables without intervals, and the lines about the pool."""
    for name, table in report_tables(report).items():
        if name in _ONLY_ON_THE_PAGE:
            continue
        # Not rich's own title, which is wrapped to the width of a narrow table.
        console.print(f"\n{table.title}", style="bold")
        shown = Table()
        for heading in ("", *table.headings):
            shown.add_column(heading, justify="right" if heading else "left")
        for row, cells in table.lines():
            if row in table.baselines and row == next(iter(table.baselines)):
                shown.add_section()
            shown.add_row(row.replace("_", " "), *(text for text, _ in cells))
        console.print(shown)
        if name == "pool":
            for line in pool_lines(report["pool"]):
                console.print(line)


def markdown(table: MetricTable) -> str:
    """A table for TensorBoard's text tab, without intervals."""
    lines = [["", *table.headings], ["---"] * (1 + len(table.columns))]
    lines += [[name.replace("_", " "), *(text for text, _ in cells)] for name, cells in table.lines()]
    return "\n".join([table.title, "", *(f"| {' | '.join(cells)} |" for cells in lines)])


def pool_rows(section: Mapping[str, Any]) -> dict[str, Any]:
    """The measured models and baselines of the whole pool: name > slice > metric."""
    return {**{name: section[name] for name in ("recommend", "retrieval")}, **section["baselines"]}


def pool_lines(section: Mapping[str, Any]) -> list[str]:
    """A sentence about the content of the pool, and one about the scores as click probabilities."""
    pool, found = section["pool"], section["calibration"]
    sizes = pool["per_moment"]
    lines = [
        f"{pool['impressions']} impressions; pool of {sizes['mean']:.0f} articles on average "
        f"({sizes['least']} to {sizes['most']}), {pool['articles']} in total: {pool['reason']}."
    ]
    if found.get("mean_score") is not None:
        ratio = "" if found["ratio"] is None else f" (ratio {found['ratio']:.2f})"
        lines.append(
            f"Scores of `recommend`: mean {found['mean_score']:.4f}, click rate {found['click_rate']:.4f}"
            f"{ratio}; Brier score {found['brier']:.4f} (constant click rate: "
            f"{found['brier_of_click_rate']:.4f})."
        )
    return lines


def report_tables(report: Mapping[str, Any]) -> dict[str, MetricTable]:
    """The tables of everything that an evaluation has measured, by name, in the order of reading."""
    generation, pool = report.get("generation") or {}, report.get("pool")
    tables = {**_of_ranking(report), **(_of_pool(pool, report["split"]) if pool else {})}
    if generation:
        before = report["before"].get("generation") or {}
        tables["generation"] = MetricTable(
            title=f"Generator: {generation['headlines']} headlines written from abstracts, "
            f"{generation['clicked_titles']} clicked titles",
            columns=_TEXTS,
            rows={"trained": generation, "before training": before, **generation.get("baselines", {})},
        )
    if generation.get("personal"):
        tables |= _of_readers(generation["personal"])
    if found := generation.get("cold_start"):
        parts = {name: part for name, part in found.items() if isinstance(part, dict)}
        tables["cold_start"] = MetricTable(
            title=f"Readers with few clicks: AUC in {found['impressions']} of {found['of_impressions']} "
            f"impressions, without and with {found['written']} written articles in their histories, "
            "95% interval",
            columns=("auc", "auc_filled", *_DIFFERENCE),
            rows={name: {**part, **(part["difference"] or {})} for name, part in parts.items()},
        )
    if found := report.get("questions"):
        tables["questions"] = MetricTable(
            title=f"Answers: {found['answerable']} questions, and {found['unanswerable']} without an answer",
            columns=_ANSWERS,
            names=_ANSWER_HEADINGS,
            rows={"answers": found},
        )
    tables["significance"] = MetricTable(
        title="Differences in AUC, 95% interval", columns=_DIFFERENCE, rows=report.get("significance") or {}
    )
    tables |= _of_groups(report)
    return {name: table for name, table in tables.items() if any(table.rows.values())}


def _of_ranking(report: Mapping[str, Any]) -> dict[str, MetricTable]:
    scorers = {**report["models"], **report["baselines"]}
    before, intervals = report["before"].get("models", {}), report.get("intervals", {})
    left_out = f", {report['without_click']} without a click left out" if report.get("without_click") else ""
    rows = {
        name: {**parts["all"], "before": before.get(name, {}).get("all", {}).get("auc")}
        for name, parts in scorers.items()
    }
    ends = {name: {"auc": parts.get("all")} for name, parts in intervals.items()}
    tables = {
        "ranking": MetricTable(
            title=f"Ranking on {report['split']}: {report['impressions']} impressions{left_out}, in percent",
            columns=("auc", "mrr", "ndcg@5", "ndcg@10", "before"),
            rows=rows,
            ends=ends,
            baselines=report["baselines"],
            percent=True,
        ),
        "slices": MetricTable(
            title="AUC by slice, in percent",
            **_slice_columns(report["slices"]),
            rows=_by_slice(scorers, "auc"),
            ends=intervals,
            baselines=report["baselines"],
            percent=True,
        ),
    }
    if report.get("retrieval"):
        tables["retrieval"] = MetricTable(
            title=f"Retrieval: clicked articles found among all {report['retrieval']['pool']} articles",
            columns=[name for name in report["retrieval"] if name.startswith("recall@")],
            rows={"trained": report["retrieval"], "before training": report["before"].get("retrieval", {})},
        )
    return tables


def _slice_columns(slices: Mapping[str, int]) -> dict[str, Any]:
    names = {part: f"{part.replace('_', ' ')}\n({count})" for part, count in slices.items()}
    return {"columns": list(slices), "names": names}


def _by_slice(scorers: Mapping[str, Any], metric: str) -> Rows:
    """Name -> slice -> number."""
    return {
        name: {part: metrics[metric] for part, metrics in parts.items()} for name, parts in scorers.items()
    }


def _of_pool(section: Mapping[str, Any], split: str) -> dict[str, MetricTable]:
    scorers, baselines = pool_rows(section), section["baselines"]
    rows = {
        name: {**parts["all"], "coverage": section["coverage"].get(name)} for name, parts in scorers.items()
    }
    ends = {name: parts["all"] for name, parts in section["intervals"].items()}
    described = {
        name: row for name, row in rows.items() if any(row.get(key) is not None for key in _QUALITIES)
    }
    differences = {
        f"{title}: {_HEADINGS.get(metric, metric)}": found
        for title, parts in section["significance"].items()
        for metric, found in parts.items()
    }
    return {
        "pool": MetricTable(
            title=f"Whole pool on {split}: what `recommend` would answer",
            columns=_FOUND,
            names=_SHORT,
            rows=rows,
            ends=ends,
            baselines=baselines,
        ),
        "pool_lists": MetricTable(
            title="Whole pool: the first ten of a list", columns=_QUALITIES, rows=described, ends=ends
        ),
        "pool_slices": MetricTable(
            title="Whole pool: recall@10 by slice",
            **_slice_columns(section["slices"]),
            rows=_by_slice(scorers, "recall@10"),
            ends=_by_slice(section["intervals"], "recall@10"),
            baselines=baselines,
        ),
        "pool_significance": MetricTable(
            title="Whole pool: differences, 95% interval", columns=_DIFFERENCE, rows=differences
        ),
    }


def _of_readers(personal: Mapping[str, Any]) -> dict[str, MetricTable]:
    interest = personal["interest"]
    rivals = {
        "for another reader": ("for_other_reader", "over_other_reader"),
        "first samples of both": ("first_sample_for_other_reader", "first_sample_over_other_reader"),
        "clicked title": ("clicked_title", "over_clicked_title"),
        "random title": ("random_title", "over_random_title"),
    }
    above = ("share_above", "share_above_low", "share_above_high", "share_equal")
    margin = personal["best_of_samples_margin"]
    return {
        "writer": _of_writer(personal),
        "readers": MetricTable(
            title=f"Texts for {personal['readers']} readers, interest {interest['written']:.4f}, compared "
            "with texts from the same sources (a win rate of 0.5 is chance)",
            columns=("interest", *above, "win_rate", "low", "high"),
            rows={name: {"interest": interest[of], **personal[over]} for name, (of, over) in rivals.items()},
        ),
        "samples": MetricTable(
            title=f"Best of {personal['samples']} samples minus the first (interest "
            f"{interest['first_sample']:.4f}), 95% interval",
            columns=("interest", "mean", "low", "high"),
            rows={"the served one": {"interest": interest["written"], **margin}},
            digits=4,
        ),
    }


def _of_writer(personal: Mapping[str, Any]) -> MetricTable:
    """Everything about the writer's texts side by side: none of it means much alone."""
    names = {
        "first_sample": "first sample",
        "chosen": f"chosen of {personal['samples']} by the chooser",
        "written": f"served, of {personal['samples']}",
        "real_title": "real title",
    }
    rows, ends = {}, {}
    for kind, name in names.items():
        if kind in personal["texts"]:
            found = personal["win_rates"].get(kind, {})
            rates = {of: each.get("win_rate") for of, each in found.items()}
            judged = found.get("judge", {})
            rates |= {"judge_low": judged.get("low"), "judge_high": judged.get("high")}
            rows[name] = {**personal["texts"][kind], **rates}
            ends[name] = {of: (each.get("low"), each.get("high")) for of, each in found.items()}
    return MetricTable(
        title=f"Texts for {personal['readers']} readers: how often each interests its reader more than one "
        "for another reader from the same source, by click models of two halves of the readers (the chooser "
        "may choose, the judge has chosen nothing) and by the served one; and their quality",
        columns=_OF_WRITER,
        rows=rows,
        ends=ends,
        names={"judge_low": "low", "judge_high": "high", "served": "served model"},
    )


def _of_groups(report: Mapping[str, Any]) -> dict[str, MetricTable]:
    """Quality by category and by how much readers had read, in percent."""

    def means(auc: Mapping[str, Any]) -> dict[str, float]:
        return {name: found["mean"] for name, found in auc.items() if found}

    def ends(auc: Mapping[str, Any]) -> dict[str, tuple[float | None, float | None]]:
        return {name: (found["low"], found["high"]) for name, found in auc.items() if found}

    tables = {}
    categories: Sequence[Mapping[str, Any]] = report.get("categories") or []
    if categories:
        models = list(categories[0]["first_share"])
        first = {name: f"first places, {name}" for name in models}
        tables["categories"] = MetricTable(
            title="By category, in percent",
            columns=["shown_share", "click_share", *first.values(), *models],
            names={name: f"first places,\n{scorer_name(model)}" for model, name in first.items()}
            | {name: f"AUC,\n{scorer_name(name)}" for name in models},
            rows={
                row["category"]: {**row, **{first[name]: row["first_share"][name] for name in models}}
                | means(row["auc"])
                for row in categories[:MOST_CATEGORIES]
            },
            ends={row["category"]: ends(row["auc"]) for row in categories},
            percent=True,
        )
    activity: Sequence[Mapping[str, Any]] = report.get("activity") or []
    if activity:
        tables["activity"] = MetricTable(
            title="AUC by how much readers had read, in percent",
            columns=["impressions", *activity[0]["auc"]],
            names={name: scorer_name(name) for name in activity[0]["auc"]},
            rows={row["clicks"]: {**row, **means(row["auc"])} for row in activity},
            ends={row["clicks"]: ends(row["auc"]) for row in activity},
            percent=True,
        )
    return tables

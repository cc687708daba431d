"""Reads a whole data set and reports all of its faults, instead of stopping at the first."""

from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from genre_tf.data.approved_texts import TEXTS, ApprovedText, read_texts
from genre_tf.data.articles import Article, Impression
from genre_tf.data.lines import Fault, FaultPolicy, find_file, whole_file_fault
from genre_tf.data.mind import BEHAVIORS, NEWS, inner_splits, iterate_behaviors, read_news, split_names
from genre_tf.errors import InputError


@dataclass(frozen=True, kw_only=True)
class SplitReport:
    """Contents and faults of one split; impressions and articles without a fault are counted."""

    name: str  # folder of the split
    articles: int
    articles_with_abstract: float  # share of them, 0 to 1
    impressions: int
    labelled: bool  # whether the log has labels
    readers: int
    readers_without_history: int  # those whose impressions all have an empty history
    clicks: int  # clicked candidates
    without_click: int  # impressions without a click
    candidates: int  # shown candidates
    texts: int  # approved texts
    signals: int  # articles with dwell time, comments or shares, counted in each row
    first: datetime | None  # time of the oldest impression; None if there is none
    last: datetime | None  # time of the newest impression
    bad_rows: int  # rows with at least one fault
    unusable_files: int  # files that are missing, empty or unreadable
    faults: list[Fault]  # all faults, up to the listing limit
    unlisted: int  # faults beyond that limit

    @property
    def warnings(self) -> list[str]:
        """What is allowed in a split but unlikely to be meant, one line each."""
        found = []
        if self.readers and self.readers_without_history == self.readers:
            found.append(
                f"{self.name}: no reader has a history (readers: {self.readers:,}); is the column of "
                "histories empty or misplaced?"
            )
        if self.labelled and not self.clicks:
            found.append(
                f"{self.name}: no impression has a click (impressions: {self.impressions:,}), so nothing can "
                "be learned or measured; are the labels right?"
            )
        return found

    def as_values(self) -> dict[str, Any]:
        """The report as plain values for JSON; times in ISO form."""
        values = asdict(self)
        return {key: each.isoformat() if isinstance(each, datetime) else each for key, each in values.items()}


@dataclass(frozen=True)
class CheckReport:
    """The result of `check_data`."""

    splits: list[SplitReport]  # sorted by name
    max_bad_rows: int  # bad rows that were allowed in each split

    @property
    def passed(self) -> bool:
        """Whether every split would be read with this `--max-bad-rows`."""
        return all(not split.unusable_files and split.bad_rows <= self.max_bad_rows for split in self.splits)

    @property
    def faults(self) -> list[Fault]:
        """Listed faults of all splits."""
        return [fault for split in self.splits for fault in split.faults]

    @property
    def warnings(self) -> list[str]:
        """What is allowed in a data set but unlikely to be meant, one line each."""
        return [warning for split in self.splits for warning in split.warnings]

    @property
    def fault_count(self) -> int:
        """Faults of all splits, listed or not."""
        return sum(len(split.faults) + split.unlisted for split in self.splits)


def check_data(data: Path, max_bad_rows: int = 0) -> CheckReport:
    """Reads every split of a data set and collects all faults.

    Args:
        data: folder of a MIND-format data set; every folder in it with one of MIND's files is a split.
        max_bad_rows: bad rows that each split may have.

    Returns:
        The report.

    Raises:
        InputError: no data set in the folder, or a file that may not be read.
    """
    FaultPolicy.allowing(max_bad_rows)  # refuses a negative number
    if not data.is_dir():
        raise InputError(f"{data} is not a folder; give a data set folder that holds train/{NEWS}")
    names = split_names(data)
    if not names:
        hint = f"no split in it (a data set holds folders such as train/ with {NEWS} and {BEHAVIORS})"
        if find_file(data, BEHAVIORS) or find_file(data, NEWS):
            hint = "this is a split; give the folder around it"
        elif inner := inner_splits(data):
            hint = f"no split in it; {inner}"
        raise InputError(f"{data}: {hint}")
    return CheckReport([_check_split(data / name) for name in names], max_bad_rows)


def _check_split(folder: Path) -> SplitReport:
    policy = FaultPolicy(max_bad_rows=None)
    articles: dict[str, Article] = {}
    impressions: list[Impression] = []
    news, behaviors = (find_file(folder, name) for name in (NEWS, BEHAVIORS))
    for name, path in ((NEWS, news), (BEHAVIORS, behaviors)):
        if path is None:
            policy.reject([whole_file_fault(folder / name, "is missing (plain or as .gz); add it")])
    if news:
        articles = read_news(news, policy)
    if behaviors:
        known = {news_id: news_id for news_id in articles}
        impressions = list(iterate_behaviors(behaviors, known, policy))
    texts: list[ApprovedText] = []
    if approved := find_file(folder, TEXTS):
        texts = read_texts(approved, articles, policy)
    with_abstract = sum(bool(article.abstract) for article in articles.values())
    times = [impression.time for impression in impressions]
    readers = {impression.user_id for impression in impressions}
    return SplitReport(
        name=folder.name,
        articles=len(articles),
        articles_with_abstract=round(with_abstract / max(1, len(articles)), 4),
        impressions=len(impressions),
        labelled=bool(impressions) and impressions[0].clicked is not None,
        readers=len(readers),
        readers_without_history=len(readers - {seen.user_id for seen in impressions if seen.history}),
        clicks=sum(sum(impression.clicked or ()) for impression in impressions),
        without_click=sum(not any(impression.clicked or (True,)) for impression in impressions),
        candidates=sum(len(impression.candidates) for impression in impressions),
        texts=len(texts),
        signals=sum(len(impression.signals or ()) for impression in impressions),
        first=min(times, default=None),
        last=max(times, default=None),
        bad_rows=policy.bad_rows,
        unusable_files=policy.unusable_files,
        faults=policy.faults,
        unlisted=policy.unlisted,
    )

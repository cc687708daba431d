"""Reads MIND's files: `news.tsv` and `behaviors.tsv`, plain or gzipped, labelled or not.

A sixth column of `behaviors.tsv`, which MIND does not have, may hold signals, such as reading times: see
`genre_tf.data.signals`. A ninth and a tenth column of `news.tsv` may say when an article was published and
whether it was withdrawn.

Format: https://github.com/msnews/msnews.github.io/blob/master/assets/doc/introduction.md
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

from genre_tf.data.articles import Article, Impression, Split
from genre_tf.data.faults import Fault, FaultPolicy
from genre_tf.data.lines import find_file, read_lines
from genre_tf.data.mind_rows import BehaviorsRow, NewsRow
from genre_tf.errors import InputError

NEWS, BEHAVIORS = "news.tsv", "behaviors.tsv"


def read_split(data: Path, name: str, max_bad_rows: int = 0) -> Split:
    """Reads one split of a MIND-format data set.

    Args:
        data: folder of the data set, such as `mind_sample`.
        name: folder of the split in it, such as `train`; holds `news.tsv[.gz]` and `behaviors.tsv[.gz]`.
        max_bad_rows: rows of both files together that may be skipped; 0 stops at the first.

    Returns:
        The split, with the faults of the rows that were skipped. Nothing of a skipped row is kept.

    Raises:
        InputError: a wrong path, an unusable file, or more bad rows than allowed.
    """
    policy = FaultPolicy.allowing(max_bad_rows)
    news, behaviors = split_files(data, name)
    articles = read_news(news, policy)
    impressions = read_behaviors(behaviors, articles, policy)
    return Split(name, articles, impressions, policy.faults, policy.bad_rows)


def split_files(data: Path, name: str) -> tuple[Path, Path]:
    """Finds the two files of a split.

    Args:
        data: folder of the data set.
        name: folder of the split in it.

    Returns:
        Paths of the news and of the behaviours file.

    Raises:
        InputError: a folder or a file is missing; the message names what is there.
    """
    folder = data / name
    if not data.is_dir():
        raise InputError(f"{data} is not a folder; give a data set folder that holds {name}/{NEWS}")
    if not name or not folder.is_dir():
        there = ", ".join(split_names(data))
        advice = "give one of those" if there else inner_splits(data) or "give another folder"
        raise InputError(f"{data} has no split {name!r} (splits found: {there or 'none'}); {advice}")
    paths = [find_file(folder, file) for file in (NEWS, BEHAVIORS)]
    for path, file in zip(paths, (NEWS, BEHAVIORS), strict=True):
        if path is None:
            inner = [data / name / each for each in split_names(folder)]
            advice = f"; move the files of {inner[0]} into it" if inner else ""
            raise InputError(f"{folder} holds no {file} or {file}.gz; a split needs MIND's two files{advice}")
    return Path(str(paths[0])), Path(str(paths[1]))


def split_names(data: Path) -> list[str]:
    """Names of the folders in a data set that hold at least one of MIND's two files, sorted."""
    patterns = (f"*/{file}{ending}" for file in (NEWS, BEHAVIORS) for ending in ("", ".gz"))
    return sorted({path.parent.name for pattern in patterns for path in data.glob(pattern)})


def inner_splits(data: Path) -> str:
    """What to do if the splits are one folder too deep, as archives often unpack; empty if they are not."""
    folders = [path for path in sorted(data.iterdir()) if path.is_dir() and split_names(path)]
    if len(folders) < 2:
        return "".join(f"its splits are in {folder}; give that folder" for folder in folders)
    inner = ", ".join(str(folder / name) for folder in folders for name in split_names(folder))
    return f"its splits are one folder too deep ({inner}); move them up"


def read_news(path: Path, policy: FaultPolicy | None = None) -> dict[str, Article]:
    """Reads a news file.

    Args:
        path: `news.tsv` or `news.tsv.gz`; 5 to 10 columns (the sixth to the eighth are not read), the same
            number in every row.
        policy: what to do with faulty rows; stops at the first if not given.

    Returns:
        Articles by id, in the order of the file.

    Raises:
        InputError: the file is unusable, or the policy stops.
    """
    policy = policy or FaultPolicy()
    row = NewsRow(str(path))
    for number, text in read_lines(path, policy):
        row.read(number, text, policy)
    require_rows(path, row.articles, policy)
    return row.articles


def read_behaviors(
    path: Path, articles: dict[str, Article], policy: FaultPolicy | None = None
) -> list[Impression]:
    """Reads a behaviours file.

    Args:
        path: `behaviors.tsv` or `behaviors.tsv.gz`.
        articles: the split's articles; every id of the log must be among them.
        policy: what to do with faulty rows; stops at the first if not given.

    Returns:
        Impressions in the order of the file; all labelled or all not, all with signals or all without.

    Raises:
        InputError: the file is unusable, or the policy stops.
    """
    known = {news_id: news_id for news_id in articles}
    return list(iterate_behaviors(path, known, policy or FaultPolicy()))


def iterate_behaviors(path: Path, known: Mapping[str, str], policy: FaultPolicy) -> Iterator[Impression]:
    """Reads a behaviours file row by row, without holding it.

    Args:
        path: `behaviors.tsv` or `behaviors.tsv.gz`.
        known: the ids of the split's articles, each mapped to itself.
        policy: what to do with faulty rows.

    Yields:
        Impressions in the order of the file; all labelled or all not.

    Raises:
        InputError: the file is unusable, or the policy stops.
    """
    row, taken = BehaviorsRow(str(path), known), False
    for number, text in read_lines(path, policy):
        impression = row.read(number, text, policy)
        if impression is not None:
            taken = True
            yield impression
    require_rows(path, taken, policy)


def require_rows(path: Path, rows: object, policy: FaultPolicy) -> None:
    """Reports a file without usable rows to the policy, unless it was already reported as unusable.

    Raises:
        InputError: the policy stops.
    """
    if rows or any(fault.whole_file and fault.file == str(path) for fault in policy.faults):
        return
    policy.reject([Fault(str(path), 0, "file", "holds no usable row; `genre check` lists every fault")])

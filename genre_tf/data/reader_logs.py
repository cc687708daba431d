"""What readers of a log have clicked by its end, and the titles of these articles.

Only rows and articles that are asked for are parsed, so that a client command answers at once.
"""

from collections.abc import Collection, Iterable
from pathlib import Path

from genre_tf.data.articles import Article, Impression
from genre_tf.data.lines import Fault, FaultPolicy, find_file, read_lines
from genre_tf.data.mind import (
    BEHAVIORS,
    NEWS,
    inner_splits,
    parse_behaviors,
    read_news,
    require_rows,
    row_ids,
    split_names,
)
from genre_tf.errors import InputError

Histories = dict[str, tuple[str, ...]]
"""Reader -> ids of the articles that they clicked, oldest first."""


def behaviors_files(log: Path) -> list[Path]:
    """The behaviours files of a log: a data set in MIND's format, one of its splits, or such a file."""
    advice = f"give a data set folder, one of its splits or a {BEHAVIORS}"
    if not log.exists():
        raise InputError(f"there is no log {log}: {advice}")
    if not log.is_dir():
        return [log]
    files = _files([log, *(log / name for name in split_names(log))], BEHAVIORS)
    if not files:
        raise InputError(f"{log} has no {BEHAVIORS}: {inner_splits(log) or advice}")
    return files


def read_histories(log: Path, reader: str | None = None, policy: FaultPolicy | None = None) -> Histories:
    """What readers have clicked by the end of a log, in all of its splits.

    Args:
        log: as for `behaviors_files`.
        reader: the only reader that is asked for; None: all.
        policy: what to do with faulty rows; by default they are refused.

    Raises:
        InputError: the log has no such reader, or is unusable, or the policy stops.
    """
    checked = policy or FaultPolicy(None)
    seen: dict[str, None] = {}
    impressions = []
    for file in behaviors_files(log):
        taken = False
        for number, text in read_lines(file, checked):
            user = text.split("\t", 2)[1:2]
            seen.update(dict.fromkeys(user))
            taken = True
            if reader is None or user == [reader]:
                row = parse_behaviors(text, row_ids(text), (), None)
                if isinstance(row, Impression):
                    impressions.append(row)
                else:
                    checked.reject([Fault(str(file), number, *fault) for fault in row])
        require_rows(file, taken, checked)
    if policy is None:
        _refuse_faults(checked)
    histories = newest_histories(impressions)
    if reader is not None and reader not in seen:
        some = ", ".join(list(seen)[:3])
        raise InputError(
            f"the log {log} has no reader {reader!r}; it has {len(seen):,} readers, such as {some}"
        )
    return histories


def newest_histories(impressions: Iterable[Impression]) -> Histories:
    """What each reader has clicked by the end of a log.

    The history of a reader's newest impression, then the clicks of the log that it does not contain yet:
    those of this impression, and earlier ones where the log does not extend histories (MIND's stand still).
    Impressions may be in any order; of equal times, the later one is the newer.
    """
    histories: Histories = {}
    clicks: dict[str, dict[str, None]] = {}  # of each reader: those that no later history contains, in order
    for impression in sorted(impressions, key=lambda one: one.time):
        history = set(impression.history)
        since = {click: None for click in clicks.get(impression.user_id, ()) if click not in history}
        for news_id, clicked in zip(impression.candidates, impression.clicked or (), strict=False):
            if clicked and news_id not in history:
                since.pop(news_id, None)
                since[news_id] = None
        histories[impression.user_id], clicks[impression.user_id] = impression.history, since
    return {reader: (*history, *clicks[reader]) for reader, history in histories.items()}


def articles_of(log: Path, news_ids: Collection[str]) -> dict[str, Article]:
    """Those of the asked articles that are in the news files beside the behaviours files of a log, by id.

    Raises:
        InputError: no news file is there, or an asked article is faulty.
    """
    found: dict[str, Article] = {}
    folders = [file.parent for file in behaviors_files(log)]
    files = _files(folders, NEWS)
    if not files:
        raise InputError(f"{folders[0]} has no {NEWS}, which has the titles of the articles: add it")
    policy = FaultPolicy(None)
    for file in files:
        found |= read_news(file, policy, set(news_ids))
    _refuse_faults(policy)
    return found


def _files(folders: Iterable[Path], name: str) -> list[Path]:
    return [file for file in (find_file(folder, name) for folder in folders) if file is not None]


def _refuse_faults(policy: FaultPolicy) -> None:
    if policy.faults:  # in other words than those of the policy: client verbs have no --max-bad-rows
        raise InputError(f"{policy.faults[0]} ({policy.advice})")

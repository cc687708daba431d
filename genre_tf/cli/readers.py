"""Options that say for which reader a verb works, and texts given as such or as files; no TensorFlow."""

import os
import re
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from genre_tf.cli.console import say
from genre_tf.cli.options import Option
from genre_tf.errors import FailureError, InputError

if TYPE_CHECKING:
    from genre_tf.serving import Client

# One word that ends as a text file or begins as a path does; "AC/DC" and "24/7" are texts.
_FILE_NAME = re.compile(r"\S+\.(?:txt|md|tsv)|(?:~|\.{0,2})/\S+", re.IGNORECASE)


def read_text(value: str) -> str:
    r"""The text of the file that `value` names, else `value` itself, in which `\n` means a line break.

    Raises:
        InputError: the file is not UTF-8 or cannot be read, or `value` looks like a file name and there is no
            such file.
    """
    if not value or "\n" in value or len(value) > 4096 or not os.path.isfile(value):  # noqa: PTH113
        if _FILE_NAME.fullmatch(value):
            raise InputError(f"there is no file {value}; give an existing one, or the text itself")
        return value.replace("\\n", "\n")
    try:
        return Path(value).read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{value} cannot be read as UTF-8 text: {error}") from error


def read_titles(value: str) -> list[str]:
    """The titles in a text, one per line; blank lines are skipped."""
    # Not splitlines(): it would also end a title at characters such as U+2028, which titles may hold.
    return [line.strip() for line in read_text(value).split("\n") if line.strip()]


def read_numbers(value: str, option: str) -> list[float]:
    """The numbers in a text, separated by spaces.

    Raises:
        InputError: a word is not a number.
    """
    try:
        return [float(word) for word in value.split()]
    except ValueError as error:
        raise InputError(f"{option} must be numbers separated by spaces; got {value!r}") from error


READER = {
    "history": Option.may_be(str, 'Ids that the reader clicked, oldest first; "" for a new reader.'),
    "history_text": Option.may_be(str, "Titles that the reader clicked, one per line; or a file with them."),
    "user": Option.may_be(str, "Id of a reader of --log, whose clicks are taken from there."),
    "log": Option.may_be(Path, "MIND-format data set, one of its splits, or a behaviors.tsv, also .gz."),
}
"""The options that name a reader."""

_READER_ID = re.compile(r"[Uu]\d+")  # as in MIND
_MOST_NAMED = 5


@dataclass(frozen=True)
class Reader:
    """What a reader clicked, oldest first.

    Args:
        clicks: ids or titles of articles; empty for a new reader.
        by_id: whether they are ids.
        named: how messages call the clicks.
        log: the log with the articles of these ids, if it was given.
    """

    clicks: list[str]
    by_id: bool
    named: str
    log: Path | None = None

    def known(self, known: Container[str], where: str) -> list[str]:
        """The ids that are known. Reports the others on stderr.

        Args:
            known: the known ids.
            where: how messages call the place that knows them.

        Raises:
            InputError: none is known, so the answer would be that for a new reader.
        """
        ids = list(dict.fromkeys(self.clicks))
        unknown = [news_id for news_id in ids if news_id not in known]
        named = ", ".join(unknown[:_MOST_NAMED]) + ", ..." * (len(unknown) > _MOST_NAMED)
        if ids and len(unknown) == len(ids):
            raise InputError(f"{where} contains none of the {self.named} ({named}): {self._advice(ids)}")
        if unknown:
            say(f"ignored {len(unknown)} of {len(ids)} {self.named}, which are not in {where}: {named}")
        return [news_id for news_id in self.clicks if news_id in known]

    def _advice(self, ids: list[str]) -> str:
        if self.named != _OPTION_IDS:
            return "is the log of the same site and time?"
        if all(map(_READER_ID.fullmatch, ids)):
            return "these look like reader ids: give --user with --log, or the ids of articles"
        return 'give the ids of articles that the reader clicked, or "" for a new reader'


_OPTION_IDS = "ids in --history"


def find_reader(
    history: str | None,
    history_text: str | None,
    user: str | None,
    log: Path | None,
    *,
    all_of_log: bool = False,
) -> Reader | None:
    """The reader that the options name; None: they name no reader.

    Args:
        history: value of --history.
        history_text: value of --history-text.
        user: value of --user.
        log: value of --log.
        all_of_log: whether --log alone has a meaning.

    Raises:
        InputError: several were named, --user and --log do not fit, or the log has no such reader.
    """
    options = {"--history": history, "--history-text": history_text, "--user": user}
    given = [name for name, value in options.items() if value is not None]
    if len(given) > 1:
        raise InputError(
            f"give only one of --history (ids), --history-text (titles) and --user; got {' and '.join(given)}"
        )
    if log is not None and (history_text is not None or not (given or all_of_log)):
        raise InputError("--log goes with --user (or with --history): give one of them, or leave out --log")
    if user is None:
        if history is not None:
            return Reader(history.split(), True, _OPTION_IDS, log)
        return None if history_text is None else Reader(read_titles(history_text), False, "titles")
    if log is None:
        raise InputError("--user also needs --log DATA, which has the reader's clicks")
    from genre_tf.data.reader_logs import read_histories

    clicks = list(read_histories(log, user)[user])
    if not clicks:
        say(f"reader {user} has no clicks yet: answered as a new reader")
    return Reader(clicks, True, f"clicks of reader {user}", log)


def required_reader(
    history: str | None, history_text: str | None, user: str | None, log: Path | None
) -> Reader:
    """As `find_reader`, for verbs that work for a reader only and ask a server that knows the ids.

    Raises:
        InputError: also without a reader, and for a log that is not needed.
    """
    reader = find_reader(history, history_text, user, log)
    if reader is None:
        raise InputError("give --history (ids), --history-text (titles), or --user with --log")
    if log is not None and user is None:
        raise InputError("--log goes with --user: give a reader's id with --user, or leave out --log")
    return reader


def find_titles(
    history: str | None, history_text: str | None, user: str | None, log: Path | None
) -> list[str]:
    """The titles that the reader of the options clicked; for ids, from the news files of the log.

    Raises:
        InputError: as for `find_reader`, or there is no log with the titles.
    """
    reader = find_reader(history, history_text, user, log)
    if reader is None:
        return []
    if not reader.by_id or not reader.clicks:
        return reader.clicks
    if reader.log is None:
        raise InputError(
            "texts are written from titles: add --log DATA, whose news.tsv has the titles of --history, or "
            "give --history-text"
        )
    from genre_tf.data.reader_logs import articles_of

    articles = articles_of(reader.log, reader.clicks)
    return [articles[news_id].title for news_id in reader.known(articles, f"the news.tsv of {reader.log}")]


def report_unknown(client: "Client", reader: Reader) -> None:
    """Report, on stderr, the ids of a reader that the server ignored as its index does not contain them.

    Raises:
        InputError: the index contains none of them, so the answer would be that for a new reader.
    """
    ids = list(dict.fromkeys(reader.clicks))
    if not ids:
        return
    try:
        scores = client.score([[]], [ids])[0]
    except (FailureError, InputError):  # another model, or too many ids: its answer does not say
        return
    reader.known({entry.news_id for entry in scores if entry.known}, "the index")

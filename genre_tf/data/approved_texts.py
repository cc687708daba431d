r"""`texts.tsv`, an optional file of a split: texts about its articles that an editor approved or edited.

A line has a kind, the id of an article and the text, between tabs. A line break in the text is written `\n`,
and a backslash `\\`.
"""

import re
from collections.abc import Container, Iterable
from pathlib import Path
from typing import NamedTuple

from genre_tf.contract import KINDS
from genre_tf.data.lines import Fault, FaultPolicy, read_lines, shown, whole_file_fault

TEXTS = "texts.tsv"
LONGEST_TEXT = 20_000
"""Characters of a text; a long article has 10,000."""

MOST_TEXTS = 100_000
"""Texts of a file: they are held in memory."""

_ESCAPED = re.compile(r"\\([\\n])")


class ApprovedText(NamedTuple):
    """A text that may be published. Only a body has more than one line."""

    kind: str  # of KINDS
    article: str
    text: str


def write_texts(path: Path, texts: Iterable[ApprovedText]) -> None:
    """Writes texts, in their order; what is not printable becomes a space."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for one in texts:
            words = "\n".join(map(_printable, one.text.splitlines()))
            escaped = words.replace("\\", r"\\").replace("\n", r"\n")
            file.write(f"{one.kind}\t{one.article}\t{escaped}\n")


def read_texts(path: Path, known: Container[str], policy: FaultPolicy) -> list[ApprovedText]:
    """Reads texts, in their order; a repeated line counts once.

    Args:
        path: `texts.tsv` or `texts.tsv.gz`.
        known: ids of the split's articles.
        policy: what to do with faulty rows.

    Raises:
        InputError: the file is unusable, or the policy stops.
    """
    found: dict[ApprovedText, None] = {}
    for number, line in read_lines(path, policy):
        if len(found) == MOST_TEXTS:
            policy.reject([whole_file_fault(path, f"has over {MOST_TEXTS:,} texts; keep the newest")])
            break
        fields = line.split("\t")
        if len(fields) != 3:
            message = f"{len(fields)} received, 3 expected: kind, article and text, separated by tabs"
            policy.reject([Fault(str(path), number, "columns", message)])
            continue
        kind, article, escaped = fields
        text = _ESCAPED.sub(lambda match: "\n" if match[1] == "n" else "\\", escaped)
        text = text.strip() if kind == "body" else " ".join(text.split())
        faults = []
        if kind not in KINDS:
            faults.append(("kind", f"{shown(kind)} is not a kind; give one of {', '.join(KINDS)}"))
        if article not in known:
            faults.append(("article", f"{shown(article)} is not in the news file; add the article there"))
        if not text:
            faults.append(("text", "is empty; give the approved text, or remove the line"))
        elif len(text) > LONGEST_TEXT:
            faults.append(("text", f"has {len(text):,} characters; at most {LONGEST_TEXT:,} are read"))
        if faults:
            policy.reject([Fault(str(path), number, *fault) for fault in faults])
        else:
            found[ApprovedText(kind, article, text)] = None
    return list(found)


def _printable(line: str) -> str:
    return " ".join("".join(letter if letter.isprintable() else " " for letter in line).split())

"""Texts that people judged: on each line a label (safe or unsafe), a tab, and the text."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from genre_tf.data.faults import Fault, FaultPolicy, shown
from genre_tf.data.lines import read_lines

LABELS = {"safe": False, "0": False, "unsafe": True, "1": True}


@dataclass(frozen=True)
class LabelledTexts:
    """Distinct texts and their labels.

    Args:
        texts: n texts.
        unsafe: bool [n].
    """

    texts: list[str]
    unsafe: npt.NDArray[np.bool_]


def read_labelled_texts(file: Path, policy: FaultPolicy) -> LabelledTexts:
    """Read `label TAB text` lines.

    Args:
        file: UTF-8, gzipped if its name ends in `.gz`; labels are safe or 0, and unsafe or 1. Blank lines are
            skipped; a text that is repeated with its label counts once.
        policy: decides what happens to a faulty line: one without a tab, with another label, without text, or
            with a text that had the other label before.

    Raises:
        InputError: the file cannot be read, or the policy stops.
    """
    found: dict[str, tuple[bool, int]] = {}
    for number, line in read_lines(file, policy):
        if not line.strip():
            continue
        label, _, text = (part.strip() for part in line.partition("\t"))
        fault = _fault(label, text, found)
        if fault is not None:
            policy.reject([Fault(str(file), number, *fault)])
        else:
            found.setdefault(text, (LABELS[label.lower()], number))
    return LabelledTexts(list(found), np.array([unsafe for unsafe, _ in found.values()], bool))


def _fault(label: str, text: str, found: dict[str, tuple[bool, int]]) -> tuple[str, str] | None:
    """Field and message of a line's fault; None if the line is valid."""
    if label.lower() not in LABELS:
        return "label", f"{shown(label)} is not a label; give safe or unsafe (0 or 1), a tab, and the text"
    if not text:
        return "text", "is missing; give the label, a tab, and the text"
    earlier = found.get(text)
    if earlier is not None and earlier[0] != LABELS[label.lower()]:
        return "label", f"line {earlier[1]} has the same text with the other label; keep one of them"
    return None

"""Written texts to look at: a Markdown file in the run's reports, and TensorBoard's text tab."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from genre_tf.errors import FailureError
from genre_tf.evaluation.report import log_folder

MOST_SHOWN = 20
_SIGNS = re.compile(r"([\\`*_{}\[\]<>#|~])")


def shown_samples(samples: Sequence[dict[str, Any]], first: Sequence[str] = ()) -> list[dict[str, Any]]:
    """At most `MOST_SHOWN` samples: those of the readers named first, then others, evenly picked."""
    named = [sample for sample in samples if sample.get("reader") in first][:MOST_SHOWN]
    others = [sample for sample in samples if sample not in named]
    count = min(MOST_SHOWN - len(named), len(others))
    return named + [others[at * len(others) // count] for at in range(count)]


def save_samples(samples: Sequence[dict[str, Any]], run: Path, split: str) -> Path:
    """Write `reports/samples-SPLIT.md`.

    Args:
        samples: results of `personalisation.sample_of`.
        run: the run folder.
        split: the split that they were written for.

    Returns:
        The path of the file.

    Raises:
        FailureError: it cannot be written.
    """
    file = run / "reports" / f"samples-{split}.md"
    parts = [f"# Written for readers of {split}", *map(as_markdown, samples)]
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("\n\n".join(parts) + "\n", "utf-8")
    except OSError as error:
        raise FailureError(
            f"{file} could not be written: {error}; check the folder's permissions and the disk"
        ) from None
    return file


def log_samples(samples: Sequence[dict[str, Any]], run: Path, split: str) -> None:
    """Write the same into TensorBoard's text tab, in `logs/evaluation/SPLIT`."""
    import tensorflow as tf

    writer = tf.summary.create_file_writer(str(log_folder(run, split)))
    with writer.as_default(step=0):
        for number, sample in enumerate(samples, start=1):
            tf.summary.text(f"{split}/written/{number}", as_markdown(sample))
    writer.close()


def as_markdown(sample: dict[str, Any]) -> str:
    """One reader: what they read, the source, the real title, and every text with its scores.

    Args:
        sample: from `personalisation.sample_of`; the reader's id, the clicked title and the other reader may
            be missing.
    """
    clicked, other = "", ""
    if "clicked" in sample:
        clicked = f" Clicked: {_escaped(sample['clicked'])} (interest {sample['clicked_interest']:.4f})"
    if "for_other_reader" in sample:
        other = (
            f"**For another reader:** {_escaped(sample['for_other_reader']['text'])} "
            f"(interest of this reader {sample['for_other_reader']['interest']:.4f})"
        )
    lines = [
        f"## {_escaped(sample['title'])}",
        f"The real title.{clicked}",
        f"**Source:** {_escaped(sample['source'])}",
        "**The reader's newest titles:**",
        "\n".join(f"- {_escaped(title)}" for title in sample["titles"]),
        "**Written, as served:**",
        "\n".join(_line(text) for text in sample["written"]),
        other,
    ]
    return "\n\n".join(line for line in lines if line)


def _line(text: dict[str, Any]) -> str:
    scores = f"interest {text['interest']:.4f}, log probability {text['log_probability']:.2f}"
    claims = ", ".join(_escaped(claim) for claim in text["unsupported"].split("\n") if claim)
    unsupported = f"; not in the source: {claims}" if claims else ""
    unsafe = "" if text["safe"] else "; unsafe"
    return f"- {_escaped(text['text'])} ({scores}, grounding {text['grounding']:.2f}{unsupported}{unsafe})"


def _escaped(text: str) -> str:
    return _SIGNS.sub(r"\\\1", " ".join(text.split()))

"""The report of a turn, for people (`report.md`) and programs (`report.json`)."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from genre_tf.files import whole_file

_VERDICTS = {
    "promoted": "The new version is served to all readers.",
    "rolled back": "The new version was worse; all readers get the one before.",
    "refused": "Nothing was exported.",
    "ended by hand": "The labels stay as somebody has set them.",
    "comparing": "The new version is being compared.",
}


def write_report(state: Mapping[str, Any], folder: Path) -> None:
    """Write both files."""
    for name, text in (
        ("report.json", json.dumps(state, indent=2) + "\n"),
        ("report.md", as_markdown(state)),
    ):
        with whole_file(folder / name) as part:
            part.write_text(text, "utf-8")


def as_markdown(state: Mapping[str, Any]) -> str:
    """The report of a turn as Markdown."""
    steps = state["steps"]
    lines = [
        f"# Turn {state['turn']}: {state['outcome']}",
        f"{_VERDICTS.get(state['outcome'], '')} {state['reason']}".strip(),
        f"Events from {_hour(state['first'])} to {_hour(state['until'])}. Continues `{state['from_run']}`.",
    ]
    rows = []
    if found := steps.get("collect"):
        rows.append(
            (
                "impressions",
                f"{found['impressions']:,}, the newest {found['impressions_newest']:,} to measure",
            )
        )
        rows += [(name, f"{found[name]:,}") for name in ("clicks", "readers", "articles", "skipped")]
        rows.append(("approved texts", f"{found.get('texts', 0):,}"))
    if found := steps.get("check"):
        rows.append(("faults", f"{found['faults']}"))
        rows.append(("warnings", "; ".join(found["warnings"]) or "none"))
    for stage, one in steps.get("train", {}).items():
        if isinstance(one, dict):
            rows.append((f"{stage}, {one['metric']} on held-out impressions", f"{one['best']:.4f}"))
    if found := steps.get("evaluate"):
        for name, run in (("before", "the run before"), ("after", "the new run")):
            if auc := found["auc"][name]:
                ends = "" if auc["low"] is None else f" [{auc['low']:.4f}, {auc['high']:.4f}]"
                rows.append((f"AUC of {run}, newest hours", f"{auc['mean']:.4f}{ends}"))
        interval = f"{found['auc_difference']:+.4f} [{found['low']:.4f}, {found['high']:.4f}]"
        rows.append(("AUC, new run minus the one before, newest hours", interval))
    if found := steps.get("export"):
        rows.append(("versions", f"{found['present']} before, {found['new']} new"))
    for name, label in (("present", "the version before"), ("new", "the new version")):
        if rate := (state.get("comparison") or {}).get(name):
            told = f"{rate['rate']:.4f} ({rate['clicks']:,} of {rate['impressions']:,} impressions, "
            rows.append((f"clicks per impression of {label}", f"{told}{rate['readers']:,} readers)"))
    if comparison := state.get("comparison"):
        enough = 1 / comparison["error_rate"]
        rows.append(("evidence of a difference", f"{comparison['evidence']:.3g}; {enough:g} decides"))
        if comparison["low"] is not None:
            ends = f"[{comparison['low']:+.4f}, {comparison['high']:+.4f}], valid at all looks together"
            rows.append(("difference of the rates", ends))
    rows += [(f"seconds of {name}", f"{found['seconds']:g}") for name, found in steps.items()]
    table = "\n".join(["| what | found |", "|---|---|", *(f"| {what} | {told} |" for what, told in rows)])
    return "\n\n".join([*lines, table]) + "\n"


def _hour(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")

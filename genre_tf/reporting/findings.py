"""What the numbers of an evaluation warn of, in plain sentences."""

from collections.abc import Iterator, Mapping
from typing import Any

_FEW_IMPRESSIONS = 200  # the AUC of so many is known to some 0.02
_WELL_CALIBRATED = 0.01


def findings(report: Mapping[str, Any]) -> list[str]:
    """Limits that this evaluation itself shows.

    Args:
        report: `evaluation-SPLIT.json`.
    """
    return [*_of_ranking(report), *_of_click_model(report), *_of_text(report.get("generation") or {})]


def _of_ranking(report: Mapping[str, Any]) -> Iterator[str]:
    for name, found in report.get("significance", {}).items():
        if found["low"] <= 0 <= found["high"]:
            yield (
                f"{name}: the difference in AUC, {found['difference']:+.3f} ({found['low']:+.3f} to "
                f"{found['high']:+.3f}), may be chance."
            )
        elif found["high"] < 0:
            yield f"{name}: worse, by {-found['difference']:.3f} of AUC."
    for part, count in report.get("slices", {}).items():
        if 0 < count < _FEW_IMPRESSIONS:
            yield f"Slice “{part.replace('_', ' ')}” has only {count} impressions: its numbers are uncertain."


def _of_click_model(report: Mapping[str, Any]) -> Iterator[str]:
    for name, found in report.get("click_model", {}).items():
        if found["calibration_error"] > _WELL_CALIBRATED:
            yield (
                f"Probabilities of {name.replace('_', ' ')} are off by {found['calibration_error']:.3f} on "
                f"average (rate {found['click_rate']:.3f}): use their order, not their level."
            )


def _of_text(generation: Mapping[str, Any]) -> Iterator[str]:
    copied = [each.get("rouge1") or 0.0 for each in generation.get("baselines", {}).values()]
    if copied and (generation.get("rouge1") or 0.0) < max(copied):
        yield (
            f"Written headlines are less like the real ones (ROUGE-1 {generation.get('rouge1') or 0.0:.3f}) "
            f"than the first words of the abstract are ({max(copied):.3f}): no text may go out unread."
        )
    personal = generation.get("personal") or {}
    grounding = personal.get("grounding", generation.get("grounding"))
    if grounding is not None and grounding < 0.95:
        yield (
            f"Of the names, numbers and quotes in written texts {1 - grounding:.0%} do not stand in the "
            "source."
        )
    over = personal.get("first_sample_over_other_reader") or {}
    if over and over["low"] <= 0.5 <= over["high"]:
        yield (
            "A text written for a reader does not interest this reader more than one written for somebody "
            f"else (first samples: wins {over['win_rate']:.2f} of the pairs, chance 0.50)."
        )

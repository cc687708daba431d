"""Warnings that follow from the numbers of an evaluation, in plain sentences."""

from collections.abc import Iterator, Mapping
from typing import Any

_FEW_IMPRESSIONS = 200  # enough to know the AUC to about 0.02
_WELL_CALIBRATED = 0.01


def findings(report: Mapping[str, Any]) -> list[str]:
    """The limits that this evaluation shows.

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
            yield f"{name}: AUC is worse by {-found['difference']:.3f}."
    for part, count in report.get("slices", {}).items():
        if 0 < count < _FEW_IMPRESSIONS:
            yield f"Slice “{part.replace('_', ' ')}” has only {count} impressions: its numbers are uncertain."


def _of_click_model(report: Mapping[str, Any]) -> Iterator[str]:
    for name, found in report.get("click_model", {}).items():
        if found["calibration_error"] > _WELL_CALIBRATED:
            yield (
                f"Probabilities of {name.replace('_', ' ')} are off by {found['calibration_error']:.3f} on "
                f"average (click rate {found['click_rate']:.3f}): use their order, not their values."
            )


def _of_text(generation: Mapping[str, Any]) -> Iterator[str]:
    copied = [each.get("rouge1") or 0.0 for each in generation.get("baselines", {}).values()]
    if copied and (generation.get("rouge1") or 0.0) < max(copied):
        yield (
            f"Written headlines are less similar to real ones (ROUGE-1 {generation.get('rouge1') or 0.0:.3f}"
            f") than the first words of the abstract ({max(copied):.3f}): publish no text without reading it."
        )
    personal = generation.get("personal") or {}
    grounding = personal.get("grounding", generation.get("grounding"))
    if grounding is not None and grounding < 0.95:
        yield (
            f"{1 - grounding:.0%} of the names, numbers and quotes in written texts are not in the source."
        )
    over = personal.get("first_sample_over_other_reader") or {}
    if over and over["low"] <= 0.5 <= over["high"]:
        yield (
            "A text written for a reader does not interest this reader more than a text written for another "
            f"reader (first samples: win rate {over['win_rate']:.2f}, chance is 0.50)."
        )

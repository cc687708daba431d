"""What the numbers of an evaluation say, in plain sentences: a verdict, and what to worry about."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from genre_tf.reporting.tables import scorer_name

_FEW_IMPRESSIONS = 200  # enough to know the AUC to about 0.02
_WELL_CALIBRATED = 0.01
_BEST = "the best baseline"


class Verdict(NamedTuple):
    """One task of a run, compared with the best baseline."""

    task: str  # the heading
    outcome: str  # "better", "within chance", "worse", or "not compared"
    sentence: str  # the numbers behind it


def served_model(report: Mapping[str, Any]) -> str | None:
    """The measured model that is closest to what a server answers; None if no model was measured."""
    measured = report.get("models", {})
    return next((name for name in ("ranker_counters", "ranker", "two_tower") if name in measured), None)


def best_baseline(baselines: Mapping[str, Any], metric: str) -> str | None:
    """The baseline with the largest value over all impressions; None if none has a value."""
    known = {name: parts["all"].get(metric) for name, parts in baselines.items()}
    known = {name: value for name, value in known.items() if value is not None}
    return max(known, key=lambda name: known[name], default=None)


def verdicts(report: Mapping[str, Any]) -> list[Verdict]:
    """Whether the served models beat the best baseline: on impressions, and on the whole pool if measured."""
    return [*_on_impressions(report), *_on_the_pool(report.get("pool") or {})]


def findings(report: Mapping[str, Any], training: Mapping[str, Any] | None = None) -> list[str]:
    """The warnings that follow from an evaluation, most severe first.

    A part that was not measured gives no warning, and what a verdict says is not said again.
    """
    found = [
        (0, f"The last training of {stage} was rejected: the run has no weights of this stage.")
        for stage, result in (training or {}).items()
        if result.get("refused")
    ]
    found += [*_of_ranking(report), *_of_pool(report.get("pool") or {})]
    for name, model in report.get("click_model", {}).items():
        if model["calibration_error"] > _WELL_CALIBRATED:
            said = (
                f"Probabilities of the {scorer_name(name)} are off by {model['calibration_error']:.3f} on "
                f"average (click rate {model['click_rate']:.3f}): use their order, not their values."
            )
            found.append((4 if name == served_model(report) else 6, said))
    found += _of_text(report.get("generation") or {})
    return [line for _, line in sorted(found, key=lambda pair: pair[0])]


def _on_impressions(report: Mapping[str, Any]) -> Iterator[Verdict]:
    name = served_model(report)
    if name is None:
        return
    auc, model = report["models"][name]["all"]["auc"], f"The {scorer_name(name)}"
    best = best_baseline(report["baselines"], "auc")
    found = report.get("significance", {}).get(f"{name} over {best}")
    outcome = "not compared" if found is None else _outcome(found)
    if auc is None:
        sentence = "There is no AUC: in no impression were some of the shown articles clicked and some not."
    elif best is None or found is None:
        sentence = f"{model} has an AUC of {auc:.3f}; it was compared with no baseline."
    else:
        rival, theirs = scorer_name(best), report["baselines"][best]["all"]["auc"]
        gain = f"{abs(found['difference']):.3f} AUC ({_interval(found)})"
        sentence = {
            "better": f"{model} beats the best baseline ({rival}, AUC {theirs:.3f}) by {gain}.",
            "worse": f"{model} is worse than the best baseline ({rival}, AUC {theirs:.3f}) by {gain}.",
            "within chance": f"{model} (AUC {auc:.3f}) is not measurably better than the best baseline "
            f"({rival}, {theirs:.3f}): the difference of {found['difference']:+.3f} ({_interval(found)}) may "
            "be chance.",
        }[outcome]
    yield Verdict("Impressions", outcome, sentence)


def _on_the_pool(pool: Mapping[str, Any]) -> Iterator[Verdict]:
    recall = pool["recommend"]["all"]["recall@10"] if pool else None
    if recall is None:
        return
    best = best_baseline(pool["baselines"], "recall@10")
    found = pool["significance"].get(f"recommend over {best}", {}).get("recall@10")
    sentence = (
        f"From the whole pool, the first 10 recommendations contain {recall:.1%} of the clicked articles"
    )
    if best is None or found is None:
        yield Verdict("Whole pool", "not compared", f"{sentence}; they were compared with no baseline.")
        return
    theirs = pool["baselines"][best]["all"]["recall@10"]
    points = f"{100 * abs(found['difference']):.1f} points"
    ends, outcome = _interval(found, scale=100, digits=1), _outcome(found)
    compared = {
        "better": f"{points} less ({ends})",
        "worse": f"{points} more ({ends})",
        "within chance": f"a difference that may be chance ({ends} points)",
    }[outcome]
    rival = f"those of the best baseline ({scorer_name(best)}) contain {theirs:.1%}"
    yield Verdict("Whole pool", outcome, f"{sentence}; {rival}, {compared}.")


def _outcome(found: Mapping[str, float]) -> str:
    if found["low"] > 0:
        return "better"
    return "worse" if found["high"] < 0 else "within chance"


def _interval(found: Mapping[str, float], scale: float = 1, digits: int = 3) -> str:
    """The interval of a difference, which is positive in either direction unless it may be chance."""
    low, high = scale * found["low"], scale * found["high"]
    if _outcome(found) == "within chance":
        return f"95% interval {low:+.{digits}f} to {high:+.{digits}f}"
    least, most = sorted((abs(low), abs(high)))
    return f"95% interval {least:.{digits}f} to {most:.{digits}f}"


_Found = Iterator[tuple[int, str]]  # the lower the number, the more severe


def _of_ranking(report: Mapping[str, Any]) -> _Found:
    served, best = served_model(report), best_baseline(report.get("baselines", {}), "auc")
    for name, found in report.get("significance", {}).items():
        ours, theirs = name.split(" over ")
        outcome = _outcome(found)
        if outcome == "better" or (ours, theirs) == (served, best):  # the latter is the verdict
            continue
        model, worse = scorer_name(ours), outcome == "worse"
        said = {
            "its start": (f"Training made the {model} worse", f"Training may not have improved the {model}"),
            "ranker": ("Counters make the ranker worse", "Counters may not improve the ranker"),
        }.get(theirs, (f"The {model} is worse than {_BEST}", f"The {model} may be no better than {_BEST}"))
        severity = (0 if worse else 2) if ours == served and theirs != "ranker" else 5 if worse else 6
        yield severity, f"{said[0] if worse else said[1]}: AUC {_change(found)}."
    few = {part: count for part, count in report.get("slices", {}).items() if 0 < count < _FEW_IMPRESSIONS}
    if few:
        slices = ", ".join(f"{part.replace('_', ' ')} ({count})" for part, count in few.items())
        yield 7, f"Few impressions, so uncertain numbers (fewer than {_FEW_IMPRESSIONS}): {slices}."


def _of_pool(pool: Mapping[str, Any]) -> _Found:
    best = best_baseline(pool.get("baselines", {}), "recall@10")
    for name, parts in pool.get("significance", {}).items():
        theirs, found = name.removeprefix("recommend over "), parts.get("recall@10")
        if found is None or _outcome(found) == "better" or theirs == best:
            continue
        worse = _outcome(found) == "worse"
        rival = "retrieval alone" if theirs == "retrieval" else scorer_name(theirs)
        said = f"Recommendations {'are worse' if worse else 'may be no better'} than {rival}"
        yield 1 if worse else 3, f"{said}: recall@10 of the whole pool {_change(found)}."


def _change(found: Mapping[str, float]) -> str:
    return f"{found['difference']:+.3f} ({found['low']:+.3f} to {found['high']:+.3f})"


def _of_text(generation: Mapping[str, Any]) -> _Found:
    copied = [each.get("rouge1") or 0.0 for each in generation.get("baselines", {}).values()]
    ours = generation.get("rouge1") or 0.0
    if copied and ours < max(copied):
        said = f"Written headlines are less similar to real ones (ROUGE-1 {ours:.3f}) than the first words of"
        yield 3, f"{said} the abstract ({max(copied):.3f}): publish no text without reading it."
    personal = generation.get("personal") or {}
    grounding = personal.get("grounding", generation.get("grounding"))
    if grounding is not None and grounding < 0.95:
        said = "of the names, numbers and quotes in written texts are not in the source."
        yield 1, f"{1 - grounding:.0%} {said}"
    over = personal.get("first_sample_over_other_reader") or {}
    if over and over["low"] <= 0.5 <= over["high"]:
        yield (
            4,
            "A text written for a reader does not interest this reader more than a text written for another "
            f"reader (first samples: win rate {over['win_rate']:.2f}, chance is 0.50).",
        )

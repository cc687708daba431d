"""Figures of an evaluation, drawn with matplotlib: the same ones for TensorBoard and the HTML report."""

import io
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from matplotlib import font_manager, rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from genre_tf.reporting.findings import best_baseline
from genre_tf.reporting.tables import scorer_name

_SHOWN_CLICKS = 12  # newest clicks of a history; more labels would be unreadable
_LONGEST_LABEL = 44
_IN_POOL = {"recommend": "recommendations", "retrieval": "retrieval alone"}
# matplotlib's own font has no Chinese, Japanese or Korean; the first installed one of these is used.
_EASTERN_FONTS = ("Noto Sans CJK SC", "WenQuanYi Zen Hei", "Microsoft YaHei", "PingFang SC", "SimHei")


def evaluation_figures(report: Mapping[str, Any]) -> dict[str, Figure]:
    """All figures that an evaluation has numbers for, by title."""
    drawn = {
        "AUC by slice": auc_by_slice,
        "Before and after fine-tuning": before_and_after,
        "Calibration of click probabilities": calibration,
        "Scores of clicked and of all shown articles": score_distributions,
        "Exposure by category": exposure,
        "Reliability of recommendations out of the whole pool": pool_calibration,
    }
    found = {title: draw(report) for title, draw in drawn.items()}
    return {title: figure for title, figure in found.items() if figure is not None}


def auc_by_slice(report: Mapping[str, Any]) -> Figure | None:
    """AUC of every model and the best baseline in every slice, with 95% intervals."""
    intervals = report.get("intervals")
    if not intervals:
        return None
    best = best_baseline(report["baselines"], "auc")
    scorers = {**({} if best is None else {best: report["baselines"][best]}), **report["models"]}
    parts = list(report["slices"])
    figure = Figure(figsize=(8, 0.75 * len(parts) + 1.4), layout="constrained")
    panel = figure.subplots()
    for number, (name, metrics) in enumerate(scorers.items()):
        for place, part in enumerate(parts):
            auc, ends = metrics[part]["auc"], intervals[name][part]
            if auc is None:
                continue
            low, high = ends if ends and None not in ends else (auc, auc)
            panel.errorbar(
                auc,
                place + 0.15 * (number - len(scorers) / 2),
                xerr=[[auc - low], [high - auc]],
                fmt="o",
                markersize=4,
                capsize=2,
                color=f"C{number}",
                label=scorer_name(name) if place == 0 else None,
            )
    panel.axvline(0.5, color="grey", linestyle=":")
    labels = [f"{part.replace('_', ' ')} ({count})" for part, count in report["slices"].items()]
    panel.set_yticks(range(len(parts)), labels)
    panel.invert_yaxis()
    panel.set_xlabel("AUC, mean of impressions, with 95% intervals")
    panel.legend(fontsize="small")
    return figure


def before_and_after(report: Mapping[str, Any]) -> Figure | None:
    """Models before and after training beside the best baseline: AUC of impressions, recall of the pool."""
    pool = report.get("pool") or {}
    impressions = _Panel(
        title="Impressions: AUC",
        metric="auc",
        after=report.get("models", {}),
        before=report["before"].get("models", {}),
        baselines=report["baselines"],
        ends={name: parts.get("all") for name, parts in report.get("intervals", {}).items()},
    )
    whole_pool = _Panel(
        title="Whole pool: recall@10",
        metric="recall@10",
        after={name: pool[name] for name in ("recommend", "retrieval") if pool.get(name)},
        before=report["before"].get("pool") or {},
        baselines=pool.get("baselines", {}),
        ends={name: parts["all"]["recall@10"] for name, parts in pool.get("intervals", {}).items()},
    )
    panels = [panel for panel in (impressions, whole_pool) if panel.names()]
    if not panels:
        return None
    most = max(len(panel.names()) for panel in panels)
    figure = Figure(figsize=(4.6 * len(panels), 0.42 * most + 1.6), layout="constrained")
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        _draw_panel(axes, panel)
        axes.set_ylim(most - 0.5, -0.5)
    marks: dict[str, Any] = {}
    for axes in figure.axes:
        marks |= {label: mark for mark, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(marks.values(), marks.keys(), loc="outside lower center", ncols=3, frameon=False)
    return figure


class _Panel(NamedTuple):
    """One metric of models and baselines, each name > "all" > metric; the ends are those after training."""

    title: str
    metric: str
    after: Mapping[str, Any]
    before: Mapping[str, Any]
    baselines: Mapping[str, Any]
    ends: Mapping[str, Sequence[float | None] | None]

    def names(self) -> list[str]:
        """Models with a value; an impression has no AUC if all or none of the shown articles were clicked."""
        return [name for name, parts in self.after.items() if parts["all"][self.metric] is not None]


def _draw_panel(axes: Any, panel: _Panel) -> None:
    names = panel.names()
    for place, name in enumerate(names):
        after = panel.after[name]["all"][panel.metric]
        before = panel.before.get(name, {}).get("all", {}).get(panel.metric)
        ends = panel.ends.get(name)
        low, high = ends if ends and None not in ends else (after, after)
        if before is not None:
            axes.plot([before, after], [place, place], color="C7", linewidth=1, zorder=1)
            axes.plot(before, place, "o", color="C7", label="before training")
        axes.plot([low, high], [place, place], color="C0", linewidth=4, alpha=0.35, solid_capstyle="butt")
        axes.plot(after, place, "o", color="C0", label="trained, with 95% interval")
        where = {"xycoords": ("axes fraction", "data"), "va": "center", "annotation_clip": False}
        axes.annotate(f"{after:.3f}", (1.02, place), **where)
    best = best_baseline(panel.baselines, panel.metric)
    if best is not None:
        value = panel.baselines[best]["all"][panel.metric]
        axes.axvline(value, color="C3", linestyle="--", linewidth=1.2, label="best baseline", zorder=0)
        axes.set_xlabel(f"best baseline {value:.3f}:\n{scorer_name(best)}", color="C3")
    axes.set_title(panel.title, loc="left", fontsize="medium", fontweight="bold")
    axes.set_yticks(range(len(names)), [_IN_POOL.get(name, scorer_name(name)) for name in names])
    axes.locator_params(axis="x", nbins=5)
    axes.margins(x=0.08)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(left=False)


def calibration(report: Mapping[str, Any]) -> Figure | None:
    """Click rate against click probability, in groups with equal numbers of shown articles."""
    models = report.get("click_model")
    if not models:
        return None
    curves = {
        f"{scorer_name(name)}: off by {found['calibration_error']:.4f}": found["calibration"]
        for name, found in models.items()
    }
    return _reliability(curves, "click probability")


def pool_calibration(report: Mapping[str, Any]) -> Figure | None:
    """Click rate against the whole-pool score of `recommend`."""
    found = report.get("pool", {}).get("calibration", {})
    if not found.get("bins"):
        return None
    groups = [
        {**part, "probability": part["mean_score"], "rate": part["click_rate"]} for part in found["bins"]
    ]
    label = f"recommend: Brier score {found['brier']:.4f}"
    return _reliability({label: groups}, "score of `recommend`")


def _reliability(curves: Mapping[str, Sequence[Mapping[str, float]]], x_label: str) -> Figure:
    """Click rates with intervals against probabilities, by label, with the line where both are equal."""
    figure = Figure(figsize=(5, 4.5), layout="constrained")
    panel = figure.subplots()
    for number, (label, groups) in enumerate(curves.items()):
        rate = np.array([group["rate"] for group in groups])
        panel.errorbar(
            [group["probability"] for group in groups],
            rate,
            yerr=[
                np.maximum(0, rate - [group["low"] for group in groups]),
                np.maximum(0, [group["high"] for group in groups] - rate),
            ],
            marker="o",
            markersize=4,
            capsize=2,
            color=f"C{number}",
            label=label,
        )
    most = max(panel.get_xlim()[1], panel.get_ylim()[1])
    panel.plot([0, most], [0, most], color="grey", linestyle=":", label="perfect")
    panel.set(xlabel=x_label, ylabel="share that was clicked")
    panel.legend(fontsize="small")
    return figure


def score_distributions(report: Mapping[str, Any]) -> Figure | None:
    """Distribution of the probabilities of clicked articles and of all shown articles."""
    models = report.get("click_model")
    if not models:
        return None
    figure = Figure(figsize=(4.5 * len(models), 3.5), layout="constrained")
    panels = figure.subplots(1, len(models), squeeze=False)[0]
    for panel, (name, found) in zip(panels, models.items(), strict=True):
        edges = np.linspace(0, 1, len(found["histogram"]["shown"]))
        for kind, colour in (("shown", "C7"), ("clicked", "C1")):
            counts = np.array(found["histogram"][kind], float)
            panel.step(edges, counts / max(1.0, counts.sum()), where="post", color=colour, label=kind)
        reached = np.cumsum(found["histogram"]["shown"]) / max(1, found["shown"])
        panel.set(
            title=scorer_name(name),
            xlabel="click probability",
            ylabel="share of articles",
            xlim=(0, max(0.05, float(edges[np.searchsorted(reached, 0.999, side="left")]) + 0.02)),
        )
        panel.legend(fontsize="small", loc="upper right")
    return figure


def exposure(report: Mapping[str, Any], most: int = 12) -> Figure | None:
    """Each category's share of the shown articles, the clicks and each model's first places."""
    rows = report.get("categories", [])[:most]
    if not rows:
        return None
    bars = {
        "shown": [row["shown_share"] for row in rows],
        "clicked": [row["click_share"] for row in rows],
        **{
            f"first places, {scorer_name(name)}": [row["first_share"][name] for row in rows]
            for name in rows[0]["first_share"]
        },
    }
    with rc_context({"font.family": _fonts()}):
        figure = Figure(figsize=(8, 4), layout="constrained")
        panel = figure.subplots()
        width = 0.8 / len(bars)
        for number, (label, values) in enumerate(bars.items()):
            places = np.arange(len(rows)) + number * width - 0.4
            panel.bar(places, values, width, align="edge", label=label, color=f"C{number}")
        panel.set_xticks(range(len(rows)), [_plain(row["category"]) for row in rows], rotation=40, ha="right")
        panel.set_ylabel("share")
        panel.legend(fontsize="small", loc="upper right")
        return figure


def attention(sample: Mapping[str, Any]) -> Figure:
    """The attention of a reader's recommended articles over their newest clicks."""
    titles = sample["history"][-_SHOWN_CLICKS:]
    weights = np.array([article["weights"][-_SHOWN_CLICKS:] for article in sample["recommended"]])
    names = [
        f"{_short(article['title'])} ({article['probability']:.3f}{', clicked' * article['clicked']})"
        for article in sample["recommended"]
    ]
    with rc_context({"font.family": _fonts()}):
        figure = Figure(figsize=(11, 5.5), layout="constrained")
        panel = figure.subplots()
        picture = panel.imshow(weights, cmap="Blues", vmin=0, aspect="auto")
        panel.set_xticks(range(len(titles)), [_short(title) for title in titles], rotation=40, ha="right")
        panel.set_yticks(range(len(names)), names)
        panel.tick_params(labelsize="small")
        figure.colorbar(picture, label="weight of the click", shrink=0.6)
        return figure


def lengths(distributions: Mapping[str, Sequence[int]]) -> Figure:
    """Histograms of lengths."""
    figure = Figure(figsize=(9, 2.2 * ((len(distributions) + 1) // 2)), layout="constrained")
    panels = figure.subplots((len(distributions) + 1) // 2, 2, squeeze=False).reshape(-1)
    for panel, (label, counts) in zip(panels, distributions.items(), strict=False):
        panel.bar(range(len(counts)), counts, width=1.0, color="C0")
        panel.set(xlabel=label)
        panel.tick_params(labelsize="small")
    return figure


def as_png(figure: Figure) -> bytes:
    """The figure as a PNG file."""
    out = io.BytesIO()
    with _drawing():
        figure.savefig(out, format="png", dpi=130)
    return out.getvalue()


def as_pixels(figure: Figure) -> npt.NDArray[np.uint8]:
    """The figure as uint8 [height, width, 4]."""
    canvas = FigureCanvasAgg(figure)
    with _drawing():
        canvas.draw()
    return np.asarray(canvas.buffer_rgba())


@contextmanager
def _drawing() -> Iterator[None]:
    with rc_context({"font.family": _fonts()}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # a missing emoji in a title needs no warning
        yield


def _fonts() -> list[str]:
    installed = set(font_manager.get_font_names())
    return ["DejaVu Sans", *(name for name in _EASTERN_FONTS if name in installed)]


def _short(text: str) -> str:
    return _plain(text if len(text) <= _LONGEST_LABEL else f"{text[: _LONGEST_LABEL - 1]}…")


def _plain(text: str) -> str:
    """Without characters that matplotlib treats as mathematics or that the fonts lack."""
    if len(_fonts()) == 1:
        text = "".join(sign if ord(sign) < 0x2E80 else "·" for sign in text)
    return text.replace("$", r"\$")

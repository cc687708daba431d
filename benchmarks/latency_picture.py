"""A plot of latency against request rate."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from genre_tf.benchmarks.load_generator import LoadResult
from genre_tf.benchmarks.peers import peer_module
from genre_tf.errors import InputError

_PERCENTILES = ((50, "tab:green"), (95, "tab:orange"), (99, "tab:red"))
SUFFIXES = (".png", ".svg", ".pdf")


@dataclass(frozen=True)
class Curve:
    """Measurements of one signature.

    Attributes:
        name: name of the signature.
        lone_ms: median latency of a lone request, milliseconds.
        saturation: highest rate that the server kept up with, requests per second.
        runs: runs at several rates, ascending.
    """

    name: str
    lone_ms: float
    saturation: float
    runs: Sequence[LoadResult]


def check_picture(file: Path) -> None:
    """Check that the picture can be drawn, before minutes of measuring.

    Raises:
        InputError: unknown file type, missing folder, or Matplotlib is not installed.
    """
    if file.suffix.lower() not in SUFFIXES:
        raise InputError(f"--picture must be a file that ends in one of {', '.join(SUFFIXES)}; got {file}")
    if not file.parent.is_dir():
        raise InputError(f"--picture {file}: there is no folder {file.parent}; create it first")
    peer_module("matplotlib")


def draw_latency(curves: Sequence[Curve], file: Path) -> None:
    """Plot median, 95th and 99th percentile of the latency of each signature against the rate.

    Args:
        curves: measurements, one panel each.
        file: PNG, SVG or PDF.
    """
    figure = peer_module("matplotlib.figure").Figure(
        figsize=(5 * len(curves), 4), layout="constrained"
    )  # not pyplot, which looks for a display
    panels = figure.subplots(1, len(curves), squeeze=False)[0]
    for panel, curve in zip(panels, curves, strict=True):
        rates = [run.rate for run in curve.runs]
        for share, colour in _PERCENTILES:
            latencies = [run.percentile_ms(share) for run in curve.runs]
            panel.plot(rates, latencies, marker="o", markersize=3, color=colour, label=f"p{share}")
        panel.axhline(curve.lone_ms, color="grey", linestyle=":", label="a lone request's median")
        panel.axvline(curve.saturation, color="black", linestyle="--", label="saturating rate")
        panel.set(
            title=curve.name, xlabel="requests per second", ylabel="latency, ms", yscale="log", xlim=(0, None)
        )
        panel.legend(fontsize="small")
        panel.grid(True, which="both", alpha=0.3)
    figure.savefig(file, dpi=150)

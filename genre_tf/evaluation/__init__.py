"""Ranking and text metrics, slices, baselines; here, without TensorFlow, what an evaluation measures."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from typer import Option


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions:
    """What to measure in an evaluation; the options of `genre evaluate`."""

    models: Annotated[
        str, Option(help="Comma-separated: two_tower, ranker, ranker_counters. Default: all trained ones.")
    ] = ""
    before: Annotated[bool, Option(help="Also measure the same models before training.")] = True
    generation: Annotated[bool, Option(help="Also measure the generator.")] = True
    readers: Annotated[
        int, Option(min=0, help="Readers to write for (0: none); each text is compared with one for another.")
    ] = 200  # each costs as much as two requests to a server; 0 also skips the cold start
    samples: Annotated[
        int | None,
        Option(min=1, max=64, help="Texts per reader, the best of which is served; default: as served."),
    ] = None
    judge: Annotated[
        bool,
        Option(
            help="Also compare texts by two click models of separate halves of the readers, trained once: "
            "one chooses, the other judges."
        ),
    ] = True
    pool: Annotated[
        Literal["split", "first_seen", "published", "none"],
        Option(
            help="Articles that `recommend` may choose from at an impression: split: all of the split; "
            "first_seen: those shown before; published: those published before; none: skip the whole pool."
        ),
    ] = "split"
    refresh_hours: Annotated[
        float,
        Option(
            min=0.0,
            help="Measure the whole pool with counters that the server refreshes only every so many hours; "
            "0: with counters that are always current.",
        ),
    ] = 0.0
    questions: Annotated[
        Path | None,
        Option(
            help="Also measure answers to the questions of this file, tab-separated with the header "
            "question, answer, news_id (`-`: no article answers), alternatives (separated by ` | `)."
        ),
    ] = None
    max_bad_rows: Annotated[int, Option(help="Faulty rows of the split that may be skipped.")] = 0

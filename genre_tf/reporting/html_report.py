"""`genre report`: one HTML file about a run, with embedded pictures and no external requests."""

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from genre_tf.config import RunConfig
from genre_tf.errors import InputError
from genre_tf.evaluation.scoring import has_generator, open_run
from genre_tf.explain.text import marked
from genre_tf.files import whole_file
from genre_tf.generation.safety import classifier_file
from genre_tf.models.checkpoint import WEIGHTS_FILE
from genre_tf.reporting.data_card import data_card
from genre_tf.reporting.figures import as_png, evaluation_figures, lengths
from genre_tf.reporting.findings import findings, verdicts
from genre_tf.reporting.keeping import latency_picture, samples_file
from genre_tf.reporting.tables import pool_lines, report_tables, scorer_name

_STAGES = ("retrieval", "ranking", "generation")
_MOST_REPORT_BYTES = 64 * 2**20
_STRONGEST_CLICKS = 3
_FIRST_READERS, _LATELY_READ, _FIRST_ARTICLES = 3, 3, 4  # of the first screen


def write_html(run: Path, split: str, out: Path | None = None) -> tuple[Path, list[str]]:
    """Write the report of a run.

    Args:
        run: the run folder.
        split: the split that it was evaluated on.
        out: the file, replaced as a whole; None: `RUN/reports/report-SPLIT.html`.

    Returns:
        The file, and, if the run was not evaluated on the split, a line with the command that does it.

    Raises:
        InputError: there is no run folder, a report in it is damaged, or the file's folder does not exist.
        FailureError: the file cannot be written.
    """
    config = open_run(run)
    if not split or split != Path(split).name:
        raise InputError(f"--split {split}: give the split name that was used with `genre evaluate`")
    if out is not None and (out.is_dir() or not out.absolute().parent.is_dir()):
        raise InputError(f"--out {out}: give a file in an existing folder")
    out = out or run / "reports" / f"report-{split}.html"
    evaluation = _read(run / "reports" / f"evaluation-{split}.json")
    samples = _read(samples_file(run, split))
    stages = {stage: _read(run / "reports" / f"training-{stage}.json") for stage in _STAGES}
    training = {stage: result for stage, result in stages.items() if result}
    lacking = _lacking(run, split, evaluation, samples)
    card = data_card(run / "prepared") if (run / "prepared").is_dir() else {}
    html = (
        _environment()
        .get_template("report.html")
        .render(
            run=run.absolute().name,
            split=split,
            lacking=lacking,
            not_measured=_not_measured(run, split, evaluation),
            verdicts=verdicts(evaluation),
            readers=_three_readers(samples),
            data=card,
            report=evaluation,
            training=training,
            config=_described(config),
            findings=findings(evaluation, training),
            pictures=_pictures(run, card, evaluation),
            tables=report_tables(evaluation) if evaluation else {},
            pool_lines=pool_lines(evaluation["pool"]) if evaluation.get("pool") else [],
            recommended=[_with_reasons(sample) for sample in samples.get("recommended", [])],
            written=[_with_marks(sample) for sample in samples.get("written", [])],
            safety_classifier=classifier_file(run).is_file(),
        )
    )
    with whole_file(out) as part:
        part.write_text(html, "utf-8")
    return out, [lacking["evaluation"]] if "evaluation" in lacking else []


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("genre_tf.reporting"),
        autoescape=True,  # titles and names come from data: they are text, never markup
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = lambda value: "–" if value is None else f"{100 * value:.1f}"
    environment.filters["number"] = lambda value, digits=3: "–" if value is None else f"{value:.{digits}f}"
    environment.filters["words"] = scorer_name
    environment.filters["count"] = lambda value: f"{value:,}".replace(",", "\u202f")
    return environment


def _read(file: Path) -> dict[str, Any]:
    """A JSON object; empty if there is no such file."""
    try:
        if file.stat().st_size > _MOST_REPORT_BYTES:
            raise InputError(f"{file} is larger than {_MOST_REPORT_BYTES} bytes; it is not our report")
        found = json.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise InputError(f"{file} cannot be read ({error}); run `genre evaluate` again") from None
    if not isinstance(found, dict):
        raise InputError(f"{file} does not contain a report; run `genre evaluate` again")
    return found


def _lacking(
    run: Path, split: str, evaluation: Mapping[str, Any], samples: Mapping[str, Any]
) -> dict[str, str]:
    """For each part of the first screen that has nothing to show, a line with the command that fills it."""
    measure = _measure(run, split)
    untrained = [stage for stage in _STAGES[:2] if not (run / stage / WEIGHTS_FILE).is_file()]
    train = f"genre train {untrained[0] if len(untrained) == 1 else 'all'} --data DATA --run {run}"
    found = {}
    if not evaluation:
        if len(untrained) == 2:
            found["evaluation"] = f"Nothing is trained yet. Train it: {train}"
        else:
            found["evaluation"] = f"Nothing has been measured on {split} yet. Measure it: {measure}"
    elif not evaluation.get("pool"):
        if untrained:
            found["pool"] = (
                f"The whole pool needs trained retrieval and ranking. Train what is missing: {train}"
            )
        else:
            found["pool"] = f"The whole pool was not measured. Measure it: {measure}"
    if not samples.get("written"):
        if has_generator(run):
            found["written"] = f"No text was written for readers. Write some: {measure}"
        else:
            found["written"] = (
                f"The run has no writer. Train it: genre train generation --data DATA --run {run}"
            )
    if evaluation and not samples.get("recommended"):
        found["readers"] = (
            "The evaluation has no example readers, which need a trained ranker and 3 earlier clicks. "
            f"Measure it: {measure}"
        )
    return found


def _not_measured(run: Path, split: str, evaluation: Mapping[str, Any]) -> str:
    """A note on what this evaluation was not asked for, or did not know yet; empty if there is nothing."""
    parts = (
        ("intervals, calibration and fairness", "click_model" in evaluation),
        ("the models before training", evaluation and evaluation["before"].get("models")),
        ("the quality of written text", evaluation.get("generation") or not has_generator(run)),
    )
    left_out = [name for name, measured in parts if not measured]
    if not evaluation or not left_out:
        return ""
    return f"Not measured: {', '.join(left_out)}. To measure everything: {_measure(run, split)}"


def _measure(run: Path, split: str) -> str:
    return f"genre evaluate {run} --data DATA --split {split}"


def _three_readers(samples: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What readers had read, what they get, and what was written for them: from a server, or measured."""
    recommended = {sample["reader"]: sample for sample in samples.get("recommended", [])}
    written = {sample["reader"]: sample for sample in samples.get("written", []) if sample.get("reader")}
    served = [name for name, sample in written.items() if sample.get("recommended")]
    both = [name for name in recommended if name in written]
    names = list(dict.fromkeys([*served, *both, *recommended]))[:_FIRST_READERS]
    return [_first_screen(name, recommended.get(name, {}), written.get(name, {})) for name in names]


def _first_screen(name: str, sample: Mapping[str, Any], text: Mapping[str, Any]) -> dict[str, Any]:
    """One reader: "name", "read" (newest first), "articles", "source" of the articles, "title", "written"."""
    served = text.get("recommended")
    articles = served or sample.get("from_pool") or sample["recommended"]
    if served:
        source = "by the server"
    elif sample.get("from_pool"):
        source = "from the whole pool"
    else:
        source = f"of {sample['candidates']} shown articles"
    read = text["titles"] if served else sample["history"]
    return {
        "name": name,
        "read": read[::-1][:_LATELY_READ],
        "articles": [
            {"score": each.get("score", each.get("probability")), "clicked": False, **each}
            for each in articles[:_FIRST_ARTICLES]
        ],
        "source": source,
        "title": text.get("title", ""),
        "written": next((each for each in text.get("written", []) if each["safe"] and each["text"]), None),
    }


def _described(config: RunConfig) -> dict[str, Any]:
    return {
        "news backbone": config.news.backbone,
        "trained part": config.news.trainable,
        "writer": config.generation.backbone or "a new small GPT-2",
        "ranking objective": config.ranking.objective,
        "counters": "yes" if config.ranking.counters else "no",
        "newest clicks read": config.data.max_history,
        "continues from": config.continual.from_run or "no earlier run",
        "seed": config.seed,
    }


def _pictures(run: Path, card: Mapping[str, Any], evaluation: Mapping[str, Any]) -> dict[str, str]:
    figures = {"Lengths": lengths(card["lengths"])} if card else {}
    figures |= evaluation_figures(evaluation) if evaluation else {}
    found = {title: as_png(figure) for title, figure in figures.items()}
    latency = latency_picture(run)
    if latency is not None:
        found["Latency against load"] = latency
    return {title: f"data:image/png;base64,{base64.b64encode(png).decode()}" for title, png in found.items()}


def _with_reasons(sample: dict[str, Any]) -> dict[str, Any]:
    """A recommendation with its strongest clicks."""

    def reasons(article: Mapping[str, Any]) -> list[tuple[float, str]]:
        weighed = zip(article["weights"], sample["history"], strict=True)
        return sorted(weighed, key=lambda pair: -pair[0])[:_STRONGEST_CLICKS]

    recommended = [{**article, "reasons": reasons(article)} for article in sample["recommended"]]
    return {**sample, "recommended": recommended}


def _with_marks(sample: dict[str, Any]) -> dict[str, Any]:
    texts = [{**text, "pieces": marked(text["text"], text["unsupported"])} for text in sample["written"]]
    return {**sample, "written": texts}

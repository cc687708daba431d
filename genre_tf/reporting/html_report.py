"""`genre report`: one HTML file about a run, with embedded pictures and no external requests."""

import base64
from collections import Counter
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from jinja2 import Environment, PackageLoader, StrictUndefined

from genre_tf.data.prepared import SPLITS, load_manifest, read_articles, read_examples
from genre_tf.errors import InputError
from genre_tf.evaluation.scoring import has_generator, open_run
from genre_tf.explain.text import marked
from genre_tf.files import read_json_object, whole_file
from genre_tf.generation.safety import classifier_file
from genre_tf.models.checkpoint import WEIGHTS_FILE
from genre_tf.reporting.board import latency_picture, samples_file
from genre_tf.reporting.figures import as_png, evaluation_figures, lengths
from genre_tf.reporting.findings import findings, verdicts
from genre_tf.reporting.tables import pool_lines, report_tables, scorer_name

_STAGES = ("retrieval", "ranking", "generation")
_STRONGEST_CLICKS = 3
_EPOCH = datetime(1970, 1, 1)
_MOST = {
    "clicks before an impression": 60,
    "articles shown at once": 120,
    "characters of a title": 160,
    "characters of an abstract, in tens": 80,
}  # longer ones are counted as of this length
_FIRST_READERS, _LATELY_READ, _FIRST_ARTICLES = 3, 3, 4  # of the first screen


def data_card(prepared: Path) -> dict[str, Any]:
    """What a run was trained on: counts, dates, cold shares and lengths of its prepared folder.

    Returns:
        "articles", "with_abstract" (share), "categories" (names and article counts, largest first),
        "readers", "bad_rows", "splits" (for each: "impressions", "clicks", "candidates", "click_rate",
        "first", "last", "no_history", and for validation "unseen_readers" and "unseen_clicks", the shares
        that do not occur in training), and "lengths": label -> counts by length.
    """
    manifest = load_manifest(prepared)
    articles = read_articles(prepared).articles[1:]
    lengths = {label: np.zeros(most + 1, np.int64) for label, most in _MOST.items()}

    def count(label: str, values: npt.ArrayLike) -> None:
        most = _MOST[label]
        lengths[label] += np.bincount(np.minimum(np.asarray(values, np.int64), most), minlength=most + 1)

    def moment(hours: float | None) -> str:
        return "" if hours is None else f"{_EPOCH + timedelta(hours=hours):%Y-%m-%d %H:%M}"

    splits: dict[str, Any] = {}
    readers: set[str] = set()
    known = np.zeros(0, np.int32)
    for split in SPLITS:
        examples, found = read_examples(prepared, split), manifest["splits"][split]
        earlier, cold_readers, cold_clicks, empty = frozenset(readers), 0, 0, 0
        for block in examples.blocks("user_id", "history", "candidates", "labels"):
            read = np.diff(block.history_ends)
            count("clicks before an impression", read)
            count("articles shown at once", np.diff(block.candidate_ends))
            empty += int(np.count_nonzero(read == 0))
            cold_readers += sum(user not in earlier for user in block.user_id)
            cold_clicks += int(np.count_nonzero(~np.isin(block.candidates[block.labels > 0], known)))
            readers.update(block.user_id)
        known = np.union1d(known, examples.articles("candidates", "history"))
        splits[split] = {
            **{name: found[name] for name in ("impressions", "clicks", "candidates")},
            "click_rate": found["clicks"] / max(1, found["candidates"]),
            **{name: moment(found.get(f"{name}_hours")) for name in ("first", "last")},
            "no_history": empty / max(1, found["impressions"]),
        }
        if split != SPLITS[0]:
            splits[split]["unseen_readers"] = cold_readers / max(1, found["impressions"])
            splits[split]["unseen_clicks"] = cold_clicks / max(1, found["clicks"])
    count("characters of a title", [len(article.title) for article in articles])
    count(
        "characters of an abstract, in tens",
        [-(-len(each.abstract) // 10) for each in articles if each.abstract],
    )
    return {
        "articles": len(articles),
        "with_abstract": sum(bool(article.abstract) for article in articles) / max(1, len(articles)),
        "categories": Counter(article.category or "(none)" for article in articles).most_common(),
        "readers": len(readers),
        "bad_rows": manifest.get("bad_rows", 0),
        "splits": splits,
        "lengths": {label: np.trim_zeros(counts, "b").tolist() for label, counts in lengths.items()},
    }


def write_html(run: Path, split: str, out: Path | None = None) -> tuple[Path, list[str]]:
    """Write the report of a run to a file, by default `RUN/reports/report-SPLIT.html`.

    Returns:
        The file, and, if the run was not evaluated on the split, a line with the command that does it.
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
    measure = f"genre evaluate {run} --data DATA --split {split}"
    lacking = _lacking(run, split, measure, evaluation, samples)
    measured = {
        "intervals, calibration and fairness": "click_model" in evaluation,
        "the models before training": evaluation.get("before", {}).get("models"),
        "the quality of written text": evaluation.get("generation") or not has_generator(run),
    }
    left_out = [name for name, there in measured.items() if evaluation and not there]
    not_measured = left_out and f"Not measured: {', '.join(left_out)}. To measure everything: {measure}"
    card = data_card(run / "prepared") if (run / "prepared").is_dir() else {}
    figures = {"Lengths": lengths(card["lengths"])} if card else {}
    figures |= evaluation_figures(evaluation) if evaluation else {}
    pictures = {title: as_png(figure) for title, figure in figures.items()}
    if (latency := latency_picture(run)) is not None:
        pictures["Latency against load"] = latency
    html = (
        _environment()
        .get_template("report.html")
        .render(
            run=run.absolute().name,
            split=split,
            lacking=lacking,
            not_measured=not_measured,
            verdicts=verdicts(evaluation),
            readers=_three_readers(samples),
            data=card,
            report=evaluation,
            training=training,
            config=config,
            findings=findings(evaluation, training),
            pictures={
                title: f"data:image/png;base64,{base64.b64encode(png).decode()}"
                for title, png in pictures.items()
            },
            tables=report_tables(evaluation) if evaluation else {},
            pool_lines=pool_lines(evaluation["pool"]) if evaluation.get("pool") else [],
            recommended=samples.get("recommended", []),
            written=samples.get("written", []),
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
    environment.filters["reasons"] = lambda article, history: sorted(
        zip(article["weights"], history, strict=True), key=lambda pair: -pair[0]
    )[:_STRONGEST_CLICKS]
    environment.filters["pieces"] = lambda text: marked(text["text"], text["unsupported"])
    environment.filters["words"] = scorer_name
    environment.filters["count"] = lambda value: f"{value:,}".replace(",", "\u202f")
    return environment


def _read(file: Path) -> dict[str, Any]:
    """What `genre evaluate` or `genre train` wrote; empty if there is no such file."""
    return read_json_object(file, "Run `genre evaluate` again.")


def _lacking(
    run: Path, split: str, measure: str, evaluation: Mapping[str, Any], samples: Mapping[str, Any]
) -> dict[str, str]:
    """For each part of the first screen that has nothing to show, a line with the command that fills it."""
    untrained = [stage for stage in _STAGES[:2] if not (run / stage / WEIGHTS_FILE).is_file()]
    train = f"genre train {untrained[0] if len(untrained) == 1 else 'all'} --data DATA --run {run}"
    found = {}
    if not evaluation and len(untrained) == 2:
        found["evaluation"] = f"Nothing is trained yet. Train it: {train}"
    elif not evaluation:
        found["evaluation"] = f"Nothing has been measured on {split} yet. Measure it: {measure}"
    elif not evaluation.get("pool") and untrained:
        found["pool"] = f"The whole pool needs trained retrieval and ranking. Train what is missing: {train}"
    elif not evaluation.get("pool"):
        found["pool"] = f"The whole pool was not measured. Measure it: {measure}"
    if not samples.get("written"):
        found["written"] = (
            f"No text was written for readers. Write some: {measure}"
            if has_generator(run)
            else f"The run has no writer. Train it: genre train generation --data DATA --run {run}"
        )
    if evaluation and not samples.get("recommended"):
        found["readers"] = (
            "The evaluation has no example readers, which need a trained ranker and 3 earlier clicks. "
            f"Measure it: {measure}"
        )
    return found


def _three_readers(samples: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What readers had read, what they get, and what was written for them: from a server, or measured."""
    recommended = {sample["reader"]: sample for sample in samples.get("recommended", [])}
    written = {sample["reader"]: sample for sample in samples.get("written", []) if sample.get("reader")}
    from_server = [name for name, sample in written.items() if sample.get("recommended")]
    both = [name for name in recommended if name in written]
    names = list(dict.fromkeys([*from_server, *both, *recommended]))[:_FIRST_READERS]
    readers = []
    for name in names:
        sample, text = recommended.get(name, {}), written.get(name, {})
        served = text.get("recommended")
        articles = served or sample.get("from_pool") or sample["recommended"]
        if served:
            source = "by the server"
        elif sample.get("from_pool"):
            source = "from the whole pool"
        else:
            source = f"of {sample['candidates']} shown articles"
        texts = [each for each in text.get("written", []) if each["safe"] and each["text"]]
        readers.append(
            {
                "name": name,
                "read": (text["titles"] if served else sample["history"])[::-1][:_LATELY_READ],
                "articles": [
                    {"score": each.get("score", each.get("probability")), "clicked": False, **each}
                    for each in articles[:_FIRST_ARTICLES]
                ],
                "source": source,
                "title": text.get("title", ""),
                "written": texts[0] if texts else None,
            }
        )
    return readers

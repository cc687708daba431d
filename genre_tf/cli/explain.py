"""`genre explain`: why this article for this reader, and which words of a text come from its source."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from genre_tf.cli.clients import Json
from genre_tf.cli.console import load_tensorflow, print_json, progress, results
from genre_tf.cli.options import takes
from genre_tf.cli.readers import READER, Reader, find_reader, read_text
from genre_tf.errors import InputError

if TYPE_CHECKING:
    from genre_tf.explain.article import Explanation


@takes(whose=READER)
def explain(
    run: Annotated[Path, typer.Argument(help="Run folder that `genre train` wrote.")],
    *,
    whose: dict[str, Any],
    candidate: Annotated[str | None, typer.Option(help="Id of the article to explain.")] = None,
    candidate_text: Annotated[
        str | None, typer.Option(help="Title of the article to explain, instead of its id.")
    ] = None,
    text: Annotated[str | None, typer.Option(help="Generated text to explain, or a file with it.")] = None,
    source: Annotated[str | None, typer.Option(help="Source of --text, or a file with it.")] = None,
    news: Annotated[
        Path | None, typer.Option(help="news.tsv with articles that are newer than the training data.")
    ] = None,
    least_words: Annotated[
        int, typer.Option(min=1, help="Shortest run of words that counts as taken from the source.")
    ] = 2,
    top: Annotated[int, typer.Option(min=1, help="Number of clicks and of words to print.")] = 10,
    json: Json = False,
) -> None:
    """Explain why a reader gets an article, and where the words of a generated text come from.

    Example: genre explain runs/mind --history "N55528 N19639" --candidate N37178

    Clicks: the ranker's attention, and how the probability changes without each click. Words: integrated
    gradients of the click logit. With --text and --source: the runs of words that are in both; with a reader
    but no article, the text is also explained as the candidate.
    """
    reader = find_reader(**whose)
    _check(text, source, reader, (candidate, candidate_text))
    written = None if text is None else read_text(text).strip()
    answer: dict[str, Any] = {}
    explanation = None
    if reader is not None:
        title = written if candidate_text is None else candidate_text
        explanation = _explained(run, reader, candidate, title, news)
        answer["article"] = asdict(explanation)
    if written is not None:
        answer["text"] = _spans(written, read_text(source or ""), least_words)
    if json:
        print_json(answer)
        return
    if explanation is not None:
        _print_article(explanation, top)
    if written is not None:
        _print_spans(answer["text"])


def _check(
    text: str | None,
    source: str | None,
    reader: Reader | None,
    article: tuple[str | None, str | None],
) -> None:
    if (text is None) != (source is None):
        raise InputError("--text and --source go together: give both, or neither")
    if None not in article:
        raise InputError("give --candidate (an id) or --candidate-text (a title), not both")
    has_article = article != (None, None)
    if (reader is None) == has_article and (has_article or text is None):
        raise InputError(
            "give a reader (--history, --history-text or --user) and an article (--candidate or "
            "--candidate-text)"
        )
    if text is None and reader is None:
        raise InputError("give a reader and an article, or --text and --source")


def _explained(
    run: Path, reader: Reader, candidate: str | None, title: str | None, news: Path | None
) -> "Explanation":
    with progress.status(escape(f"reading {run}")):
        load_tensorflow()
        from genre_tf.data.mind import read_news
        from genre_tf.data.reader_logs import articles_of
        from genre_tf.evaluation.scoring import run_articles
        from genre_tf.explain.article import Explainer, titled

        articles, where = run_articles(run), "the run"
        if reader.log is not None:
            articles |= articles_of(reader.log, [*reader.clicks, *([candidate] if candidate else [])])
        if news is not None:
            articles |= read_news(news)
        if reader.log is not None or news is not None:
            where += " or the given news"
        if candidate is not None and candidate not in articles:
            raise InputError(
                f"article {candidate!r} is not in {where}: give --news with its news file, or its title"
            )
        if reader.by_id:
            clicks = [articles[news_id] for news_id in reader.known(articles, where)]
        else:
            clicks = [titled(click) for click in reader.clicks]
        explainer = Explainer(run)
        return explainer(clicks, titled(title or "") if candidate is None else articles[candidate])


def _spans(written: str, source: str, least_words: int) -> dict[str, Any]:
    from genre_tf.explain.text import share_from_source, source_spans

    spans = source_spans(written, source, least_words)
    return {
        "text": written,
        "share_from_source": share_from_source(written, spans),
        "spans": [
            {
                **span._asdict(),
                "written": written[slice(*span.text)],
                "in_source": source[slice(*span.source)],
            }
            for span in spans
        ],
    }


def _print_article(explanation: "Explanation", top: int) -> None:
    results.print(f"{explanation.title}  {explanation.news_id}".strip())
    results.print(
        f"click probability {explanation.probability:.4f}; for a reader without history "
        f"{explanation.probability_without_history:.4f} (both without counters)"
    )
    if explanation.clicks:
        table = Table("attention", "without it", "change", "click", box=None)
        for click in sorted(explanation.clicks, key=lambda click: -click.weight)[:top]:
            numbers = (f"{click.weight:.3f}", f"{click.without:.4f}", f"{click.change:+.4f}")
            table.add_row(*numbers, f"{click.title}  {click.news_id}".strip())
        results.print(table)
    words = explanation.words
    results.print(
        f"words: {words.logit - words.without_words:+.3f} of the logit, compared with a masked text"
    )
    table = Table("adds", "word", box=None)
    for word in sorted(words.words, key=lambda word: -abs(word.score))[:top]:
        table.add_row(f"{word.score:+.3f}", word.word.strip())
    results.print(table)


def _print_spans(told: dict[str, Any]) -> None:
    results.print(f"{told['share_from_source']:.0%} of the words are in runs taken from the source:")
    for span in told["spans"]:
        first, end = span["source"]
        results.print(f"  {span['written']!r}  (characters {first} to {end} of the source)")

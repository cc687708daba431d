"""`genre explain`: why this article, and where a text's words come from; `profile`: what readers like."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from genre_tf.cli.clients import READER, Reader, find_reader, read_text
from genre_tf.cli.console import load_tensorflow, print_json, results, working
from genre_tf.cli.options import Json, MaxBadRows, Run, takes
from genre_tf.errors import InputError

if TYPE_CHECKING:
    from genre_tf.explain.article import Explanation


@takes(whose=READER)
def explain(
    run: Run,
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
    if (text is None) != (source is None):
        raise InputError("--text and --source go together: give both, or neither")
    if None not in (candidate, candidate_text):
        raise InputError("give --candidate (an id) or --candidate-text (a title), not both")
    has_article = (candidate, candidate_text) != (None, None)
    if (reader is None) == has_article and (has_article or text is None):
        raise InputError(
            "give a reader (--history, --history-text or --user) and an article (--candidate or "
            "--candidate-text)"
        )
    if text is None and reader is None:
        raise InputError("give a reader and an article, or --text and --source")
    written = None if text is None else read_text(text).strip()
    answer: dict[str, Any] = {}
    explanation = None
    if reader is not None:
        title = written if candidate_text is None else candidate_text
        explanation = _explained(run, reader, candidate, title, news)
        answer["article"] = asdict(explanation)
    if written is not None:
        from genre_tf.explain.text import share_from_source, source_spans

        origin = read_text(source or "")
        spans = source_spans(written, origin, least_words)
        answer["text"] = {
            "text": written,
            "share_from_source": share_from_source(written, spans),
            "spans": [
                {
                    **span._asdict(),
                    "written": written[slice(*span.text)],
                    "in_source": origin[slice(*span.source)],
                }
                for span in spans
            ],
        }
    if json:
        print_json(answer)
        return
    if explanation is not None:
        _print_article(explanation, top)
    if written is not None:
        share = answer["text"]["share_from_source"]
        results.print(f"{share:.0%} of the words are in runs taken from the source:")
        for found in answer["text"]["spans"]:
            first, end = found["source"]
            results.print(f"  {found['written']!r}  (characters {first} to {end} of the source)")


def _explained(
    run: Path, reader: Reader, candidate: str | None, title: str | None, news: Path | None
) -> "Explanation":
    with working(f"reading {run}"):
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


@takes(whose=READER)
def profile(
    run: Run,
    *,
    whose: dict[str, Any],
    safety_list: Annotated[
        Path | None, typer.Option(help="File of words that must not be named, as for `genre export`.")
    ] = None,
    max_bad_rows: MaxBadRows = 0,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON document per reader, each on a line.")
    ] = False,
) -> None:
    """Describe what readers like, using only the categories and words of their clicks.

    --log without --user describes every reader of the log. The run's user tower weighs the clicks; --json
    lists the clicks behind each word.

    Example: genre profile runs/mind --history "N55528 N19639"
    """
    user, log = whose["user"], whose["log"]
    reader = find_reader(**whose, all_of_log=True)
    if reader is None and log is None:
        raise InputError("give --history (ids), --history-text (titles), or --log for its readers")
    load_tensorflow()
    from genre_tf.data.lines import FaultPolicy
    from genre_tf.data.reader_logs import articles_of, read_histories
    from genre_tf.evaluation.scoring import run_articles
    from genre_tf.explain.article import titled
    from genre_tf.explain.reader import profiles
    from genre_tf.generation.safety import read_safety_list

    safety = None if safety_list is None else read_safety_list(safety_list)
    known = run_articles(run)
    if reader is not None and not reader.by_id:
        titles = {str(place): titled(title, str(place)) for place, title in enumerate(reader.clicks, 1)}
        known, histories = known | titles, {"": tuple(titles)}
    else:
        histories = {} if reader is None else {user or "": tuple(reader.clicks)}
        if reader is None and log is not None:
            histories = read_histories(log, policy=FaultPolicy.allowing(max_bad_rows))
        if log is not None:
            known |= articles_of(log, {news_id for clicks in histories.values() for news_id in clicks})
        if reader is not None:
            reader.known(known, "the run or the log" if log else "the run")
    for name, described in profiles(run, known, histories, safety):
        if as_json:
            indent = None if len(histories) > 1 else 2  # one document per line, or one to read
            print_json({"reader": name} | asdict(described), indent)
        else:
            results.print(f"{name}: {described.sentence}" if name else described.sentence)

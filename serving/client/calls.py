"""Requests, each a method of `Client` and `AsyncClient`, and their answers. No network here.

A row is one string: ids joined by spaces, titles by newlines. TensorFlow Serving pads inputs of variable
length with the first element of the request's own tensor: in a shared batch a history given as a matrix would
get copies of its first click. A joined row needs no padding.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from operator import itemgetter
from typing import Any, Generic, TypeVar

import numpy as np

from genre_tf.contract import COUNTERS, GENERATOR, KINDS, RECOMMENDER, SIGNATURES, TONES
from genre_tf.errors import FailureError, InputError
from genre_tf.serving.client.messages import PredictRequest, read_json, to_array, write_json, write_proto

Ids = Sequence[str]
Titles = Sequence[str]
Outputs = Mapping[str, np.ndarray]
Answer = TypeVar("Answer")
Entry = TypeVar("Entry", bound=tuple[Any, ...])


@dataclass(frozen=True, slots=True)
class Recommendation:
    """An article to show, with the ranker's score; lists are sorted best first."""

    news_id: str
    title: str
    score: float


@dataclass(frozen=True, slots=True)
class CandidateScore:
    """Probability that the reader clicks an article; `known` says whether the index contains it."""

    news_id: str
    click_probability: float
    known: bool


@dataclass(frozen=True, slots=True)
class TitleScore:
    """Probability that the reader clicks an article with this title."""

    title: str
    click_probability: float


@dataclass(frozen=True, slots=True)
class Explanation:
    """How much each click counts for a candidate: id and weight of every known click, oldest first.

    The weights sum to 1 if the index contains the candidate.
    """

    news_id: str
    weights: list[tuple[str, float]]


@dataclass(frozen=True, slots=True)
class GeneratedText:
    """A text written for a reader; lists are sorted best first, unsafe texts last, without repeated texts.

    Args:
        text: the text.
        interest: the click model's probability that this reader clicks it.
        log_probability: log probability of the text under the language model.
        grounding: how much of the text the source supports, 0 to 1.
        safe: whether the text passed the safety rules. If not, the text is "" and the numbers are -1,
            unless the models were exported with `--show-unsafe`.
    """

    text: str
    interest: float
    log_probability: float
    grounding: float
    safe: bool


@dataclass(frozen=True, slots=True)
class QuestionAnswer:
    """The answer to a question, and the articles that it was written from.

    Args:
        texts: (text, probability by the click model that this reader clicks it), best first; empty if no
            article is close to the question.
        evidence: (id, title) of each article, nearest first.
    """

    texts: list[tuple[str, float]]
    evidence: list[tuple[str, str]]


@dataclass(frozen=True)
class Call(Generic[Answer]):
    """One request, by the contract of its signature: `inputs` has one entry per reader."""

    servable: str
    signature: str
    inputs: Mapping[str, np.ndarray]
    read: Callable[[Outputs], Answer]

    def request(self, model: str) -> Any:
        """The PredictRequest."""
        request = PredictRequest()
        request.model_spec.name = model
        request.model_spec.signature_name = self.signature
        for name, value in self.inputs.items():
            write_proto(value, request.inputs[name])
        return request

    def document(self) -> dict[str, Any]:
        """The JSON document of REST's Predict, in column form."""
        columns = {name: write_json(value) for name, value in self.inputs.items()}
        return {"signature_name": self.signature, "inputs": columns}

    def answer(self, response: Any) -> Answer:
        """Read a PredictResponse, or the JSON document with which REST answers.

        Raises:
            FailureError: the response does not fit this signature.
        """
        try:
            if not isinstance(response, dict):
                return self.read({name: to_array(proto) for name, proto in response.outputs.items()})
            outputs, promised = response["outputs"], SIGNATURES[self.servable][self.signature].outputs
            if len(promised) == 1:  # REST answers a single output without its name
                outputs = {promised[0].name: outputs}
            return self.read({name: read_json(values) for name, values in outputs.items()})
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            raise FailureError(
                f"the server's answer to `{self.signature}` is not what genre_tf exports ({error}): "
                "is another model served under this name?"
            ) from error


def recommend(histories: Sequence[Ids]) -> Call[list[list[Recommendation]]]:
    """Recommend articles to readers, given the ids of the articles that they clicked.

    Args:
        histories: clicked ids of each reader, oldest first; empty for a new reader.
    """
    return _call("recommend", _recommendations, history=histories)


def recommend_live(
    histories: Sequence[Ids], live: Sequence[Mapping[str, Sequence[float]]]
) -> Call[list[list[Recommendation]]]:
    """Like `recommend`, with current counters for up to 2,000 articles.

    The answer is the same as that of a version refreshed with these counters.

    Args:
        histories: clicked ids of each reader, oldest first.
        live: for each reader, article id -> its counters in the order of `genre_tf.contract.COUNTERS`:
            clicks, views, age in hours, clicks halved every 1, 6 and 24 hours, then views halved
            every 1, 6 and 24 hours.
    """
    for of_reader in live:
        for news_id, numbers in of_reader.items():
            if len(numbers) != len(COUNTERS):
                raise InputError(
                    f"the counters of {news_id!r} must be {len(COUNTERS)} numbers ({', '.join(COUNTERS)}); "
                    f"got {len(numbers)}"
                )
    columns = {
        name: [[numbers[place] for numbers in one.values()] for one in live]
        for place, name in enumerate(COUNTERS)
    }
    return _call(
        "recommend_live", _recommendations, history=histories, news_id=list(map(list, live)), **columns
    )


def recommend_text(histories: Sequence[Titles]) -> Call[list[list[Recommendation]]]:
    """Recommend articles to readers, given the titles that they clicked, oldest first."""
    return _call("recommend_text", _recommendations, history_text=histories)


def score(histories: Sequence[Ids], candidates: Sequence[Ids]) -> Call[list[list[CandidateScore]]]:
    """Click probabilities of candidates, in the order given.

    Args:
        histories: clicked ids of each reader, oldest first.
        candidates: ids of the candidates of each reader.
    """
    return _call("score", _scores(CandidateScore, candidates), history=histories, candidates=candidates)


def score_counters(
    histories: Sequence[Ids],
    candidates: Sequence[Ids],
    clicks: Sequence[Sequence[float]],
    views: Sequence[Sequence[float]],
    age_hours: Sequence[Sequence[float]],
) -> Call[list[list[CandidateScore]]]:
    """Like `score`, with the live counters of each candidate: clicks, views and age in hours."""
    counters = {"clicks": clicks, "views": views, "age_hours": age_hours}
    for name, rows in counters.items():
        if [len(row) for row in rows] != [len(row) for row in candidates]:
            raise InputError(f"{name} must give one number for each candidate of each reader")
    read = _scores(CandidateScore, candidates)
    return _call("score_counters", read, history=histories, candidates=candidates, **counters)


def score_text(histories: Sequence[Titles], candidates: Sequence[Titles]) -> Call[list[list[TitleScore]]]:
    """Click probabilities of titles, in the order given; they need not be in the index."""
    read = _scores(TitleScore, candidates)
    return _call("score_text", read, history_text=histories, candidates_text=candidates)


def explain(histories: Sequence[Ids], candidates: Sequence[Ids]) -> Call[list[list[Explanation]]]:
    """How much each click of a reader counts for each candidate, in the order given."""

    def read(outputs: Outputs) -> list[list[Explanation]]:
        rows = zip(candidates, *_columns(outputs, "history_id", "weight"), strict=True)
        return [
            [
                Explanation(news_id, [pair for pair in zip(clicks, one, strict=True) if pair[0]])
                for news_id, one in _own(news_ids, weights)
            ]
            for news_ids, clicks, weights in rows
        ]

    return _call("explain", read, history=histories, candidates=candidates)


def embed_news(texts: Sequence[str]) -> Call[np.ndarray]:
    """Vectors of news texts, float32 [texts, dimensions]."""
    return _call("embed_news", itemgetter("embedding"), text=texts)


def embed_user(histories: Sequence[Ids]) -> Call[np.ndarray]:
    """Vectors of readers, float32 [readers, dimensions]."""
    return _call("embed_user", itemgetter("embedding"), history=histories)


def generate(
    histories: Sequence[Titles], sources: Sequence[str], kinds: Sequence[str], seeds: Sequence[int]
) -> Call[list[list[GeneratedText]]]:
    """Write texts for readers.

    Args:
        histories: titles that each reader clicked, oldest first.
        sources: the article to write from for each reader, or "" to write from interest alone.
        kinds: `title`, `summary` or `body` for each reader.
        seeds: an int64 for each reader; the same seed writes the same text.
    """
    check_kinds(kinds)
    return _call("generate", _texts, history_text=histories, source=sources, kind=kinds, seed=seeds)


def generate_styled(
    histories: Sequence[Titles],
    sources: Sequence[str],
    kinds: Sequence[str],
    seeds: Sequence[int],
    tones: Sequence[str],
    topics: Sequence[str],
) -> Call[list[list[GeneratedText]]]:
    """Like `generate`, in a tone and about a topic; texts that follow both come first.

    Args:
        histories: titles that each reader clicked, oldest first; empty for a new reader.
        sources: articles to write from; "" to write about the topic, or from interest alone.
        kinds: what to write for each reader, of `genre_tf.contract.KINDS`.
        seeds: an int64 for each reader; the same seed writes the same text.
        tones: the tone for each reader, of `genre_tf.contract.TONES`; "" for any.
        topics: what each text should be about, in a few words; "" for anything.
    """
    check_kinds(kinds)
    check_tones(tones)
    written = {"history_text": histories, "source": sources, "kind": kinds, "seed": seeds}
    return _call("generate_styled", _texts, **written, tone=tones, topic=topics)


def answer(
    questions: Sequence[str], histories: Sequence[Titles], seeds: Sequence[int]
) -> Call[list[QuestionAnswer]]:
    """Answer readers' questions from the articles closest to each question.

    Args:
        questions: one question per reader.
        histories: titles that each reader clicked, oldest first.
        seeds: an int64 for each reader; the same seed writes the same text.
    """

    def read(outputs: Outputs) -> list[QuestionAnswer]:
        written = _rows(outputs, "text", "interest")
        found = _rows(outputs, "evidence_id", "evidence_title")
        return [
            QuestionAnswer(_distinct(texts), [pair for pair in evidence if pair[0]])
            for texts, evidence in zip(written, found, strict=True)
        ]

    return _call("answer", read, question=questions, history_text=histories, seed=seeds)


def check_kinds(kinds: Sequence[str]) -> None:
    """Check that the generator can write each kind of text."""
    for kind in kinds:
        if kind not in KINDS:
            raise InputError(f"kind must be one of {', '.join(KINDS)}; got {kind!r}")


def check_tones(tones: Sequence[str]) -> None:
    """Check that the generator knows each tone; "" is any."""
    for tone in tones:
        if tone not in ("", *TONES):
            raise InputError(f"tone must be one of {', '.join(TONES)}, or empty for any; got {tone!r}")


def join_ids(ids: Sequence[str]) -> str:
    """Ids joined by spaces; each must be one word, or it would be read as no id or as two."""
    _refuse_bare_string(ids)
    for news_id in ids:
        if len(news_id.split()) != 1 or news_id != news_id.strip():
            raise InputError(f"an article id must be one word; got {news_id!r} among {len(ids)} ids")
    return " ".join(ids)


def join_titles(titles: Sequence[str]) -> str:
    """Titles joined by newlines, each on one line; a blank one, which no answer would have, is refused."""
    _refuse_bare_string(titles)
    cleaned = [clean_text(title) for title in titles]
    if "" in cleaned:
        raise InputError(f"title {cleaned.index('') + 1} of {len(titles)} is blank: leave it out")
    return "\n".join(cleaned)


def join_numbers(numbers: Sequence[float]) -> str:
    """Numbers of at least 0 joined by spaces, with as few digits as restore them exactly."""
    for number in numbers:
        if not 0 <= number < float("inf"):
            raise InputError(f"clicks, views and hours must be finite numbers of at least 0; got {number}")
    return " ".join(f"{number:.0f}" if number == int(number) else repr(float(number)) for number in numbers)


def clean_text(text: str) -> str:
    """One line of text: every run of whitespace becomes a space."""
    return " ".join(text.split())


_JOINED: Mapping[str, Callable[[Any], str]] = {
    "ids": join_ids,
    "titles": join_titles,
    "numbers": join_numbers,
    "text": str,
}


def _call(signature: str, read: Callable[[Outputs], Answer], **rows: Sequence[Any]) -> Call[Answer]:
    """The call of a signature, given for each of its inputs one entry per reader."""
    servable = GENERATOR if signature in SIGNATURES[GENERATOR] else RECOMMENDER
    expected = SIGNATURES[servable][signature].inputs
    inputs = {one.name: _encoded(one.parts, rows[one.name]) for one in expected}
    lengths = {name: len(value) for name, value in inputs.items()}
    if len(set(lengths.values())) > 1:
        raise InputError(f"every argument must have one entry per reader; got {lengths}")
    return Call(servable, signature, inputs, read)


def _encoded(parts: str, rows: Sequence[Any]) -> np.ndarray:
    """The rows as the contract says what they consist of: [readers]."""
    if parts != "seed":
        return np.array([_JOINED[parts](row).encode("utf-8", "replace") for row in rows], object)
    try:
        return np.array(rows, np.int64)
    except (OverflowError, TypeError, ValueError) as error:
        raise InputError(f"seeds must be 64-bit integers; got {list(rows)[:5]!r}") from error


def _refuse_bare_string(values: Sequence[str]) -> None:
    if isinstance(values, str):
        raise InputError(f"a row must be a list of strings; got the string {values[:40]!r}")


def _texts(outputs: Outputs) -> list[list[GeneratedText]]:
    rows = _rows(outputs, "text", "interest", "log_probability", "grounding", "safe")
    return [[GeneratedText(*entry) for entry in [*_distinct(row), *filter(_held_back, row)]] for row in rows]


def _recommendations(outputs: Outputs) -> list[list[Recommendation]]:
    rows = _rows(outputs, "news_id", "title", "score")
    return [[Recommendation(*entry) for entry in row if entry[0]] for row in rows]


def _scores(kind: Any, candidates: Sequence[Sequence[str]]) -> Callable[[Outputs], list[list[Any]]]:
    """Reads an answer; its outputs are the fields of `kind`, behind the candidate itself."""
    names = [one.name for one in fields(kind)][1:]

    def read(outputs: Outputs) -> list[list[Any]]:
        rows = zip(candidates, _rows(outputs, *names), strict=True)
        return [[kind(one, *entry) for one, entry in _own(own, row)] for own, row in rows]

    return read


def _own(candidates: Sequence[str], row: list[Entry]) -> list[tuple[str, Entry]]:
    """Each candidate with its entry; the server pads rows to the one with the most candidates."""
    if len(row) < len(candidates):
        raise FailureError(
            f"the server scored {len(row)} of {len(candidates)} candidates: ask for fewer at a time"
        )
    return list(zip(candidates, row, strict=False))


def _distinct(entries: Iterable[Entry]) -> list[Entry]:
    """Entries with a text, without those whose text differs from a better one only in case and whitespace."""
    first: dict[str, Entry] = {}
    for entry in entries:
        first.setdefault(clean_text(entry[0]).casefold(), entry)
    first.pop("", None)
    return list(first.values())


def _held_back(entry: tuple[Any, ...]) -> bool:
    """Whether the server did not return an unsafe text."""
    return not entry[0] and not entry[-1]


def _rows(outputs: Outputs, *names: str) -> list[list[tuple[Any, ...]]]:
    """For each reader a list of entries, each with one value of every output."""
    return [list(zip(*row, strict=True)) for row in zip(*_columns(outputs, *names), strict=True)]


def _columns(outputs: Outputs, *names: str) -> list[list[Any]]:
    decoded = np.frompyfunc(lambda text: text.decode("utf-8", "replace"), 1, 1)
    values = [outputs[name] for name in names]
    return [(decoded(value) if value.dtype == np.object_ else value).tolist() for value in values]

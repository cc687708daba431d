"""Every request to the servables: what is sent, and how the answer is read. No network here.

A row is one string: ids joined by spaces, titles by newlines. TensorFlow Serving pads inputs of variable
length with the first element of the request's own tensor: in a shared batch a history given as a matrix would
get copies of its first click. A joined row needs no padding.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from typing import Any, Generic, TypeVar

import numpy as np

from genre_tf.contract import COUNTERS, GENERATOR, KINDS, RECOMMENDER, SIGNATURES
from genre_tf.errors import FailureError, InputError
from genre_tf.serving.client.answers import (
    CandidateScore,
    Explanation,
    GeneratedText,
    QuestionAnswer,
    Recommendation,
    TitleScore,
)
from genre_tf.serving.client.messages import PredictRequest
from genre_tf.serving.client.tensors import read_json, to_array, write_json, write_proto

Ids = Sequence[str]
Titles = Sequence[str]
Outputs = Mapping[str, np.ndarray]
Answer = TypeVar("Answer")
Entry = TypeVar("Entry", bound=tuple[Any, ...])


@dataclass(frozen=True)
class Call(Generic[Answer]):
    """One request, by the contract of its signature.

    Attributes:
        servable: the servable that has the signature.
        signature: name of the signature.
        inputs: input name -> array with one entry per reader.
        read: turns the signature's outputs into the answer.
    """

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
            return self.read(self._outputs(response))
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            raise FailureError(
                f"the server's answer to `{self.signature}` is not what genre_tf exports ({error}): "
                "is another model served under this name?"
            ) from error

    def _outputs(self, response: Any) -> Outputs:
        if not isinstance(response, dict):
            return {name: to_array(proto) for name, proto in response.outputs.items()}
        outputs, promised = response["outputs"], SIGNATURES[self.servable][self.signature].outputs
        if len(promised) == 1:  # REST answers a single output without its name
            outputs = {promised[0].name: outputs}
        return {name: read_json(values) for name, values in outputs.items()}


def recommend(histories: Sequence[Ids]) -> Call[list[list[Recommendation]]]:
    """Recommend articles to readers, given the ids of the articles that they clicked."""
    return _call("recommend", _recommendations, history=histories)


def recommend_live(
    histories: Sequence[Ids], live: Sequence[Mapping[str, Sequence[float]]]
) -> Call[list[list[Recommendation]]]:
    """Like `recommend`, with current counters: for each reader, article id -> one number per `COUNTERS`."""
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
    ids = [list(one) for one in live]
    return _call("recommend_live", _recommendations, history=histories, news_id=ids, **columns)


def recommend_text(histories: Sequence[Titles]) -> Call[list[list[Recommendation]]]:
    """Recommend articles to readers, given the titles that they clicked."""
    return _call("recommend_text", _recommendations, history_text=histories)


def score(histories: Sequence[Ids], candidates: Sequence[Ids]) -> Call[list[list[CandidateScore]]]:
    """Click probabilities of candidates."""
    return _call("score", partial(_scores, candidates), history=histories, candidates=candidates)


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
    read = partial(_scores, candidates)
    return _call("score_counters", read, history=histories, candidates=candidates, **counters)


def score_text(histories: Sequence[Titles], candidates: Sequence[Titles]) -> Call[list[list[TitleScore]]]:
    """Click probabilities of titles."""

    def read(outputs: Outputs) -> list[list[TitleScore]]:
        rows = zip(candidates, _own(outputs["click_probability"], candidates), strict=True)
        return [[TitleScore(*pair) for pair in zip(*row, strict=True)] for row in rows]

    return _call("score_text", read, history_text=histories, candidates_text=candidates)


def explain(histories: Sequence[Ids], candidates: Sequence[Ids]) -> Call[list[list[Explanation]]]:
    """How much each click of a reader counts for each candidate."""

    def read(outputs: Outputs) -> list[list[Explanation]]:
        clicks = _texts(outputs["history_id"])
        rows = zip(candidates, clicks, _own(outputs["weight"], candidates), strict=True)
        return [
            [
                Explanation(news_id, [pair for pair in zip(row_clicks, one, strict=True) if pair[0]])
                for news_id, one in zip(news_ids, weights, strict=True)
            ]
            for news_ids, row_clicks, weights in rows
        ]

    return _call("explain", read, history=histories, candidates=candidates)


def embed_news(texts: Sequence[str]) -> Call[np.ndarray]:
    """Vectors of news texts."""
    return _call("embed_news", itemgetter("embedding"), text=texts)


def embed_user(histories: Sequence[Ids]) -> Call[np.ndarray]:
    """Vectors of readers."""
    return _call("embed_user", itemgetter("embedding"), history=histories)


def generate(
    histories: Sequence[Titles], sources: Sequence[str], kinds: Sequence[str], seeds: Sequence[int]
) -> Call[list[list[GeneratedText]]]:
    """Texts written for readers."""
    check_kinds(kinds)
    return _call("generate", _generated, history_text=histories, source=sources, kind=kinds, seed=seeds)


def answer(
    questions: Sequence[str], histories: Sequence[Titles], seeds: Sequence[int]
) -> Call[list[QuestionAnswer]]:
    """Answers to readers' questions."""
    return _call("answer", _answers, question=questions, history_text=histories, seed=seeds)


def check_kinds(kinds: Sequence[str]) -> None:
    """Check that the generator can write each kind of text."""
    for kind in kinds:
        if kind not in KINDS:
            raise InputError(f"kind must be one of {', '.join(KINDS)}; got {kind!r}")


def join_ids(ids: Sequence[str]) -> str:
    """Ids joined by spaces, as in MIND; each must be one word, or it would be read as no id or as two."""
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


def _recommendations(outputs: Outputs) -> list[list[Recommendation]]:
    columns = _texts(outputs["news_id"]), _texts(outputs["title"]), outputs["score"].tolist()
    rows = zip(*columns, strict=True)
    return [[Recommendation(*entry) for entry in zip(*row, strict=True) if entry[0]] for row in rows]


def _generated(outputs: Outputs) -> list[list[GeneratedText]]:
    names = ("interest", "log_probability", "grounding", "safe")
    values = zip(*(outputs[name].tolist() for name in names), strict=True)
    return [
        [GeneratedText(*entry) for entry in _distinct(zip(row, *columns, strict=True))]
        for row, columns in zip(_texts(outputs["text"]), values, strict=True)
    ]


def _answers(outputs: Outputs) -> list[QuestionAnswer]:
    written = zip(_texts(outputs["text"]), outputs["interest"].tolist(), strict=True)
    found = zip(_texts(outputs["evidence_id"]), _texts(outputs["evidence_title"]), strict=True)
    return [
        QuestionAnswer(
            _distinct(zip(*texts, strict=True)), [pair for pair in zip(*evidence, strict=True) if pair[0]]
        )
        for texts, evidence in zip(written, found, strict=True)
    ]


def _distinct(entries: Iterable[Entry]) -> list[Entry]:
    """Entries with a text, without those whose text differs from a better one only in case and whitespace."""
    first: dict[str, Entry] = {}
    for entry in entries:
        first.setdefault(clean_text(entry[0]).casefold(), entry)
    first.pop("", None)
    return list(first.values())


def _scores(candidates: Sequence[Ids], outputs: Outputs) -> list[list[CandidateScore]]:
    columns = (_own(outputs[name], candidates) for name in ("click_probability", "known"))
    rows = zip(candidates, *columns, strict=True)
    return [[CandidateScore(*entry) for entry in zip(*row, strict=True)] for row in rows]


def _own(values: np.ndarray, candidates: Sequence[Sequence[str]]) -> list[list[Any]]:
    """Each row without its padding: the server pads rows to the one with the most candidates."""
    widest = max(map(len, candidates), default=0)
    if values.shape[1] < widest:
        raise FailureError(
            f"the server scored {values.shape[1]} of {widest} candidates: ask for fewer at a time"
        )
    return [row[: len(own)] for row, own in zip(values.tolist(), candidates, strict=True)]


def _texts(values: np.ndarray) -> list[list[str]]:
    return [[text.decode("utf-8", "replace") for text in row] for row in values.tolist()]

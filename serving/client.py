"""Ask a running server, TensorFlow Serving or the embedded one, over gRPC."""

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

import grpc
import numpy as np
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from genre_tf.errors import FailureError, InputError
from genre_tf.serving.answers import (
    CandidateScore,
    GeneratedText,
    QuestionAnswer,
    Recommendation,
    TitleScore,
)
from genre_tf.serving.joining import check_kinds, join_ids, join_numbers, join_titles
from genre_tf.serving.tensors import to_array, write_proto

RECOMMENDER = "genre_recommender"
GENERATOR = "genre_generator"
_REFUSALS = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.OUT_OF_RANGE,
)

Ids = Sequence[str]
Titles = Sequence[str]


class GenreClient:
    """Requests to both servables, over one channel that is kept open; a context manager.

    Every method takes one entry a reader and gives one entry a reader.

    Args:
        address: HOST:PORT of gRPC.
        timeout_s: deadline of each request; the server drops what is late.
        recommender: name of the recommending servable.
        generator: name of the writing servable.

    Raises:
        InputError: the address is none. Methods raise it where the server refuses the request.
        FailureError: by methods, where there is no server, no answer in time, or an error in the server.
    """

    def __init__(
        self,
        address: str = "127.0.0.1:8500",
        timeout_s: float = 10.0,
        recommender: str = RECOMMENDER,
        generator: str = GENERATOR,
    ) -> None:
        host, _, port = address.rpartition(":")
        if not host or not port.isdigit():
            raise InputError(f"address {address!r} is not HOST:PORT: give one such as 127.0.0.1:8500")
        self._address, self._timeout_s = address, timeout_s
        self._recommender, self._generator = recommender, generator
        self._channel = grpc.insecure_channel(address, [("grpc.max_receive_message_length", -1)])
        self._predict = prediction_service_pb2_grpc.PredictionServiceStub(self._channel).Predict

    def recommend(self, histories: Sequence[Ids]) -> list[list[Recommendation]]:
        """Articles for readers known by what they clicked.

        Args:
            histories: clicked ids of each reader, oldest first; empty for a new reader.
        """
        return self._recommendations("recommend", {"history": _joined_ids(histories)})

    def recommend_text(self, histories: Sequence[Titles]) -> list[list[Recommendation]]:
        """Articles for readers known by the titles they clicked, oldest first."""
        return self._recommendations("recommend_text", {"history_text": _joined_titles(histories)})

    def score(self, histories: Sequence[Ids], candidates: Sequence[Ids]) -> list[list[CandidateScore]]:
        """Click probabilities of candidates, in the order given.

        Args:
            histories: clicked ids of each reader, oldest first.
            candidates: ids for each reader.
        """
        inputs = {"history": _joined_ids(histories), "candidates": _joined_ids(candidates)}
        return _candidate_scores(self._ask(self._recommender, "score", inputs), candidates)

    def score_counters(
        self,
        histories: Sequence[Ids],
        candidates: Sequence[Ids],
        clicks: Sequence[Sequence[float]],
        views: Sequence[Sequence[float]],
        age_hours: Sequence[Sequence[float]],
    ) -> list[list[CandidateScore]]:
        """As `score`, with the live counters of each candidate: clicks, views, hours since it came."""
        counters = {"clicks": clicks, "views": views, "age_hours": age_hours}
        for name, rows in counters.items():
            if [len(row) for row in rows] != [len(row) for row in candidates]:
                raise InputError(f"{name} must give one number for each candidate of each reader")
        inputs = {"history": _joined_ids(histories), "candidates": _joined_ids(candidates)}
        inputs |= {name: _strings([join_numbers(row) for row in rows]) for name, rows in counters.items()}
        return _candidate_scores(self._ask(self._recommender, "score_counters", inputs), candidates)

    def score_text(self, histories: Sequence[Titles], candidates: Sequence[Titles]) -> list[list[TitleScore]]:
        """Click probabilities of titles that no index needs to know, in the order given."""
        inputs = {
            "history_text": _joined_titles(histories),
            "candidates_text": _joined_titles(candidates),
        }
        outputs = self._ask(self._recommender, "score_text", inputs)
        rows = zip(candidates, _own(outputs["click_probability"], candidates), strict=True)
        return [[TitleScore(*pair) for pair in zip(*row, strict=True)] for row in rows]

    def embed_news(self, texts: Sequence[str]) -> np.ndarray:
        """Vectors of news texts, float32 [texts, dimensions]."""
        return self._ask(self._recommender, "embed_news", {"text": _strings(texts)})["embedding"]

    def embed_user(self, histories: Sequence[Ids]) -> np.ndarray:
        """Vectors of readers, float32 [readers, dimensions]."""
        return self._ask(self._recommender, "embed_user", {"history": _joined_ids(histories)})["embedding"]

    def generate(
        self, histories: Sequence[Titles], sources: Sequence[str], kinds: Sequence[str], seeds: Sequence[int]
    ) -> list[list[GeneratedText]]:
        """Write for readers.

        Args:
            histories: titles that each reader clicked, oldest first.
            sources: the article to write from, or "" to write from interest alone.
            kinds: `title`, `summary` or `body`.
            seeds: the same seed writes the same text.
        """
        check_kinds(kinds)
        inputs = {
            "history_text": _joined_titles(histories),
            "source": _strings(sources),
            "kind": _strings(kinds),
            "seed": np.array(seeds, np.int64),  # [readers]
        }
        outputs = self._ask(self._generator, "generate", inputs)
        texts = _texts(outputs["text"])
        names = ("interest", "log_probability", "grounding", "safe")
        values = zip(*(outputs[name].tolist() for name in names), strict=True)
        return [
            [GeneratedText(*entry) for entry in zip(row, *columns, strict=True) if entry[0]]
            for row, columns in zip(texts, values, strict=True)
        ]

    def answer(
        self, questions: Sequence[str], histories: Sequence[Titles], seeds: Sequence[int]
    ) -> list[QuestionAnswer]:
        """Answer readers' questions from the articles that are nearest to them.

        Args:
            questions: one a reader.
            histories: titles that each reader clicked, oldest first.
            seeds: the same seed writes the same text.
        """
        inputs = {
            "question": _strings(questions),
            "history_text": _joined_titles(histories),
            "seed": np.array(seeds, np.int64),  # [readers]
        }
        outputs = self._ask(self._generator, "answer", inputs)
        written = zip(_texts(outputs["text"]), outputs["interest"].tolist(), strict=True)
        found = zip(_texts(outputs["evidence_id"]), _texts(outputs["evidence_title"]), strict=True)
        return [
            QuestionAnswer(*([pair for pair in zip(*pairs, strict=True) if pair[0]] for pairs in row))
            for row in zip(written, found, strict=True)
        ]

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()

    def __enter__(self) -> "GenreClient":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _recommendations(
        self, signature: str, inputs: Mapping[str, np.ndarray]
    ) -> list[list[Recommendation]]:
        outputs = self._ask(self._recommender, signature, inputs)
        columns = _texts(outputs["news_id"]), _texts(outputs["title"]), outputs["score"].tolist()
        return [
            [Recommendation(*entry) for entry in zip(*row, strict=True) if entry[0]]
            for row in zip(*columns, strict=True)
        ]

    def _ask(self, model: str, signature: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        lengths = {name: len(value) for name, value in inputs.items()}
        if len(set(lengths.values())) > 1:
            raise InputError(f"every argument needs one entry a reader: received {lengths}")
        request = predict_pb2.PredictRequest()
        request.model_spec.name = model
        request.model_spec.signature_name = signature
        for name, value in inputs.items():
            write_proto(value, request.inputs[name])
        try:
            response = self._predict(request, timeout=self._timeout_s)
        except grpc.RpcError as error:
            raise self._plain(error) from error
        return {name: to_array(proto) for name, proto in response.outputs.items()}

    def _plain(self, error: Any) -> Exception:
        code, details = error.code(), error.details()
        if code in _REFUSALS:
            return InputError(f"the server at {self._address} refused the request: {details}")
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            return FailureError(
                f"no answer from {self._address} within {self._timeout_s:g} s: wait longer, or ask for less"
            )
        if code is grpc.StatusCode.UNAVAILABLE:
            return FailureError(
                f"no server answers at {self._address} ({str(details).rpartition(': ')[2]}): start one with "
                "`genre serve MODELS`, or give its address"
            )
        return FailureError(f"the server at {self._address} failed ({code.name}): {details}")


def _candidate_scores(
    outputs: dict[str, np.ndarray], candidates: Sequence[Ids]
) -> list[list[CandidateScore]]:
    columns = (_own(outputs[name], candidates) for name in ("click_probability", "known"))
    rows = zip(candidates, *columns, strict=True)
    return [[CandidateScore(*entry) for entry in zip(*row, strict=True)] for row in rows]


def _own(values: np.ndarray, candidates: Sequence[Sequence[str]]) -> list[list[Any]]:
    """Each row cut to its own candidates: it is as wide as the widest of its batch, the rest padding."""
    widest = max(map(len, candidates), default=0)
    if values.shape[1] < widest:
        raise FailureError(
            f"the server scored {values.shape[1]} of {widest} candidates: ask for fewer at a time"
        )
    return [row[: len(own)] for row, own in zip(values.tolist(), candidates, strict=True)]


def _joined_ids(rows: Sequence[Ids]) -> np.ndarray:
    return _strings([join_ids(row) for row in rows])


def _joined_titles(rows: Sequence[Titles]) -> np.ndarray:
    return _strings([join_titles(row) for row in rows])


def _strings(values: Sequence[str]) -> np.ndarray:
    return np.array([value.encode("utf-8", "replace") for value in values], object)  # [readers]


def _texts(values: np.ndarray) -> list[list[str]]:
    return [[text.decode("utf-8", "replace") for text in row] for row in values.tolist()]

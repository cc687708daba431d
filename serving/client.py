"""Ask a running server, TensorFlow Serving or the embedded one, over gRPC."""

import copy
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

import grpc
import numpy as np
from tensorflow_serving.apis import prediction_service_pb2_grpc

from genre_tf.serving import calls
from genre_tf.serving.answers import (
    CandidateScore,
    Explanation,
    GeneratedText,
    QuestionAnswer,
    Recommendation,
    TitleScore,
)
from genre_tf.serving.calls import Call, Ids, Titles
from genre_tf.serving.channels import check_target, open_channel, plain_error

RECOMMENDER = "genre_recommender"
GENERATOR = "genre_generator"


class GenreClient:
    """Requests to both servables, over one channel that is kept open; a context manager.

    Every method takes one entry a reader and gives one entry a reader. Threads may share a client. A request
    that found no server is sent again a few times within its deadline; no answer changes by that.

    Args:
        address: HOST:PORT of gRPC.
        timeout_s: deadline of each request; the server drops what is late.
        recommender: name of the recommending servable.
        generator: name of the writing servable.
        credentials: for a server that speaks TLS, as `grpc.ssl_channel_credentials` gives them.

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
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        check_target(address, timeout_s)
        self._address, self._timeout_s = address, timeout_s
        self._recommender, self._generator = recommender, generator
        self._channel = open_channel(address, credentials)
        self._predict = prediction_service_pb2_grpc.PredictionServiceStub(self._channel).Predict

    def within(self, timeout_s: float) -> "GenreClient":
        """The same client, over the same channel, with another deadline."""
        check_target(self._address, timeout_s)
        other = copy.copy(self)
        other._timeout_s = timeout_s
        return other

    def recommend(self, histories: Sequence[Ids]) -> list[list[Recommendation]]:
        """Articles for readers known by what they clicked.

        Args:
            histories: clicked ids of each reader, oldest first; empty for a new reader.
        """
        return self._ask(calls.recommend(histories))

    def recommend_live(
        self, histories: Sequence[Ids], live: Sequence[Mapping[str, Sequence[float]]]
    ) -> list[list[Recommendation]]:
        """As `recommend`, with the counters of the moment for up to 2,000 articles.

        The answer is that of a version refreshed with these counters.

        Args:
            histories: clicked ids of each reader, oldest first.
            live: for each reader, article id -> its counters in the order of `genre_tf.data.decay.COUNTERS`:
                clicks, views, age in hours, clicks halved every 1, 6 and 24 hours, views likewise.
        """
        return self._ask(calls.recommend_live(histories, live))

    def recommend_text(self, histories: Sequence[Titles]) -> list[list[Recommendation]]:
        """Articles for readers known by the titles they clicked, oldest first."""
        return self._ask(calls.recommend_text(histories))

    def score(self, histories: Sequence[Ids], candidates: Sequence[Ids]) -> list[list[CandidateScore]]:
        """Click probabilities of candidates, in the order given.

        Args:
            histories: clicked ids of each reader, oldest first.
            candidates: ids for each reader.
        """
        return self._ask(calls.score(histories, candidates))

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
        return self._ask(calls.score_counters(histories, candidates, counters))

    def score_text(self, histories: Sequence[Titles], candidates: Sequence[Titles]) -> list[list[TitleScore]]:
        """Click probabilities of titles that no index needs to know, in the order given."""
        return self._ask(calls.score_text(histories, candidates))

    def explain(self, histories: Sequence[Ids], candidates: Sequence[Ids]) -> list[list[Explanation]]:
        """Which clicks of a reader count for each candidate, in the order given."""
        return self._ask(calls.explain(histories, candidates))

    def embed_news(self, texts: Sequence[str]) -> np.ndarray:
        """Vectors of news texts, float32 [texts, dimensions]."""
        return self._ask(calls.embed_news(texts))

    def embed_user(self, histories: Sequence[Ids]) -> np.ndarray:
        """Vectors of readers, float32 [readers, dimensions]."""
        return self._ask(calls.embed_user(histories))

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
        return self._ask(calls.generate(histories, sources, kinds, seeds))

    def answer(
        self, questions: Sequence[str], histories: Sequence[Titles], seeds: Sequence[int]
    ) -> list[QuestionAnswer]:
        """Answer readers' questions from the articles that are nearest to them.

        Args:
            questions: one a reader.
            histories: titles that each reader clicked, oldest first.
            seeds: the same seed writes the same text.
        """
        return self._ask(calls.answer(questions, histories, seeds))

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()

    def __enter__(self) -> "GenreClient":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, call: Call[Any]) -> Any:
        request = call.request(self._generator if call.writes else self._recommender)
        try:
            response = self._predict(request, timeout=self._timeout_s)
        except grpc.RpcError as error:
            raise plain_error(error, self._address, self._timeout_s) from error
        return call.answer(response)

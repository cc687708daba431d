"""Ask a running server from `asyncio`: like `GenreClient`, with many requests in flight at once."""

import copy
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

import grpc
import grpc.aio
import numpy as np

from genre_tf.contract import GENERATOR, RECOMMENDER
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
from genre_tf.serving.channels import ask_async, check_target, options, plain_error
from genre_tf.serving.messages import PREDICT, PredictRequest, PredictResponse


class AsyncGenreClient:
    """Requests to both servables over one open channel; an asynchronous context manager.

    Methods, arguments, answers and errors are those of `GenreClient`. Create it inside a running event loop.

    Args:
        address: gRPC address of the server, HOST:PORT.
        timeout_s: deadline of each request in seconds; the server drops late requests.
        recommender: name of the servable that recommends.
        generator: name of the servable that writes.
        credentials: for a server with TLS, made by `grpc.ssl_channel_credentials`; None: no encryption.

    Raises:
        InputError: `address` is not HOST:PORT, or `timeout_s` is not a number of seconds above 0.
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
        if credentials is None:
            self._channel = grpc.aio.insecure_channel(address, options(address))
        else:
            self._channel = grpc.aio.secure_channel(address, credentials, options(address))
        self._predict = self._channel.unary_unary(
            PREDICT, PredictRequest.SerializeToString, PredictResponse.FromString
        )

    def within(self, timeout_s: float) -> "AsyncGenreClient":
        """The same client, over the same channel, with another deadline."""
        check_target(self._address, timeout_s)
        other = copy.copy(self)
        other._timeout_s = timeout_s
        return other

    async def recommend(self, histories: Sequence[Ids]) -> list[list[Recommendation]]:
        """Recommend articles to readers, given the ids of the articles that they clicked."""
        return await self._ask(calls.recommend(histories))

    async def recommend_live(
        self, histories: Sequence[Ids], live: Sequence[Mapping[str, Sequence[float]]]
    ) -> list[list[Recommendation]]:
        """Like `recommend`, with current counters; see `GenreClient.recommend_live`."""
        return await self._ask(calls.recommend_live(histories, live))

    async def recommend_text(self, histories: Sequence[Titles]) -> list[list[Recommendation]]:
        """Recommend articles to readers, given the titles that they clicked."""
        return await self._ask(calls.recommend_text(histories))

    async def score(self, histories: Sequence[Ids], candidates: Sequence[Ids]) -> list[list[CandidateScore]]:
        """Click probabilities of candidates."""
        return await self._ask(calls.score(histories, candidates))

    async def score_counters(
        self,
        histories: Sequence[Ids],
        candidates: Sequence[Ids],
        clicks: Sequence[Sequence[float]],
        views: Sequence[Sequence[float]],
        age_hours: Sequence[Sequence[float]],
    ) -> list[list[CandidateScore]]:
        """Like `score`, with the live counters of each candidate."""
        counters = {"clicks": clicks, "views": views, "age_hours": age_hours}
        return await self._ask(calls.score_counters(histories, candidates, counters))

    async def score_text(
        self, histories: Sequence[Titles], candidates: Sequence[Titles]
    ) -> list[list[TitleScore]]:
        """Click probabilities of titles, which need not be in the index."""
        return await self._ask(calls.score_text(histories, candidates))

    async def explain(self, histories: Sequence[Ids], candidates: Sequence[Ids]) -> list[list[Explanation]]:
        """How much each click of a reader counts for each candidate."""
        return await self._ask(calls.explain(histories, candidates))

    async def embed_news(self, texts: Sequence[str]) -> np.ndarray:
        """Vectors of news texts, float32 [texts, dimensions]."""
        return await self._ask(calls.embed_news(texts))

    async def embed_user(self, histories: Sequence[Ids]) -> np.ndarray:
        """Vectors of readers, float32 [readers, dimensions]."""
        return await self._ask(calls.embed_user(histories))

    async def generate(
        self, histories: Sequence[Titles], sources: Sequence[str], kinds: Sequence[str], seeds: Sequence[int]
    ) -> list[list[GeneratedText]]:
        """Write texts for readers."""
        return await self._ask(calls.generate(histories, sources, kinds, seeds))

    async def answer(
        self, questions: Sequence[str], histories: Sequence[Titles], seeds: Sequence[int]
    ) -> list[QuestionAnswer]:
        """Answer readers' questions."""
        return await self._ask(calls.answer(questions, histories, seeds))

    async def close(self) -> None:
        """Close the channel."""
        await self._channel.close()

    async def __aenter__(self) -> "AsyncGenreClient":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _ask(self, call: Call[Any]) -> Any:
        request = call.request(self._generator if call.servable == GENERATOR else self._recommender)
        try:
            response = await ask_async(self._predict, request, self._timeout_s)
        except grpc.RpcError as error:
            raise plain_error(error, self._address, self._timeout_s) from error
        return call.answer(response)

"""Ask a running server, TensorFlow Serving or the embedded one: from threads, or from asyncio."""

import copy
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import wraps
from types import TracebackType
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Protocol, TypeVar

import grpc
import grpc.aio
import numpy as np

from genre_tf.contract import GENERATOR, RECOMMENDER
from genre_tf.serving.client import calls
from genre_tf.serving.client.addresses import is_url
from genre_tf.serving.client.answers import (
    CandidateScore,
    Explanation,
    GeneratedText,
    QuestionAnswer,
    Recommendation,
    TitleScore,
)
from genre_tf.serving.client.calls import Call, Ids, Titles
from genre_tf.serving.client.channels import (
    GrpcTransport,
    ask_async,
    check_target,
    check_timeout,
    options,
    plain_error,
)
from genre_tf.serving.client.messages import PREDICT, PredictRequest, PredictResponse

if TYPE_CHECKING:
    import ssl


class Transport(Protocol):
    """How requests reach a server."""

    def send(self, call: Call[Any], model: str, timeout_s: float) -> Any:
        """What the server answers, for `Call.answer`."""

    def close(self) -> None:
        """Close its connections."""


class Client:
    """Requests to both servables of one server; a context manager.

    Every method takes one entry per reader and returns one entry per reader. Threads may share a client. A
    request that found no available server, over REST only one that found a busy server, is sent again a few
    times within its deadline, which changes no answer.

    Args:
        address: gRPC address of the server, HOST:PORT; or the URL of its REST port, such as
            http://127.0.0.1:8501.
        timeout_s: deadline of each request in seconds; the server drops late requests.
        recommender: name of the servable that recommends.
        generator: name of the servable that writes.
        credentials: for a server with TLS, made by `grpc.ssl_channel_credentials`, for https:// by
            `ssl.create_default_context`; None: no encryption, for https:// the system's authorities.

    Raises:
        InputError: `address` is neither HOST:PORT nor a URL, or `timeout_s` is not a number of seconds above
            0. Methods raise it if the server refuses the request.
        FailureError: from methods only: no server, no answer in time, or an error in the server.

    Example:
        >>> from genre_tf.serving import Client
        >>> with Client("127.0.0.1:8500") as client:
        ...     client.score([["N1"]], [["N2", "N3"]])[0][0]
        CandidateScore(news_id='N2', click_probability=0.699999988079071, known=True)
    """

    def __init__(
        self,
        address: str = "127.0.0.1:8500",
        timeout_s: float = 10.0,
        recommender: str = RECOMMENDER,
        generator: str = GENERATOR,
        credentials: "grpc.ChannelCredentials | ssl.SSLContext | None" = None,
    ) -> None:
        check_timeout(timeout_s)
        self._timeout_s = timeout_s
        self._recommender, self._generator = recommender, generator
        self._transport = _transport(address, credentials)

    def within(self, timeout_s: float) -> "Client":
        """The same client, over the same connections, with another deadline."""
        check_timeout(timeout_s)
        other = copy.copy(self)
        other._timeout_s = timeout_s
        return other

    def recommend(self, histories: Sequence[Ids]) -> list[list[Recommendation]]:
        """Recommend articles to readers, given the ids of the articles that they clicked.

        Args:
            histories: clicked ids of each reader, oldest first; empty for a new reader.
        """
        return self._ask(calls.recommend(histories))

    def recommend_live(
        self, histories: Sequence[Ids], live: Sequence[Mapping[str, Sequence[float]]]
    ) -> list[list[Recommendation]]:
        """Like `recommend`, with current counters for up to 2,000 articles.

        The answer is the same as that of a version refreshed with these counters.

        Args:
            histories: clicked ids of each reader, oldest first.
            live: for each reader, article id -> its counters in the order of `genre_tf.contract.COUNTERS`:
                clicks, views, age in hours, clicks halved every 1, 6 and 24 hours, then views halved
                every 1, 6 and 24 hours.
        """
        return self._ask(calls.recommend_live(histories, live))

    def recommend_text(self, histories: Sequence[Titles]) -> list[list[Recommendation]]:
        """Recommend articles to readers, given the titles that they clicked, oldest first."""
        return self._ask(calls.recommend_text(histories))

    def score(self, histories: Sequence[Ids], candidates: Sequence[Ids]) -> list[list[CandidateScore]]:
        """Click probabilities of candidates, in the order given.

        Args:
            histories: clicked ids of each reader, oldest first.
            candidates: ids of the candidates of each reader.
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
        """Like `score`, with the live counters of each candidate: clicks, views and age in hours."""
        return self._ask(calls.score_counters(histories, candidates, clicks, views, age_hours))

    def score_text(self, histories: Sequence[Titles], candidates: Sequence[Titles]) -> list[list[TitleScore]]:
        """Click probabilities of titles, in the order given; they need not be in the index."""
        return self._ask(calls.score_text(histories, candidates))

    def explain(self, histories: Sequence[Ids], candidates: Sequence[Ids]) -> list[list[Explanation]]:
        """How much each click of a reader counts for each candidate, in the order given."""
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
        """Write texts for readers.

        Args:
            histories: titles that each reader clicked, oldest first.
            sources: the article to write from for each reader, or "" to write from interest alone.
            kinds: `title`, `summary` or `body` for each reader.
            seeds: an int64 for each reader; the same seed writes the same text.
        """
        return self._ask(calls.generate(histories, sources, kinds, seeds))

    def answer(
        self, questions: Sequence[str], histories: Sequence[Titles], seeds: Sequence[int]
    ) -> list[QuestionAnswer]:
        """Answer readers' questions from the articles closest to each question.

        Args:
            questions: one question per reader.
            histories: titles that each reader clicked, oldest first.
            seeds: an int64 for each reader; the same seed writes the same text.
        """
        return self._ask(calls.answer(questions, histories, seeds))

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, call: Call[Any]) -> Any:
        model = self._generator if call.servable == GENERATOR else self._recommender
        return call.answer(self._transport.send(call, model, self._timeout_s))


def _transport(address: str, credentials: Any) -> Transport:
    if not is_url(address):
        return GrpcTransport(address, credentials)
    from genre_tf.serving.client.rest import RestTransport

    return RestTransport(address, credentials)


Given = ParamSpec("Given")
Answer = TypeVar("Answer")


def _asks(
    make: Callable[Given, Call[Answer]],
) -> Callable[Concatenate["AsyncClient", Given], Awaitable[Answer]]:
    """The method that sends the call which `make` builds, with the words of the method of `Client`."""

    @wraps(getattr(Client, make.__name__))
    async def method(client: "AsyncClient", *given: Given.args, **named: Given.kwargs) -> Answer:
        answer: Answer = await client._ask(make(*given, **named))
        return answer

    return method


class AsyncClient:
    """Requests to both servables over one open channel; an asynchronous context manager.

    Methods, arguments, answers and errors are those of `Client`; each method is awaited. Create it inside a
    running event loop.

    Args:
        address: gRPC address of the server, HOST:PORT.
        timeout_s: deadline of each request in seconds; the server drops late requests.
        recommender: name of the servable that recommends.
        generator: name of the servable that writes.
        credentials: for a server with TLS, made by `grpc.ssl_channel_credentials`; None: no encryption.

    Raises:
        InputError: `address` is not HOST:PORT, or `timeout_s` is not a number of seconds above 0.

    Example:
        >>> import asyncio
        >>> from genre_tf.serving import AsyncClient
        >>> async def recommend():
        ...     async with AsyncClient("127.0.0.1:8500") as client:
        ...         return await client.recommend([["N1"], []])
        >>> [[article.news_id for article in reader[:2]] for reader in asyncio.run(recommend())]
        [['N2', 'N3'], ['N1', 'N2']]
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

    recommend: Any = _asks(calls.recommend)
    recommend_live: Any = _asks(calls.recommend_live)
    recommend_text: Any = _asks(calls.recommend_text)
    score: Any = _asks(calls.score)
    score_counters: Any = _asks(calls.score_counters)
    score_text: Any = _asks(calls.score_text)
    explain: Any = _asks(calls.explain)
    embed_news: Any = _asks(calls.embed_news)
    embed_user: Any = _asks(calls.embed_user)
    generate: Any = _asks(calls.generate)
    answer: Any = _asks(calls.answer)

    def within(self, timeout_s: float) -> "AsyncClient":
        """The same client, over the same channel, with another deadline."""
        check_target(self._address, timeout_s)
        other = copy.copy(self)
        other._timeout_s = timeout_s
        return other

    async def close(self) -> None:
        """Close the channel."""
        await self._channel.close()

    async def __aenter__(self) -> "AsyncClient":
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

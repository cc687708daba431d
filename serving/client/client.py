"""Ask a running server, TensorFlow Serving or the embedded one: from threads, or from asyncio."""

import asyncio
import copy
import inspect
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar, get_args

import grpc
import grpc.aio

from genre_tf.contract import GENERATOR, RECOMMENDER
from genre_tf.serving.client import calls
from genre_tf.serving.client.calls import Call
from genre_tf.serving.client.channels import (
    WAITS_S,
    GrpcTransport,
    check_target,
    check_timeout,
    is_url,
    open_channel,
    predict_method,
    wait_s,
)

if TYPE_CHECKING:
    import ssl

Given = ParamSpec("Given")
Answer = TypeVar("Answer")


def _asks(make: Callable[Given, Call[Answer]]) -> Callable[Concatenate[Any, Given], Answer]:
    """The method of a client that sends the call which `make` builds, with its arguments and docstring."""

    def method(client: Any, *given: Given.args, **named: Given.kwargs) -> Answer:
        answer: Answer = client._ask(make(*given, **named))  # `AsyncClient`: an awaitable of it
        return answer

    method.__name__, method.__doc__ = make.__name__, make.__doc__
    signature = inspect.signature(make)
    own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    method.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [own, *signature.parameters.values()], return_annotation=get_args(signature.return_annotation)[0]
    )
    return method


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
        self._transport: Any
        if is_url(address):
            from genre_tf.serving.client.rest import RestTransport

            self._transport = RestTransport(address, credentials)
        else:
            self._transport = GrpcTransport(address, credentials)

    def within(self, timeout_s: float) -> "Client":
        """The same client, over the same connections, with another deadline."""
        check_timeout(timeout_s)
        other = copy.copy(self)
        other._timeout_s = timeout_s
        return other

    recommend = _asks(calls.recommend)
    recommend_live = _asks(calls.recommend_live)
    recommend_text = _asks(calls.recommend_text)
    score = _asks(calls.score)
    score_counters = _asks(calls.score_counters)
    score_text = _asks(calls.score_text)
    explain = _asks(calls.explain)
    embed_news = _asks(calls.embed_news)
    embed_user = _asks(calls.embed_user)
    generate = _asks(calls.generate)
    generate_styled = _asks(calls.generate_styled)
    answer = _asks(calls.answer)

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _ask(self, call: Call[Any]) -> Any:
        model = self._generator if call.servable == GENERATOR else self._recommender
        return call.answer(self._transport.send(call, model, self._timeout_s))


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
        check_target(address)
        check_timeout(timeout_s)
        self._address, self._timeout_s = address, timeout_s
        self._recommender, self._generator = recommender, generator
        self._channel = open_channel(address, credentials, grpc.aio)
        self._predict = predict_method(self._channel)

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
    generate_styled: Any = _asks(calls.generate_styled)
    answer: Any = _asks(calls.answer)

    def within(self, timeout_s: float) -> "AsyncClient":
        """The same client, over the same channel, with another deadline."""
        check_timeout(timeout_s)
        other = copy.copy(self)
        other._timeout_s = timeout_s
        return other

    async def close(self) -> None:
        """Close the channel."""
        await self._channel.close()

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    async def _ask(self, call: Call[Any]) -> Any:
        request = call.request(self._generator if call.servable == GENERATOR else self._recommender)
        ends = time.monotonic() + self._timeout_s
        waits = iter(WAITS_S)
        while True:
            try:
                return call.answer(await self._predict(request, timeout=ends - time.monotonic()))
            except grpc.RpcError as error:
                await asyncio.sleep(wait_s(error, next(waits), ends, self._address, self._timeout_s))

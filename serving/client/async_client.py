"""Ask a running server from `asyncio`: like `Client`, with many requests in flight at once."""

import copy
from collections.abc import Awaitable, Callable
from functools import wraps
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, TypeVar

import grpc
import grpc.aio

from genre_tf.serving.client import calls
from genre_tf.serving.client.calls import Call
from genre_tf.serving.client.channels import ask_async, check_target, options, plain_error
from genre_tf.serving.client.client import GENERATOR, RECOMMENDER
from genre_tf.serving.client.messages import PREDICT, PredictRequest, PredictResponse

Given = ParamSpec("Given")
Answer = TypeVar("Answer")


def _asks(
    make: Callable[Given, Call[Answer]],
) -> Callable[Concatenate["AsyncClient", Given], Awaitable[Answer]]:
    """The method that sends the call which `make` builds; it has its arguments, answer and docstring."""

    @wraps(make)
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
    answer = _asks(calls.answer)

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
        request = call.request(self._generator if call.writes else self._recommender)
        try:
            response = await ask_async(self._predict, request, self._timeout_s)
        except grpc.RpcError as error:
            raise plain_error(error, self._address, self._timeout_s) from error
        return call.answer(response)

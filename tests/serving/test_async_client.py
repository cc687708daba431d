"""The asynchronous client answers as the other one does, many questions at a time."""

import asyncio
import inspect
import socket
from typing import Any

import numpy as np
import pytest

from genre_tf.errors import FailureError, InputError

HISTORY, CANDIDATES = [["N1"], []], [["N4", "N9"], ["N2"]]
QUESTIONS: list[tuple[str, tuple[Any, ...]]] = [
    ("recommend", (HISTORY,)),
    ("recommend_text", ([["Bank raises rates"]],)),
    ("score", (HISTORY, CANDIDATES)),
    ("score_counters", (HISTORY, CANDIDATES, [[1, 0], [2]], [[2, 1], [3]], [[0, 1], [2]])),
    ("score_text", ([["a"]], [["four", "sixsix"]])),
    ("generate", ([["a", "b"]], ["News"], ["body"], [3])),
    ("generate_styled", ([["a", "b"]], ["News"], ["body"], [3], ["lively"], ["sports"])),
    ("answer", (["What?", "Who?"], [["a"], []], [1, 2])),
]


@pytest.mark.parametrize(("name", "arguments"), QUESTIONS, ids=[name for name, _ in QUESTIONS])
def test_answers_are_those_of_the_other_client(contract_server: Any, name: str, arguments: Any) -> None:
    from genre_tf.serving import AsyncClient, Client

    async def ask() -> Any:
        async with AsyncClient(contract_server.grpc_address) as client:
            return await getattr(client, name)(*arguments)

    with Client(contract_server.grpc_address) as client:
        assert asyncio.run(ask()) == getattr(client, name)(*arguments)


def test_both_clients_take_the_same_arguments() -> None:
    from genre_tf.serving import AsyncClient, Client

    def signatures(kind: type) -> dict[str, Any]:
        methods = inspect.getmembers(kind, inspect.isfunction)
        kept = {name: function for name, function in methods if name[0] != "_" and name != "within"}
        return {
            name: [str(one) for one in inspect.signature(function).parameters.values() if one.name != "self"]
            for name, function in kept.items()
        }

    assert signatures(AsyncClient) == signatures(Client)


def test_many_questions_share_the_channel(contract_server: Any) -> None:
    from genre_tf.serving import AsyncClient

    async def ask() -> Any:
        async with AsyncClient(contract_server.grpc_address) as client:
            vectors = await client.embed_news(["abc"])
            asked = [client.score([[]], [[f"N{number % 4 + 1}"]]) for number in range(200)]
            return vectors, await asyncio.gather(*asked)

    vectors, answers = asyncio.run(ask())
    np.testing.assert_array_equal(vectors, [[3, -3]])
    assert [answer[0][0].news_id for answer in answers] == [f"N{number % 4 + 1}" for number in range(200)]


def test_errors_are_said_plainly(contract_server: Any) -> None:
    from genre_tf.serving import AsyncClient

    async def ask(address: str, **options: Any) -> Any:
        async with AsyncClient(address, **options) as client:
            await client.embed_user([["N1"]])

    with pytest.raises(InputError, match="no signature 'embed_user'"):
        asyncio.run(ask(contract_server.grpc_address))
    with pytest.raises(FailureError, match="genre serve MODELS"):
        asyncio.run(ask("127.0.0.1:1"))
    with socket.socket() as silent:  # takes connections, says nothing
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(FailureError, match=r"within 0.1 s"):
            asyncio.run(ask(f"127.0.0.1:{silent.getsockname()[1]}", timeout_s=0.1))
    with pytest.raises(InputError, match="not HOST:PORT"):
        asyncio.run(ask("localhost"))

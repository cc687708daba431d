"""Servers at IPv6 addresses: gRPC, REST, and what is printed of both."""

import json
import socket
import urllib.request
from pathlib import Path

import pytest

from genre_tf.serving import Client
from genre_tf.serving.client.channels import bare_host, host_port, is_loopback


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.parametrize(
    ("host", "address", "bare"),
    [
        ("127.0.0.1", "127.0.0.1:8500", "127.0.0.1"),
        ("localhost", "localhost:8500", "localhost"),
        ("::1", "[::1]:8500", "::1"),
        ("[::1]", "[::1]:8500", "::1"),
        ("::", "[::]:8500", "::"),
    ],
)
def test_an_ipv6_address_stands_in_brackets(host: str, address: str, bare: str) -> None:
    assert (host_port(host, 8500), bare_host(host)) == (address, bare)


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST.", "127.0.0.1", "127.8.0.1", "::1", "[::1]", "0.0.0.0"]
)
def test_this_machine_is_known_by_its_names(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host", ["news.example", "10.0.0.1", "[2001:db8::1]", "localhost.example", "1270.0.0.1"]
)
def test_other_machines_are_not_this_one(host: str) -> None:
    assert not is_loopback(host)


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
@pytest.mark.parametrize("host", ["::1", "[::1]"])
def test_a_server_at_an_ipv6_address_answers_where_it_says(contract_models: Path, host: str) -> None:
    from genre_tf.serving.embedded.server import EmbeddedServer, ServerOptions

    options = ServerOptions(host=host, grpc_port=0, rest_port=0, poll_s=0)
    with EmbeddedServer(contract_models, options) as server:
        assert server.grpc_address.startswith("[::1]:") and server.rest_address.startswith("http://[::1]:")
        with Client(server.grpc_address) as client:
            assert [one.news_id for one in client.recommend([["N1", "N2"]])[0]] == ["N3", "N4"]
        with urllib.request.urlopen(f"{server.rest_address}/v1/models/genre_recommender") as answer:
            assert json.load(answer)["model_version_status"][0]["state"] == "AVAILABLE"

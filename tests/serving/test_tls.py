"""Clients and verbs against a server that speaks TLS, as `genre serving-files --tls-cert` sets one up."""

import datetime
import ipaddress
import json
import shutil
import ssl
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from genre_tf.cli.clients import ask, generate, recommend, score
from genre_tf.cli.versions import label, rollback
from genre_tf.errors import FailureError, InputError
from genre_tf.serving.client.channels import client_context, client_credentials
from genre_tf.serving.embedded.server import EmbeddedServer, ServerOptions

RECOMMENDER = "genre_recommender"


class Authority:
    """Signs certificates, and writes each beside its key: NAME.pem and NAME-key.pem."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._key, self._name = ec.generate_private_key(ec.SECP256R1()), _named(name)
        self.file = self._write(name, self._key, self._signed(self._name, self._key, is_authority=True))

    def issue(self, name: str) -> tuple[Path, Path]:
        key = ec.generate_private_key(ec.SECP256R1())
        file = self._write(name, key, self._signed(_named(name), key, is_authority=False))
        return file, file.with_name(f"{name}-key.pem")

    def _signed(self, name: x509.Name, key: Any, *, is_authority: bool) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        at_home = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        return (
            x509.CertificateBuilder(self._name, name, key.public_key(), x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(at_home, critical=False)
            .add_extension(x509.BasicConstraints(is_authority, None), critical=True)
            # From here on what Python 3.13 asks of certificates by default.
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False
            )
            .add_extension(_uses(is_authority), critical=True)
            .sign(self._key, hashes.SHA256())
        )

    def _write(self, name: str, key: Any, certificate: x509.Certificate) -> Path:
        pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
        private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain)
        (self._folder / f"{name}-key.pem").write_bytes(private)
        (self._folder / f"{name}.pem").write_bytes(certificate.public_bytes(pem))
        return self._folder / f"{name}.pem"


def _uses(is_authority: bool) -> x509.KeyUsage:
    others = ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
    return x509.KeyUsage(
        digital_signature=not is_authority,
        key_cert_sign=is_authority,
        crl_sign=is_authority,
        encipher_only=False,
        decipher_only=False,
        **dict.fromkeys(others, False),
    )


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


class Forwarding(grpc.GenericRpcHandler):
    """Hands every request on, so that a server without TLS is reached by TLS."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._channel = channel

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        call = self._channel.unary_unary(handler_call_details.method)
        return grpc.unary_unary_rpc_method_handler(lambda request, context: call(request, timeout=30))


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"), "authority")


Start = Callable[..., str]


@pytest.fixture(scope="module")
def start(contract_server: Any, authority: Authority) -> Iterator[Start]:
    """Start a server with TLS before another one, usually the contract server; gives its address."""
    certificate, key = (file.read_bytes() for file in authority.issue("server"))
    servers = []
    with ExitStack() as stack:

        def start_one(*, asks_for_certificates: bool, before: Any = contract_server) -> str:
            channel = stack.enter_context(grpc.insecure_channel(before.grpc_address))
            server = grpc.server(futures.ThreadPoolExecutor(2), handlers=[Forwarding(channel)])
            credentials = grpc.ssl_server_credentials(
                [(key, certificate)], authority.file.read_bytes(), asks_for_certificates
            )
            port = server.add_secure_port("127.0.0.1:0", credentials)
            server.start()
            servers.append(server)
            return f"127.0.0.1:{port}"

        yield start_one
        for server in servers:
            server.stop(0).wait()


def printed(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


def test_every_client_verb_asks_by_tls(
    start: Start, authority: Authority, capsys: pytest.CaptureFixture[str]
) -> None:
    certificate, key = authority.issue("client")
    tls = {"tls_ca": authority.file, "tls_cert": certificate, "tls_key": key}
    options: Any = {"address": start(asks_for_certificates=True), "json": True, **tls}
    recommend(history="N1 N2", **options)
    assert [one["news_id"] for one in printed(capsys)["recommendations"]] == ["N3", "N4"]
    score(history="", candidates="N4", **options)
    assert printed(capsys)["scores"][0]["known"]
    generate(history_text="a\nb", kind="summary", seed=3, **options)
    assert printed(capsys)["texts"][0]["text"] == "summary|2|3"
    ask("What?", **options)
    assert printed(capsys)["evidence"] == [["N3", "N3"]]


def test_a_server_is_waited_for_by_tls(
    start: Start,
    authority: Authority,
    contract_models: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    models = tmp_path / "models"
    shutil.copytree(contract_models, models)
    with EmbeddedServer(models, ServerOptions(grpc_port=0, rest_port=0, poll_s=0.1)) as served:
        address = start(asks_for_certificates=False, before=served)
        server: Any = {"server": [address], "json": True, "wait_s": 20.0}
        label(models, RECOMMENDER, "stable", 1, **server, tls_ca=authority.file)
        assert printed(capsys)["labels"] == {"stable": 1}
        rollback(models, RECOMMENDER, to="1", **server, tls_ca=authority.file)
        assert printed(capsys)["default"] == 1
        with pytest.raises(FailureError, match="has not loaded version 1"):
            rollback(models, RECOMMENDER, to="1", **{**server, "wait_s": 0.1})


def test_who_is_not_trusted_is_not_asked(start: Start, authority: Authority, tmp_path: Path) -> None:
    stranger = Authority(tmp_path, "stranger")
    address = start(asks_for_certificates=True)
    for tls in ({}, {"tls_ca": stranger.file}, {"tls_ca": authority.file}):
        with pytest.raises(FailureError, match=r"no server answers|no answer from"):
            recommend(history="", address=address, timeout_s=3, **tls)


class _Answering(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"outputs": {"news_id": [["N3"]], "title": [["Snow"]], "score": [[0.5]]}}')

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def https_port(authority: Authority) -> Iterator[int]:
    """A REST server that asks clients for certificates."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue("rest"))
    context.load_verify_locations(authority.file)
    context.verify_mode = ssl.CERT_REQUIRED
    with ThreadingHTTPServer(("127.0.0.1", 0), _Answering) as server:
        server.handle_error = lambda *_: None  # type: ignore[method-assign]
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield server.server_port
        server.shutdown()


def test_rest_is_asked_by_tls(
    https_port: int, authority: Authority, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    certificate, key = authority.issue("client")
    trusted: Any = {"tls_ca": authority.file, "tls_cert": certificate, "tls_key": key}
    for address in (f"127.0.0.1:{https_port}", f"https://127.0.0.1:{https_port}"):
        recommend(history_text="a", address=address, rest=True, json=True, **trusted)
        assert printed(capsys)["recommendations"][0]["news_id"] == "N3"
    stranger = Authority(tmp_path, "stranger")
    for tls in ({"tls_ca": stranger.file}, {"tls_ca": authority.file}):
        with pytest.raises(FailureError):
            recommend(history_text="a", address=f"127.0.0.1:{https_port}", rest=True, timeout_s=3, **tls)
    with pytest.raises(InputError, match="is not encrypted: give an address with https://"):
        recommend(history_text="a", address=f"http://127.0.0.1:{https_port}", **trusted)


def test_wrong_files_are_wrong_input(authority: Authority, tmp_path: Path) -> None:
    certificate, key = authority.issue("other")
    assert client_credentials(None) is None
    for files in ((authority.file, certificate), (authority.file, None, key), (None, certificate, key)):
        with pytest.raises(InputError, match="--tls-cert and --tls-key together"):
            client_credentials(*files)
    with pytest.raises(InputError, match="not a PEM file with a certificate"):
        client_credentials(key)
    with pytest.raises(InputError, match="not a PEM file with a private key"):
        client_credentials(authority.file, certificate, certificate)
    with pytest.raises(InputError, match="cannot be used together"):
        client_context(authority.file, authority.file, key)
    with pytest.raises(InputError, match="cannot be read"):
        client_credentials(tmp_path / "absent.pem")

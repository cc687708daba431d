"""Where servers are and whom to trust: hosts and ports of addresses, PEM files of TLS."""

import ipaddress
from pathlib import Path
from typing import TYPE_CHECKING

import grpc

if TYPE_CHECKING:
    import ssl

from genre_tf.errors import InputError


def host_port(host: str, port: int) -> str:
    """HOST:PORT; an IPv6 address is put in brackets, otherwise its end would be read as the port."""
    bare = bare_host(host)
    return f"[{bare}]:{port}" if ":" in bare else f"{bare}:{port}"


def bare_host(host: str) -> str:
    """The host in the form that sockets take: an IPv6 address without the brackets of a URL."""
    return host[1:-1] if host.startswith("[") and host.endswith("]") else host


def is_url(address: str) -> bool:
    """Whether an address is that of a REST server; those of gRPC servers are HOST:PORT or gRPC's names."""
    return address.startswith(("http://", "https://"))


def is_loopback(host: str) -> bool:
    """Whether a host is this machine: localhost, 127.0.0.0/8, ::1, or the address of all its interfaces."""
    try:
        address = ipaddress.ip_address(bare_host(host))
        return address.is_loopback or address.is_unspecified
    except ValueError:
        return host.lower().rstrip(".") == "localhost"


def read_pem(file: Path, kind: str) -> bytes:
    """Read a PEM file.

    Args:
        file: file to read.
        kind: what it must contain: `CERTIFICATE` or `PRIVATE KEY`.

    Raises:
        InputError: the file cannot be read, or does not contain `kind`.
    """
    try:
        text = file.read_bytes()
    except OSError as error:
        raise InputError(f"{file} cannot be read ({error.strerror})") from None
    if b"-----BEGIN " not in text or f"{kind}-----".encode() not in text:
        raise InputError(f"{file} is not a PEM file with a {kind.lower()}")
    return text


def client_credentials(
    authority: Path | None, certificate: Path | None = None, key: Path | None = None
) -> grpc.ChannelCredentials | None:
    """Read the TLS credentials of a gRPC client.

    Args:
        authority: certificates of the authority that signed the server's certificate, PEM; None: no TLS.
        certificate: certificate of the client with its chain, PEM; for servers that require one.
        key: private key of `certificate`, PEM.

    Returns:
        Credentials for `Client`; None without TLS.

    Raises:
        InputError: a file cannot be read or is not a PEM file of its kind, or one of them is missing.
    """
    _check_files(authority, certificate, key)
    if authority is None:
        return None
    return grpc.ssl_channel_credentials(
        read_pem(authority, "CERTIFICATE"),
        None if key is None else read_pem(key, "PRIVATE KEY"),
        None if certificate is None else read_pem(certificate, "CERTIFICATE"),
    )


def client_context(
    authority: Path | None, certificate: Path | None = None, key: Path | None = None
) -> "ssl.SSLContext | None":
    """Read the TLS credentials of a REST client; arguments and errors as for `client_credentials`."""
    import ssl

    _check_files(authority, certificate, key)
    if authority is None:
        return None
    context = ssl.create_default_context(cadata=read_pem(authority, "CERTIFICATE").decode("ascii", "replace"))
    if certificate is not None and key is not None:
        read_pem(certificate, "CERTIFICATE")
        read_pem(key, "PRIVATE KEY")
        try:
            context.load_cert_chain(certificate, key)
        except ssl.SSLError as error:
            raise InputError(f"{certificate} and {key} cannot be used together ({error.reason})") from None
    return context


def _check_files(authority: Path | None, certificate: Path | None, key: Path | None) -> None:
    if (certificate is None) != (key is None) or (authority is None and key is not None):
        raise InputError("give --tls-cert and --tls-key together, and only with --tls-ca")

"""Read keys and certificates from PEM files, and turn them into gRPC credentials."""

from pathlib import Path
from typing import TYPE_CHECKING

import grpc

if TYPE_CHECKING:
    import ssl

from genre_tf.errors import InputError


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

"""Keys and certificates: read from PEM files, and made into what gRPC takes."""

from pathlib import Path

import grpc

from genre_tf.errors import InputError


def read_pem(file: Path, kind: str) -> bytes:
    """The text of a PEM file.

    Args:
        file: it.
        kind: what must be in it: `CERTIFICATE` or `PRIVATE KEY`.

    Raises:
        InputError: it cannot be read, or holds no such thing.
    """
    try:
        text = file.read_bytes()
    except OSError as error:
        raise InputError(f"{file} cannot be read ({error.strerror})") from None
    if b"-----BEGIN " not in text or f"{kind}-----".encode() not in text:
        raise InputError(f"{file} is no PEM file with a {kind.lower()}")
    return text


def client_credentials(
    authority: Path | None, certificate: Path | None = None, key: Path | None = None
) -> grpc.ChannelCredentials | None:
    """What a client asks a server with.

    Args:
        authority: certificates of whoever signed the server's, PEM; None: no TLS.
        certificate: of this client, with its chain, PEM; for a server that asks for one.
        key: its private key, PEM.

    Returns:
        For `GenreClient`; None without TLS.

    Raises:
        InputError: a file cannot be read or is no PEM of its kind, or one of them is missing.
    """
    if (certificate is None) != (key is None) or (authority is None and key is not None):
        raise InputError("TLS takes --tls-ca, and --tls-cert and --tls-key together beside it")
    if authority is None:
        return None
    return grpc.ssl_channel_credentials(
        read_pem(authority, "CERTIFICATE"),
        None if key is None else read_pem(key, "PRIVATE KEY"),
        None if certificate is None else read_pem(certificate, "CERTIFICATE"),
    )

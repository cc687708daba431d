"""Read keys and certificates from PEM files, and turn them into gRPC credentials."""

from pathlib import Path

import grpc

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
    """Read the TLS credentials of a client.

    Args:
        authority: certificates of the authority that signed the server's certificate, PEM; None: no TLS.
        certificate: certificate of the client with its chain, PEM; for servers that require one.
        key: private key of `certificate`, PEM.

    Returns:
        Credentials for `GenreClient`; None without TLS.

    Raises:
        InputError: a file cannot be read or is not a PEM file of its kind, or one of them is missing.
    """
    if (certificate is None) != (key is None) or (authority is None and key is not None):
        raise InputError("give --tls-cert and --tls-key together, and only with --tls-ca")
    if authority is None:
        return None
    return grpc.ssl_channel_credentials(
        read_pem(authority, "CERTIFICATE"),
        None if key is None else read_pem(key, "PRIVATE KEY"),
        None if certificate is None else read_pem(certificate, "CERTIFICATE"),
    )

"""The options of every verb that asks a server which may speak TLS."""

from pathlib import Path
from typing import Annotated

import typer

TlsCa = Annotated[
    Path | None,
    typer.Option("--tls-ca", help="Who signed the server's certificate (PEM): ask it by TLS."),
]
TlsCert = Annotated[
    Path | None,
    typer.Option("--tls-cert", help="This client's certificate (PEM), for a server that asks for one."),
]
TlsKey = Annotated[Path | None, typer.Option("--tls-key", help="Its private key (PEM).")]

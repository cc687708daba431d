"""TLS options of the verbs that send requests to a server."""

from pathlib import Path
from typing import Annotated

import typer

TlsCa = Annotated[
    Path | None,
    typer.Option("--tls-ca", help="Authority that signed the server's certificate (PEM); turns on TLS."),
]
TlsCert = Annotated[
    Path | None,
    typer.Option("--tls-cert", help="This client's certificate (PEM), for a server that asks for one."),
]
TlsKey = Annotated[Path | None, typer.Option("--tls-key", help="Private key of --tls-cert (PEM).")]

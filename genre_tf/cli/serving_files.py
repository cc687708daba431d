"""`genre serving-files MODELS OUT`: Docker, Kubernetes, Prometheus and Grafana files for exported models."""

from pathlib import Path
from typing import Annotated

import typer

from genre_tf.cli.console import load_tensorflow, print_json, results
from genre_tf.errors import InputError


def serving_files(
    models: Annotated[Path, typer.Argument(help="Folder that `genre export` wrote.")],
    out: Annotated[Path, typer.Argument(help="Folder to write; files of the same names are replaced.")],
    image: Annotated[
        str, typer.Option(help="Name of the image that the Dockerfile builds.")
    ] = "genre-serving",
    serving_version: Annotated[str, typer.Option(help="Version of tensorflow/serving.")] = "2.20.0",
    namespace: Annotated[str, typer.Option(help="Kubernetes namespace.")] = "genre",
    cpus: Annotated[int, typer.Option(min=1, help="Cores of each server.")] = 4,
    memory_gib: Annotated[
        int | None, typer.Option(min=1, help="Memory of each server; default: from the sizes of the models.")
    ] = None,
    min_replicas: Annotated[int, typer.Option(min=1, help="Minimum replicas of each servable.")] = 2,
    max_replicas: Annotated[int, typer.Option(min=1, help="Maximum replicas of each servable.")] = 10,
    gpu: Annotated[bool, typer.Option("--gpu", help="Give each Kubernetes server one GPU.")] = False,
    bfloat16: Annotated[bool, typer.Option("--bfloat16", help="CPU servers multiply in bfloat16.")] = False,
    tls_cert: Annotated[
        Path | None, typer.Option(help="Server's certificate chain (PEM); turns on TLS for gRPC.")
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Private key of --tls-cert (PEM).")] = None,
    tls_ca: Annotated[
        Path | None, typer.Option(help="Authority that signs client certificates (PEM); makes them required.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Write the files that deploy TensorFlow Serving: images, containers, manifests, alerts, a dashboard.

    Each setting has its reason in a comment. Nothing is started.

    Example: genre serving-files models deploy
    """
    if (tls_cert is None) != (tls_key is None) or (tls_ca is not None and tls_cert is None):
        raise InputError("give --tls-cert and --tls-key together, and --tls-ca only with both")
    load_tensorflow()
    from genre_tf.serving.operations.serving_files import (
        DeploymentOptions,
        write_serving_files,
        write_ssl_config,
    )

    options = DeploymentOptions(
        image=image,
        serving_version=serving_version,
        namespace=namespace,
        cpus=cpus,
        memory_gib=memory_gib,
        min_replicas=min_replicas,
        max_replicas=max_replicas,
        gpu=gpu,
        bfloat16=bfloat16,
        tls=tls_cert is not None,
    )
    files = write_serving_files(models, out, options)
    if tls_cert is not None and tls_key is not None:
        write_ssl_config(out / "tls" / "ssl.config", tls_key, tls_cert, tls_ca)
        files.append(out / "tls" / "ssl.config")
    if json:
        print_json({"files": [str(file) for file in files]})
        return
    for file in files:
        results.print(str(file))

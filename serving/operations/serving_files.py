"""`genre serving-files`: the files that deploy exported models, with a reason for each setting."""

import hashlib
import os
from pathlib import Path
from typing import Any

from google.protobuf import text_encoding

from genre_tf.errors import InputError
from genre_tf.serving.client.channels import read_pem
from genre_tf.serving.operations.configuration import (
    BATCHING_NAME,
    MONITORING_NAME,
    BatchingOptions,
    render_batching,
    render_monitoring,
    rendered,
    verbatim,
)
from genre_tf.serving.operations.deployment import (
    CONFIG_POLL_S,
    Batching,
    DeployedServable,
    DeploymentOptions,
    container_arguments,
    deployed_servables,
)
from genre_tf.serving.operations.models_config import (
    CONFIG_NAME,
    read_models_config,
    render_for_containers,
    write_atomically,
    write_container_configs,
)

GPU_BATCHING_NAME = "batching-gpu.config"
SERVER_ERRORS = "UNAVAILABLE|INTERNAL|UNKNOWN|DEADLINE_EXCEEDED|RESOURCE_EXHAUSTED"
CLIENT_ERRORS = "INVALID_ARGUMENT|NOT_FOUND|FAILED_PRECONDITION"  # the last: no such signature
_ONE_SERVER = """\
# For one server of all servables: a copy made when these files were written. The containers of this folder
# serve one servable each and read /models/NAME/models.config instead. `genre rollback` and `genre label`
# update that file, not this copy.
"""
_GPU_TIMEOUT_US = 2000  # TensorFlow Serving's advice: "typically a few milliseconds"
_AS_THEY_ARE = (
    "monitoring/grafana/dashboards/genre.json",
    "monitoring/grafana/dashboards/genre.yml",
    "monitoring/grafana/datasources/prometheus.yml",
)
_VERSIONS_KEPT = 5  # three that `genre prune` keeps, one that is being written, one to spare


def write_serving_files(models: Path, out: Path, options: DeploymentOptions) -> list[Path]:
    """Write the server files of a MODELS folder.

    Args:
        models: folder that `genre export` wrote; each servable's models.config for containers goes there too.
        out: folder to write; files of the same names are replaced, each whole or not at all.
        options: how the servables are run.

    Returns:
        The written files in `out`.

    Raises:
        InputError: no servable, unprintable characters in the path, or an unwritable folder.
    """
    servables = deployed_servables(models, options)
    folder = str(models.resolve())
    if not folder.isprintable():
        raise InputError(f"{folder!r} contains unprintable characters: rename it")
    write_container_configs(models)
    entries = read_models_config(models / CONFIG_NAME).model_config_list.config
    models_config = render_for_containers(entries, _ONE_SERVER)
    contents = render_all(folder, models_config, servables, options)
    for name, content in contents.items():
        try:
            (out / name).parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot write to {out} ({error.strerror}): give a writable folder") from None
        write_atomically(out / name, content)
    return [out / name for name in contents]


def render_all(
    models: str, models_config: str, servables: list[DeployedServable], options: DeploymentOptions
) -> dict[str, str]:
    """Render every file: path within the folder -> text."""
    configuration = _configuration(servables, options)
    values: dict[str, Any] = {
        **{name: getattr(options, name) for name in options.__dataclass_fields__},
        "models": models,
        "poll_s": CONFIG_POLL_S,
        "server_errors": SERVER_ERRORS,
        "client_errors": CLIENT_ERRORS,
        "servables": [_for_template(servable, options) for servable in servables],
        "storage_gib": max(1, round(_VERSIONS_KEPT * sum(servable.size_gib for servable in servables) + 0.5)),
        "configuration": configuration,
        "configuration_digest": hashlib.sha256("".join(configuration.values()).encode()).hexdigest(),
        "kubernetes_image": options.image + ("-gpu" if options.gpu else ""),
        "probe": _probe(servables[0].name, options),
    }
    files = {f"config/{name}": text for name, text in configuration.items()}
    files["config/models.config"] = models_config
    for name in ("Dockerfile", "docker-compose.yml", "docker-compose.gpu.yml"):
        files[name] = rendered(f"docker/{name}", **values)
    files["kubernetes/00-shared.yaml"] = rendered("kubernetes/shared.yaml", **values)
    for servable in values["servables"]:
        arguments = servable["gpu_arguments" if options.gpu else "arguments"]
        files[f"kubernetes/{servable['host']}.yaml"] = rendered(
            "kubernetes/servable.yaml",
            **{**values, "probe": _probe(servable["name"], options)},
            servable=servable,
            kubernetes_arguments=arguments,
        )
    for name in ("monitoring/prometheus.yml", "monitoring/alerts.yml"):
        files[name] = rendered(name, **values)
    return files | {name: verbatim(name) for name in _AS_THEY_ARE}


def write_ssl_config(file: Path, key: Path, certificate: Path, authority: Path | None) -> None:
    """Write an SSLConfig for TensorFlow Serving; it contains the private key, so only its owner may read it.

    Args:
        file: file to write, mode 0600.
        key: private key of the server, PEM.
        certificate: certificate of the server with its chain, PEM.
        authority: certificates of the authority that signs client certificates, PEM; None: clients need no
            certificate.

    Raises:
        InputError: a file cannot be read or is not a PEM file of its kind.
    """
    texts = {"server_key": read_pem(key, "PRIVATE KEY"), "server_cert": read_pem(certificate, "CERTIFICATE")}
    if authority is not None:
        texts["custom_ca"] = read_pem(authority, "CERTIFICATE")
    lines = [f'{field}: "{text_encoding.CEscape(text, as_utf8=False)}"' for field, text in texts.items()]
    lines.append(f"client_verify: {str(authority is not None).lower()}")
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_name(f".{file.name}.{os.getpid()}")
    beside.unlink(missing_ok=True)
    beside.touch(mode=0o600, exist_ok=False)  # set the mode before the key is written
    beside.write_text("\n".join(lines) + "\n", encoding="ascii")
    beside.replace(file)


def _configuration(servables: list[DeployedServable], options: DeploymentOptions) -> dict[str, str]:
    """Render the files that servers read from /config: name -> text."""
    files = {MONITORING_NAME: render_monitoring()}
    for servable in servables:
        for gpu in (False, True):
            name, batching = _batching(servable, options, gpu)
            files[name] = render_batching(batching)
    return files


def _batching(
    servable: DeployedServable, options: DeploymentOptions, gpu: bool
) -> tuple[str, BatchingOptions]:
    """Return the name of a batching file in /config, and what is in it."""
    return f"{servable.host}-{GPU_BATCHING_NAME if gpu else BATCHING_NAME}", BatchingOptions(
        batch_sizes=servable.batch_sizes,
        batch_timeout_us=_GPU_TIMEOUT_US if gpu else 0,
        max_enqueued_batches=options.cpus,
        num_batch_threads=options.cpus,
        gpu=gpu,
    )


def _for_template(servable: DeployedServable, options: DeploymentOptions) -> dict[str, Any]:
    values = {name: getattr(servable, name) for name in servable.__dataclass_fields__}
    for kind, gpu in (("arguments", False), ("gpu_arguments", True)):
        file, settings = _batching(servable, options, gpu)
        batching = Batching(file=file, parameters=settings.parameters)
        values[kind] = container_arguments(servable.name, options, batching=batching, gpu=gpu)
    return values


def _probe(name: str, options: DeploymentOptions) -> str:
    if options.tls:
        return f"httpGet: {{path: /v1/models/{name}, port: rest}}"
    return "grpc: {port: 8500}"

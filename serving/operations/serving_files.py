"""`genre serving-files`: the files that deploy exported models, with a reason for each setting and flag."""

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
from google.protobuf import text_encoding

from genre_tf import __version__
from genre_tf.contract import GENERATOR, RECOMMENDER
from genre_tf.errors import InputError
from genre_tf.export.contract_file import read_contract
from genre_tf.export.models_config import (
    CONFIG_NAME,
    CONTAINER_FOLDER,
    NAME,
    base_folder,
    locked,
    read_models_config,
    render_for_containers,
    write_atomically,
    write_container_configs,
)
from genre_tf.export.publishing import versions
from genre_tf.export.server_config import (
    BATCHING_NAME,
    MONITORING_NAME,
    BatchingParameters,
    render_batching,
    template,
)
from genre_tf.serving.client.channels import read_pem

GPU_BATCHING_NAME = "batching-gpu.config"
SERVER_ERRORS = "UNAVAILABLE|INTERNAL|UNKNOWN|DEADLINE_EXCEEDED|RESOURCE_EXHAUSTED"
CLIENT_ERRORS = "INVALID_ARGUMENT|NOT_FOUND|FAILED_PRECONDITION"  # the last: no such signature
CONFIG_FOLDER = "/config"
TLS_FILE = "/tls/ssl.config"
CONFIG_POLL_S = 10  # delay of `genre rollback` and `genre label`; short, as a poll reads one small file
_FEWEST_GRPC_THREADS = 256  # bursts that no batching file foresees; a thread that waits costs some kB
_GPU_TIMEOUT_US = 2000  # TensorFlow Serving's advice: "typically a few milliseconds"
_VERSIONS_KEPT = 5  # three that `genre prune` keeps, one that is being written, one to spare
_AS_THEY_ARE = (
    "monitoring/grafana/dashboards/genre.json",
    "monitoring/grafana/dashboards/genre.yml",
    "monitoring/grafana/datasources/prometheus.yml",
)
_ONE_SERVER = """\
# For one server of all servables: a copy made when these files were written. The containers of this folder
# serve one servable each and read /models/NAME/models.config instead. `genre rollback` and `genre label`
# update that file, not this copy.
"""
_HOST = re.compile(r"[a-z]([a-z0-9-]{0,48}[a-z0-9])?")  # a DNS label, with room for "-pods"
_IMAGE = re.compile(r"[a-z0-9][a-z0-9._-]*(:[0-9]+)?(/[a-z0-9][a-z0-9._-]*)*(:[A-Za-z0-9][A-Za-z0-9._-]*)?")
_VERSION = re.compile(r"[0-9]+\.[0-9]+\.[0-9]+")
_SLOW_MS: Mapping[str, tuple[int, str]] = {
    GENERATOR: (20_000, "Texts are written token by token: seconds on CPUs are usual."),
}
_SLOW_USUAL = (200, "A page waits for this: measure your own latency, and set the limit above it.")
_BYTES_PER_GIB = 1 << 30


def verbatim(template: str) -> str:
    """A file of `templates/` as it is."""
    return resources.files("genre_tf.serving.operations").joinpath("templates", template).read_text("utf-8")


def rendered(template: str, **values: Any) -> str:
    """A file of `templates/`, such as `docker/Dockerfile`, with a value for every name in it."""
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(verbatim),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701  (no HTML: values are quoted by the filters below, or checked beforehand)
    )
    environment.filters["quoted"] = _quoted
    # docker-compose replaces $NAME inside strings, Kubernetes $(NAME) inside the arguments of a container.
    environment.filters["compose_quoted"] = lambda value: _quoted(value.replace("$", "$$"))
    environment.filters["kubernetes_quoted"] = lambda value: _quoted(value.replace("$(", "$$("))
    return environment.get_template(template).render(**values)


def _quoted(value: str) -> str:
    """A string for YAML; every JSON string is also a YAML string."""
    return json.dumps(value, ensure_ascii=False)


@dataclass(frozen=True, kw_only=True)
class DeploymentOptions:
    """How the servables are deployed."""

    app_image: str = "genre-app"  # what Dockerfile.app builds
    image: str = "genre-serving"  # what the Dockerfile builds; may include a registry's address and a tag
    serving_version: str = "2.20.0"  # the newest release; `genre verify` checks that exports use only its ops
    namespace: str = "genre"
    cpus: int = 4  # cores of each server; batching and thread pools follow
    memory_gib: int | None = None  # None: by the size of the models
    min_replicas: int = 2  # while one is moved or loads, the other answers
    max_replicas: int = 10
    gpu: bool = False  # for Kubernetes; docker compose has a second file for it
    tls: bool = False  # TLS for gRPC, by ssl.config

    def __post_init__(self) -> None:
        """Reject values that would break the files or change their meaning."""
        image = "image must be an image name, such as registry.example/genre-serving:1"
        version = "the version of TensorFlow Serving must be three numbers, such as 2.20.0"
        name = "the namespace must be 1 to 50 lowercase letters, digits and - (first a letter, last not -)"
        for value, pattern, wanted in (
            (self.image, _IMAGE, image),
            (self.app_image, _IMAGE, image),
            (self.serving_version, _VERSION, version),
            (self.namespace, _HOST, name),
        ):
            if not pattern.fullmatch(value):
                raise InputError(f"{wanted}; got {value!r}")
        if self.cpus < 1 or (self.memory_gib is not None and self.memory_gib < 1):
            raise InputError(
                "each server needs at least 1 core and 1 GiB; "
                f"got cpus {self.cpus}, memory_gib {self.memory_gib}"
            )
        if not 1 <= self.min_replicas <= self.max_replicas:
            raise InputError(
                "replicas must be at least 1, and the minimum not above the maximum; "
                f"got {self.min_replicas} to {self.max_replicas}"
            )


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
    file, folder = models / CONFIG_NAME, str(models.resolve())
    if not file.is_file():
        raise InputError(f"there is no {file}: give the folder that `genre export` wrote")
    if not folder.isprintable():
        raise InputError(f"{folder!r} contains unprintable characters: rename it")
    with locked(models):
        config = read_models_config(file)
        servables = _deployed(models, config, options)
        write_container_configs(models, config)
    contents = _rendered_files(folder, servables, options)
    contents["config/models.config"] = render_for_containers(config.model_config_list.config, _ONE_SERVER)
    for name, content in contents.items():
        write_atomically(out / name, content)
    return [out / name for name in contents]


def _rendered_files(
    models: str, servables: list[dict[str, Any]], options: DeploymentOptions
) -> dict[str, str]:
    """Every file but models.config: path within the folder -> text."""
    files = {f"config/{MONITORING_NAME}": template(MONITORING_NAME)}
    for servable in servables:
        arguments = []
        for gpu in (False, True):
            name = f"{servable['host']}-{GPU_BATCHING_NAME if gpu else BATCHING_NAME}"
            batching = BatchingParameters(
                max_batch_size=servable["batch_sizes"][-1],
                batch_timeout_us=_GPU_TIMEOUT_US if gpu else 0,
                max_enqueued_batches=options.cpus,
                num_batch_threads=options.cpus,
                allowed_batch_sizes=tuple(servable["batch_sizes"]) if gpu else (),
            )
            files[f"config/{name}"] = render_batching(batching)
            arguments.append(
                server_arguments(
                    # In the models volume: an edit reaches every server.
                    f"{CONTAINER_FOLDER}/{servable['name']}/{CONFIG_NAME}",
                    cpus=options.cpus,
                    batching_file=f"{CONFIG_FOLDER}/{name}",
                    batching=batching,
                    monitoring_file=f"{CONFIG_FOLDER}/{MONITORING_NAME}",
                    container=options,
                )
            )
        servable["arguments"], servable["gpu_arguments"] = arguments
    values: dict[str, Any] = {
        **asdict(options),
        "models": models,
        "poll_s": CONFIG_POLL_S,
        "server_errors": SERVER_ERRORS,
        "client_errors": CLIENT_ERRORS,
        "servables": servables,
        "storage_gib": max(1, round(_VERSIONS_KEPT * sum(one["size_gib"] for one in servables) + 0.5)),
        "configuration": {name.removeprefix("config/"): text for name, text in files.items()},
        "configuration_digest": hashlib.sha256("".join(files.values()).encode()).hexdigest(),
        "kubernetes_image": options.image + ("-gpu" if options.gpu else ""),
        "app_flags": _app_flags([one["host"] for one in servables]),
        "genre_version": __version__,
    }
    compose = ("docker-compose.yml", "docker-compose.gpu.yml", "docker-compose.app.yml")
    for name in ("Dockerfile", "Dockerfile.app", *compose):
        files[name] = rendered(f"docker/{name}", **values)
    files["kubernetes/00-shared.yaml"] = rendered("kubernetes/shared.yaml", **values)
    for one in servables:
        flags = one["gpu_arguments" if options.gpu else "arguments"]
        files[f"kubernetes/{one['host']}.yaml"] = rendered(
            "kubernetes/servable.yaml", **values, servable=one, kubernetes_arguments=flags
        )
    for name in ("kubernetes-app/app.yaml", "monitoring/prometheus.yml", "monitoring/alerts.yml"):
        files[name] = rendered(name, **values)
    return files | {name: verbatim(name) for name in _AS_THEY_ARE}


def _app_flags(hosts: Sequence[str]) -> list[str]:
    """Flags that tell the app where the servables are, each on a server of its own."""
    options = {_host(RECOMMENDER): "--server", _host(GENERATOR): "--generator-server"}
    return [text for host in hosts if host in options for text in (options[host], f"{host}:8500")]


def _host(servable: str) -> str:
    return servable.lower().replace("_", "-")


def write_ssl_config(file: Path, key: Path, certificate: Path, authority: Path | None) -> None:
    """Write an SSLConfig for TensorFlow Serving; it contains the private key, so only its owner may read it.

    Clients need a certificate if there is an authority that signs theirs.
    """
    texts = {"server_key": read_pem(key, "PRIVATE KEY"), "server_cert": read_pem(certificate, "CERTIFICATE")}
    if authority is not None:
        texts["custom_ca"] = read_pem(authority, "CERTIFICATE")
    lines = [f'{field}: "{text_encoding.CEscape(text, as_utf8=False)}"' for field, text in texts.items()]
    lines.append(f"client_verify: {str(authority is not None).lower()}")
    write_atomically(file, "\n".join(lines) + "\n", mode=0o600)


def _deployed(models: Path, config: Any, options: DeploymentOptions) -> list[dict[str, Any]]:
    """What templates say of each servable of a configuration."""
    found: list[dict[str, Any]] = []
    for number, entry in enumerate(config.model_config_list.config):
        if not NAME.fullmatch(entry.name):
            raise InputError(
                f"servable {entry.name!r} cannot be deployed: rename it to letters, digits, - and _ (at most "
                "63 characters)"
            )
        host = _host(entry.name)
        if not _HOST.fullmatch(host) or host in {other["host"] for other in found}:
            raise InputError(
                f"servable {entry.name!r} needs the host name {host!r}, which is taken or invalid: rename it"
            )
        folder = base_folder(models, entry)
        if not versions(folder):
            raise InputError(f"{folder} has no version: run `genre export` first")
        newest = folder / str(versions(folder)[-1])
        size_gib = sum(file.stat().st_size for file in newest.rglob("*") if file.is_file()) / _BYTES_PER_GIB
        sizes = read_contract(newest).get("batch_sizes")
        if not isinstance(sizes, list) or not sizes or any(type(n) is not int or n < 1 for n in sizes):
            raise InputError(f"{newest}: contract.json has no valid batch sizes: export again")
        slow_ms, slow_reason = _SLOW_MS.get(entry.name, _SLOW_USUAL)
        rest = f"httpGet: {{path: /v1/models/{entry.name}, port: rest}}"
        found.append(
            {
                "name": entry.name,
                "host": host,  # its host name in the network and in Kubernetes
                "batch_sizes": sorted(set(sizes)),  # that its warmup covers
                "memory_gib": options.memory_gib or memory_gib(size_gib),  # that each of its servers may use
                "size_gib": size_gib,  # of its newest version on disk
                "grpc_port": 8500 + 10 * number,  # on the machine that runs docker compose
                "rest_port": 8501 + 10 * number,
                "slow_ms": slow_ms,  # p99 latency above which an alert warns
                "slow_reason": slow_reason,
                "probe": rest if options.tls else "grpc: {port: 8500}",
            }
        )
    if not found:
        raise InputError(f"{models / CONFIG_NAME} lists no model: run `genre export` first")
    return found


def memory_gib(size_gib: float) -> int:
    """Memory of a server: two versions during a reload, each twice while it is read, plus 2 GiB for work."""
    return math.ceil(2 + 4 * size_gib)


class Argument(NamedTuple):
    """A flag with its value, and the reason, which is written as a comment beside it."""

    flag: str
    why: str


def server_arguments(
    config_file: str,
    *,
    cpus: int,
    batching_file: str | None,
    batching: BatchingParameters | None,
    monitoring_file: str | None,
    grpc_port: int = 8500,
    rest_port: int = 8501,
    container: DeploymentOptions | None = None,
) -> list[Argument]:
    """The flags of a server; `batching` is what its batching file says, `container` how it is deployed."""
    own_cpus = cpus if container else None
    tls_file = TLS_FILE if container and container.tls else None
    flags: list[tuple[str, object, str]] = [
        ("port", grpc_port, "gRPC port."),
        ("rest_api_port", rest_port, "Port of REST and of the metrics."),
        (
            "grpc_max_threads",
            grpc_threads(cpus, batching),
            "All rows that may run or wait in batches, at least 256. The default, 4 per core, refuses bursts "
            "(RESOURCE_EXHAUSTED).",
        ),
        ("model_config_file", config_file, "Models, versions and labels."),
        (
            "model_config_file_poll_wait_seconds",
            CONFIG_POLL_S,
            "How often the file is read: the delay of a rollback or a label.",
        ),
        (
            "allow_version_labels_for_unavailable_models",
            "true",
            "When the server starts, a label may be set before its version is loaded.",
        ),
        ("enable_grpc_healthcheck_service", "true", "For probes and load balancers."),
        (
            "num_load_threads",
            1,
            "By default versions load in the manager's own loop: a broken one delays those after it.",
        ),
        ("num_unload_threads", 1, "For the same reason."),
        (
            "max_num_load_retries",
            1,
            "Report a broken version soon; the version before it stays loaded. By default it is tried for "
            "five minutes.",
        ),
        ("enable_batching", batching_file and "true", "Requests of several users run in one batch."),
        ("batching_parameters_file", batching_file, "Batching parameters, with a reason for each."),
        ("monitoring_config_file", monitoring_file, "Metrics for Prometheus."),
        (
            "tensorflow_intra_op_parallelism",
            own_cpus,
            "By default the server counts the cores of the machine, not of the container.",
        ),
        ("tensorflow_inter_op_parallelism", own_cpus, "For the same reason."),
        ("rest_api_num_threads", own_cpus and 4 * cpus, "For the same reason; four per core is the default."),
        ("ssl_config_file", tls_file, "TLS for gRPC; REST stays unencrypted."),
    ]
    return [Argument(f"--{flag}={value}", why) for flag, value, why in flags if value is not None]


def grpc_threads(cpus: int, batching: BatchingParameters | None) -> int:
    """Threads for gRPC: each holds one request while it runs or waits for its batch."""
    held = 0
    if batching is not None:
        batches = (batching.num_batch_threads or cpus) + batching.max_enqueued_batches
        held = batching.max_batch_size * batches
    return max(_FEWEST_GRPC_THREADS, 4 * cpus, held)

"""How servables are deployed: options, what each needs, and the flags of servers, each with its reason."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from genre_tf.contract import GENERATOR
from genre_tf.errors import InputError
from genre_tf.export.contract_file import read_contract
from genre_tf.export.publishing import versions
from genre_tf.serving.operations.configuration import MONITORING_NAME, BatchingParameters
from genre_tf.serving.operations.model_folders import CONFIG_NAME, base_folder, read_models_config
from genre_tf.serving.operations.models_config import CONTAINER_FOLDER, NAME

_HOST = re.compile(r"[a-z]([a-z0-9-]{0,48}[a-z0-9])?")  # a DNS label, with room for "-pods"
_IMAGE = re.compile(r"[a-z0-9][a-z0-9._-]*(:[0-9]+)?(/[a-z0-9][a-z0-9._-]*)*(:[A-Za-z0-9][A-Za-z0-9._-]*)?")
_VERSION = re.compile(r"[0-9]+\.[0-9]+\.[0-9]+")
_SLOW_MS: Mapping[str, tuple[int, str]] = {
    GENERATOR: (20_000, "Texts are written token by token: seconds on CPUs are usual."),
}
_SLOW_USUAL = (200, "A page waits for this: measure your own latency, and set the limit above it.")
_BYTES_PER_GIB = 1 << 30


@dataclass(frozen=True, kw_only=True)
class DeploymentOptions:
    """How the servables are deployed."""

    image: str = "genre-serving"  # what the Dockerfile builds; may include a registry's address and a tag
    serving_version: str = "2.20.0"  # the newest release; `genre verify` checks that exports use only its ops
    namespace: str = "genre"
    cpus: int = 4  # cores of each server; batching and thread pools follow
    memory_gib: int | None = None  # None: by the size of the models
    min_replicas: int = 2  # while one is moved or loads, the other answers
    max_replicas: int = 10
    gpu: bool = False  # for Kubernetes; docker compose has a second file for it
    bfloat16: bool = False  # multiply float32 matrices in bfloat16 if the CPU can (AMX, AVX512_BF16)
    tls: bool = False  # TLS for gRPC, by ssl.config

    def __post_init__(self) -> None:
        """Reject values that would break the files or change their meaning."""
        if not _IMAGE.fullmatch(self.image):
            raise InputError(
                f"image must be an image name, such as registry.example/genre-serving:1; got {self.image!r}"
            )
        if not _VERSION.fullmatch(self.serving_version):
            raise InputError(
                "the version of TensorFlow Serving must be three numbers, such as 2.20.0; "
                f"got {self.serving_version!r}"
            )
        if not _HOST.fullmatch(self.namespace):
            raise InputError(
                "the namespace must be 1 to 50 lowercase letters, digits and - (first a letter, last not -); "
                f"got {self.namespace!r}"
            )
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


@dataclass(frozen=True, kw_only=True)
class DeployedServable:
    """One servable, with the values that server files need."""

    name: str
    host: str  # its host name in the network and in Kubernetes
    batch_sizes: tuple[int, ...]  # that its warmup covers
    memory_gib: int  # that each of its servers may use
    size_gib: float  # of its newest version on disk
    grpc_port: int  # on the machine that runs docker compose
    rest_port: int
    slow_ms: int  # p99 latency above which an alert warns
    slow_reason: str


def deployed_servables(models: Path, options: DeploymentOptions) -> list[DeployedServable]:
    """The servables that `models.config` lists, with the batch sizes and disk sizes of their newest versions.

    Raises:
        InputError: there is no `models.config`, a name cannot become a host name, or a version has no
            contract.
    """
    config = models / CONFIG_NAME
    if not config.is_file():
        raise InputError(f"there is no {config}: give the folder that `genre export` wrote")
    found: list[DeployedServable] = []
    for number, entry in enumerate(read_models_config(config).model_config_list.config):
        if not NAME.fullmatch(entry.name):
            raise InputError(
                f"servable {entry.name!r} cannot be deployed: rename it to letters, digits, - and _ (at most "
                "63 characters)"
            )
        host = entry.name.lower().replace("_", "-")
        if not _HOST.fullmatch(host) or host in {other.host for other in found}:
            raise InputError(
                f"servable {entry.name!r} needs the host name {host!r}, which is taken or invalid: rename it"
            )
        folder = base_folder(models, entry.name, entry.base_path)
        if not versions(folder):
            raise InputError(f"{folder} has no version: run `genre export` first")
        newest = folder / str(versions(folder)[-1])
        size_gib = sum(file.stat().st_size for file in newest.rglob("*") if file.is_file()) / _BYTES_PER_GIB
        slow_ms, slow_reason = _SLOW_MS.get(entry.name, _SLOW_USUAL)
        found.append(
            DeployedServable(
                name=entry.name,
                host=host,
                batch_sizes=_batch_sizes(newest),
                memory_gib=options.memory_gib or memory_gib(size_gib),
                size_gib=size_gib,
                grpc_port=8500 + 10 * number,
                rest_port=8501 + 10 * number,
                slow_ms=slow_ms,
                slow_reason=slow_reason,
            )
        )
    if not found:
        raise InputError(f"{config} lists no model: run `genre export` first")
    return found


def memory_gib(size_gib: float) -> int:
    """Memory of a server: two versions during a reload, each twice while it is read, plus 2 GiB for work."""
    return math.ceil(2 + 4 * size_gib)


def _batch_sizes(version: Path) -> tuple[int, ...]:
    sizes = read_contract(version).get("batch_sizes")
    if (
        not isinstance(sizes, list)
        or not all(isinstance(size, int) and size > 0 for size in sizes)
        or not sizes
    ):
        raise InputError(f"{version}: contract.json has no valid batch sizes: export again")
    return tuple(sorted(set(sizes)))


CONFIG_FOLDER = "/config"
TLS_FILE = "/tls/ssl.config"
CONFIG_POLL_S = 10  # delay of `genre rollback` and `genre label`; short, as a poll reads one small file
_FEWEST_GRPC_THREADS = 256  # bursts that no batching file foresees; a thread that waits costs some kB


class Argument(NamedTuple):
    """A flag with its value, and the reason, which is written as a comment beside it."""

    flag: str
    why: str


class Batching(NamedTuple):
    """How a server batches requests: its batching file, and what the file says."""

    file: str
    parameters: BatchingParameters


def server_arguments(
    config_file: str,
    *,
    cpus: int,
    batching: Batching | None,
    monitoring_file: str | None,
    grpc_port: int = 8500,
    rest_port: int = 8501,
) -> list[Argument]:
    """Return the flags of every server.

    Args:
        config_file: its ModelServerConfig.
        cpus: cores that it may use.
        batching: None: requests are not batched.
        monitoring_file: its MonitoringConfig; None: no metrics.
        grpc_port: gRPC port.
        rest_port: port of REST and of the metrics.
    """
    arguments = [
        Argument(f"--port={grpc_port}", "gRPC port."),
        Argument(f"--rest_api_port={rest_port}", "Port of REST and of the metrics."),
        Argument(
            f"--grpc_max_threads={grpc_threads(cpus, None if batching is None else batching.parameters)}",
            "All rows that may run or wait in batches, at least 256. The default, 4 per core, refuses bursts "
            "(RESOURCE_EXHAUSTED).",
        ),
        Argument(f"--model_config_file={config_file}", "Models, versions and labels."),
        Argument(
            f"--model_config_file_poll_wait_seconds={CONFIG_POLL_S}",
            "How often the file is read: the delay of a rollback or a label.",
        ),
        Argument(
            "--allow_version_labels_for_unavailable_models=true",
            "When the server starts, a label may be set before its version is loaded.",
        ),
        Argument("--enable_grpc_healthcheck_service=true", "For probes and load balancers."),
        Argument(
            "--num_load_threads=1",
            "By default versions load in the manager's own loop: a broken one delays those after it.",
        ),
        Argument("--num_unload_threads=1", "For the same reason."),
        Argument(
            "--max_num_load_retries=1",
            "Report a broken version soon; the version before it stays loaded. By default it is tried for "
            "five minutes.",
        ),
    ]
    if batching is not None:
        arguments += [
            Argument("--enable_batching=true", "Requests of several users run in one batch."),
            Argument(
                f"--batching_parameters_file={batching.file}", "Batching parameters, with a reason for each."
            ),
        ]
    if monitoring_file is not None:
        arguments.append(Argument(f"--monitoring_config_file={monitoring_file}", "Metrics for Prometheus."))
    return arguments


def container_arguments(
    name: str, options: DeploymentOptions, *, batching: Batching, gpu: bool
) -> list[Argument]:
    """Return the flags for the containers of one servable; the batching file is named without its folder."""
    cpus = options.cpus
    arguments = server_arguments(
        f"{CONTAINER_FOLDER}/{name}/{CONFIG_NAME}",  # in the models volume: an edit reaches every server
        cpus=cpus,
        batching=Batching(file=f"{CONFIG_FOLDER}/{batching.file}", parameters=batching.parameters),
        monitoring_file=f"{CONFIG_FOLDER}/{MONITORING_NAME}",
    )
    arguments += [
        Argument(
            f"--tensorflow_intra_op_parallelism={cpus}",
            "By default the server counts the cores of the machine, not of the container.",
        ),
        Argument(f"--tensorflow_inter_op_parallelism={cpus}", "For the same reason."),
        Argument(f"--rest_api_num_threads={4 * cpus}", "For the same reason; four per core is the default."),
    ]
    if options.bfloat16 and not gpu:
        arguments.append(
            Argument(
                "--mixed_precision=bfloat16",
                "Multiply in bfloat16 if the CPU supports it; compare answers before you rely on it.",
            )
        )
    if options.tls:
        arguments.append(Argument(f"--ssl_config_file={TLS_FILE}", "TLS for gRPC; REST stays unencrypted."))
    return arguments


def grpc_threads(cpus: int, batching: BatchingParameters | None) -> int:
    """Threads for gRPC: each holds one request while it runs or waits for its batch."""
    held = 0
    if batching is not None:
        batches = (batching.num_batch_threads or cpus) + batching.max_enqueued_batches
        held = batching.max_batch_size * batches
    return max(_FEWEST_GRPC_THREADS, 4 * cpus, held)

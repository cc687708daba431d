"""The values that server files are rendered from: deployment options and the servables of a MODELS folder."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from genre_tf.contract import GENERATOR
from genre_tf.errors import InputError
from genre_tf.export.contract_file import read_contract
from genre_tf.export.publishing import versions
from genre_tf.serving.model_folders import CONFIG_NAME, base_folder, read_models_config
from genre_tf.serving.models_config import NAME

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
    """One servable, with the values that server files need.

    Attributes:
        name: its name in requests.
        host: its host name in the network and in Kubernetes.
        batch_sizes: batch sizes that its warmup covers.
        memory_gib: memory that each of its servers may use.
        size_gib: size of its newest version on disk.
        grpc_port: gRPC port on the machine that runs docker compose.
        rest_port: REST port on the machine that runs docker compose.
        slow_ms: p99 latency above which an alert warns.
        slow_reason: the reason for `slow_ms`, for people.
    """

    name: str
    host: str
    batch_sizes: tuple[int, ...]
    memory_gib: int
    size_gib: float
    grpc_port: int
    rest_port: int
    slow_ms: int
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

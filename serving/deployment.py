"""What server files are rendered from: options of a deployment, and the servables of a MODELS folder."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from genre_tf.errors import InputError
from genre_tf.export.contract import read_contract
from genre_tf.export.publishing import versions
from genre_tf.serving.model_folders import CONFIG_NAME, base_folder, read_models_config
from genre_tf.serving.models_config import NAME

_HOST = re.compile(r"[a-z]([a-z0-9-]{0,48}[a-z0-9])?")  # a DNS label, with room for "-pods"
_IMAGE = re.compile(r"[a-z0-9][a-z0-9._-]*(:[0-9]+)?(/[a-z0-9][a-z0-9._-]*)*(:[A-Za-z0-9][A-Za-z0-9._-]*)?")
_VERSION = re.compile(r"[0-9]+\.[0-9]+\.[0-9]+")
_SLOW_MS: Mapping[str, tuple[int, str]] = {
    "genre_generator": (20_000, "Texts are written token by token: seconds on CPUs are usual."),
}
_SLOW_USUAL = (200, "A page waits for this; measure what yours does and set it above that.")
_BYTES_PER_GIB = 1 << 30


@dataclass(frozen=True, kw_only=True)
class DeploymentOptions:
    """How the servables are run."""

    image: str = (
        "genre-serving"  # what the Dockerfile builds; a registry's address and a tag may be part of it
    )
    serving_version: str = "2.20.0"  # the newest release; `genre verify` holds exports to its ops
    namespace: str = "genre"
    cpus: int = 4  # of each server; batching and thread pools follow
    memory_gib: int | None = None  # None: from the size of the models
    min_replicas: int = 2  # one may be moved or be loading
    max_replicas: int = 10
    gpu: bool = False  # Kubernetes; for docker compose there is a second file
    bfloat16: bool = (
        False  # matrix products of float32 in 16 bits, where the processor has them (AMX, AVX512_BF16)
    )
    tls: bool = False  # gRPC by ssl.config

    def __post_init__(self) -> None:
        """Refuse what would break the files, or mean something else in them."""
        if not _IMAGE.fullmatch(self.image):
            raise InputError(
                f"image {self.image!r} is no name of an image, as registry.example/genre-serving:1"
            )
        if not _VERSION.fullmatch(self.serving_version):
            raise InputError(
                f"version {self.serving_version!r} of TensorFlow Serving: three numbers, as 2.20.0"
            )
        if not _HOST.fullmatch(self.namespace):
            raise InputError(f"namespace {self.namespace!r}: small letters, digits and -, at most 50")
        if self.cpus < 1 or (self.memory_gib is not None and self.memory_gib < 1):
            raise InputError(
                f"each server needs 1 core and 1 GiB or more: received {self.cpus}, {self.memory_gib}"
            )
        if not 1 <= self.min_replicas <= self.max_replicas:
            raise InputError(
                f"replicas from 1 up, the least first: received {self.min_replicas} to {self.max_replicas}"
            )


@dataclass(frozen=True, kw_only=True)
class DeployedServable:
    """One servable as server files name it.

    Attributes:
        name: in requests.
        host: in the network and in Kubernetes.
        batch_sizes: that its warmup covers.
        memory_gib: what its servers may use.
        size_gib: of its newest version on the disk.
        grpc_port: on the machine of docker compose; likewise rest_port.
        slow_ms: p99 that is worth a warning, and why.
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
    """The servables that `models.config` lists, with what their newest versions say of themselves.

    Raises:
        InputError: no configuration, a name that cannot be a host's, or a version without contract.
    """
    config = models / CONFIG_NAME
    if not config.is_file():
        raise InputError(f"no {config}: give the folder that `genre export` wrote")
    found: list[DeployedServable] = []
    for number, entry in enumerate(read_models_config(config).model_config_list.config):
        if not NAME.fullmatch(entry.name):
            raise InputError(
                f"servable {entry.name!r}: letters, digits, - and _ in a name that servers are made for"
            )
        host = entry.name.lower().replace("_", "-")
        if not _HOST.fullmatch(host) or host in {other.host for other in found}:
            raise InputError(
                f"servable {entry.name!r} would be the host {host!r}, which is taken or no host name"
            )
        folder = base_folder(models, entry.name, entry.base_path)
        if not versions(folder):
            raise InputError(f"{folder} has no version: `genre export` first")
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
        raise InputError(f"{config} lists no model: `genre export` first")
    return found


def memory_gib(size_gib: float) -> int:
    """Memory of a server: two versions during a reload, each twice while it is read, and 2 GiB to work in."""
    return math.ceil(2 + 4 * size_gib)


def _batch_sizes(version: Path) -> tuple[int, ...]:
    sizes = read_contract(version).get("batch_sizes")
    if (
        not isinstance(sizes, list)
        or not all(isinstance(size, int) and size > 0 for size in sizes)
        or not sizes
    ):
        raise InputError(f"{version}: contract.json names no batch sizes: export again")
    return tuple(sorted(set(sizes)))

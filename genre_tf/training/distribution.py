"""Where a training runs: one device, several GPUs, several machines or a TPU, all with the same losses.

Every input pipeline draws the same batches from the same seed and keeps the rows of its own replicas (see
`for_replicas`); with a different seed for each worker, an epoch would show some rows twice and others never.
"""

import json
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, get_args

import tensorflow as tf

from genre_tf.config import Strategy
from genre_tf.data.batches import BatchLayout, FixedShape, for_replicas
from genre_tf.errors import InputError

_OF_SEVERAL = (
    tf.distribute.MirroredStrategy,
    tf.distribute.MultiWorkerMirroredStrategy,
    tf.distribute.TPUStrategy,
)
_REMEDY = (
    'give each process its own TF_CONFIG, for example {"cluster": {"worker": ["host1:2222", "host2:2222"]}, '
    '"task": {"type": "worker", "index": 0}}'
)


@dataclass(frozen=True)
class Distribution:
    """A strategy and its requirements for batches."""

    strategy: Any  # of `tf.distribute`
    fixed_shapes: bool = False  # whether all batches have one shape; a single device then compiles with XLA
    articles: int | None = None  # per replica and batch if shapes are fixed; None: the most that can occur
    worker: int = 0  # number of this process among several; 0 is the chief or the only process

    @classmethod
    def one(cls) -> "Distribution":
        """TensorFlow's default: one replica, on the first GPU or the CPU."""
        return cls(tf.distribute.get_strategy())

    @property
    def replicas(self) -> int:
        """Number of devices that share each batch."""
        return int(self.strategy.num_replicas_in_sync)

    @property
    def jit_compile(self) -> bool:
        """Whether Keras should compile the step with XLA.

        A TPU always compiles; a step on several other devices cannot be compiled as one.
        """
        return self.fixed_shapes and not isinstance(self.strategy, _OF_SEVERAL)

    @property
    def slow_to_start(self) -> bool:
        """Whether first steps take minutes (XLA) or other processes have to take part in each."""
        several = (tf.distribute.MultiWorkerMirroredStrategy, tf.distribute.TPUStrategy)
        return self.fixed_shapes or isinstance(self.strategy, several)

    def distribute(self, make: Callable[[BatchLayout], Any], fixed: FixedShape | None = None) -> Any:
        """The input of all replicas: a `tf.data.Dataset`, or a `DistributedDataset`.

        Args:
            make: returns the dataset that holds the given parts of every batch, one after another.
            fixed: passed on to `make`.

        Raises:
            ValueError: shapes must be fixed and are not.
        """

        def checked(layout: BatchLayout) -> Any:
            dataset = make(layout)
            if self.fixed_shapes:
                spec = dataset.element_spec
                loose = [name for name, each in spec.items() if not each.shape.is_fully_defined()]
                if loose:
                    raise ValueError(f"the shapes of {', '.join(loose)} are not fixed")
            return dataset

        return for_replicas(self.strategy, checked, fixed)


def make_strategy(
    name: str, tpu: str | None = None, fixed_shapes: bool = False, articles: int | None = None
) -> Distribution:
    """The strategy with this name.

    Args:
        name: `one`; `mirrored`, all GPUs of this machine; `multiworker`, this process and others as listed in
            TF_CONFIG; `tpu`; or `auto`: `tpu` if there is one, else `mirrored` if there are several GPUs,
            else `one`.
        tpu: name or gRPC address of a TPU; `local` on a TPU machine; None: the value of TPU_NAME.
        fixed_shapes: use batches of fixed shape and compile steps with XLA even without a TPU.
        articles: articles in each replica's batch if shapes are fixed.

    Raises:
        InputError: the name is unknown, no TPU is found, TF_CONFIG is missing or invalid, or TensorFlow was
            already initialized before several workers were joined.
    """
    if name not in get_args(Strategy):
        raise InputError(f"unknown strategy {name!r}; use one of {', '.join(get_args(Strategy))}")
    if name == "tpu" or (name == "auto" and tpu_address(tpu)):
        return Distribution(_tpu_strategy(tpu), True, articles)
    if name == "multiworker":
        worker = worker_index(os.environ.get("TF_CONFIG"))
        try:
            strategy = tf.distribute.MultiWorkerMirroredStrategy()
        except RuntimeError as error:
            raise InputError(
                f"several workers must be joined before TensorFlow does anything else ({error}); "
                "create the strategy first"
            ) from None
        return Distribution(strategy, fixed_shapes, articles, worker)
    gpus = tf.config.list_logical_devices("GPU")
    if name == "mirrored" or (name == "auto" and len(gpus) > 1):
        devices = [device.name for device in gpus or tf.config.list_logical_devices("CPU")]
        return Distribution(tf.distribute.MirroredStrategy(devices), fixed_shapes, articles)
    return Distribution(tf.distribute.get_strategy(), fixed_shapes, articles)


def tpu_address(tpu: str | None) -> str | None:
    """The TPU named here or by TPU_NAME, else the one of this machine; None if there is none."""
    there = "local" if tf.config.list_physical_devices("TPU") else None
    return tpu or os.environ.get("TPU_NAME") or there


def worker_index(config: str | None) -> int:
    """The number of this process among the workers that TF_CONFIG lists; the chief comes first."""
    if not config:
        raise InputError(f"--strategy multiworker needs TF_CONFIG, which is not set; {_REMEDY}")
    try:
        value = json.loads(config)
        cluster, task = value["cluster"], value["task"]
        kind, index = task["type"], int(task["index"])
        workers = {name: len(list(cluster.get(name, []))) for name in ("chief", "worker")}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"TF_CONFIG cannot be read ({type(error).__name__}: {error}); got {config!r}; {_REMEDY}"
        ) from None
    if kind not in workers or not 0 <= index < workers[kind]:
        raise InputError(
            f"TF_CONFIG calls this process {kind} {index}, but its cluster has {workers['chief']} chief and "
            f"{workers['worker']} worker; {_REMEDY}"
        )
    return index if kind == "chief" else workers["chief"] + index


def _tpu_strategy(tpu: str | None) -> Any:
    address = tpu_address(tpu)
    remedy = "give the TPU's name or grpc:// address as --tpu or TPU_NAME, or choose another --strategy"
    if address is None:
        raise InputError(f"this machine has no TPU and none is named; {remedy}")
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=address)
        master = resolver.master()
        if master.startswith("grpc://"):
            # Fails at once if nothing listens there; TensorFlow itself would wait forever.
            host, _, port = master.removeprefix("grpc://").rpartition(":")
            socket.create_connection((host, int(port)), timeout=10).close()
        tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
    except (ValueError, RuntimeError, OSError, ImportError, tf.errors.OpError) as error:
        said = (str(error) or type(error).__name__).splitlines()[0][:120]
        raise InputError(f"the TPU {address!r} cannot be used ({said}); {remedy}") from None
    return tf.distribute.TPUStrategy(resolver)

"""The flags of TensorFlow Serving, each with its reason: for `genre serve` and for containers."""

from dataclasses import dataclass

from genre_tf.serving.operations.configuration import MONITORING_NAME
from genre_tf.serving.operations.deployment import DeploymentOptions
from genre_tf.serving.operations.model_folders import CONFIG_NAME
from genre_tf.serving.operations.models_config import CONTAINER_FOLDER
from genre_tf.serving.operations.parameter_files import BatchingParameters

CONFIG_FOLDER = "/config"
TLS_FILE = "/tls/ssl.config"
CONFIG_POLL_S = 10  # delay of `genre rollback` and `genre label`; short, as a poll reads one small file
_FEWEST_GRPC_THREADS = 256  # bursts that no batching file foresees; a thread that waits costs some kB


@dataclass(frozen=True)
class Argument:
    """One flag.

    Attributes:
        flag: the flag with its value, as on the command line.
        why: the reason, written as a comment beside the flag.
    """

    flag: str
    why: str


@dataclass(frozen=True, kw_only=True)
class Batching:
    """How a server batches requests.

    Attributes:
        file: its batching file.
        parameters: the contents of that file.
    """

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
    """Return the flags for the containers of one servable.

    Args:
        name: name of the servable.
        options: options of the deployment.
        batching: its batching, the file without its folder.
        gpu: whether the servers run on GPUs.
    """
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
    """Threads for gRPC: each holds one request while it runs or waits for its batch.

    Args:
        cpus: cores of the server.
        batching: None: requests are not batched.
    """
    held = 0
    if batching is not None:
        batches = (batching.num_batch_threads or cpus) + batching.max_enqueued_batches
        held = batching.max_batch_size * batches
    return max(_FEWEST_GRPC_THREADS, 4 * cpus, held)

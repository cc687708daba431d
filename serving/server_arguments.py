"""The command line of TensorFlow Serving in a container, each flag with its reason."""

from dataclasses import dataclass

from genre_tf.serving.deployment import DeploymentOptions
from genre_tf.serving.model_folders import CONFIG_NAME
from genre_tf.serving.models_config import CONTAINER_FOLDER

CONFIG_FOLDER = "/config"
TLS_FILE = "/tls/ssl.config"
CONFIG_POLL_S = 10  # delay of `genre rollback` and `genre label`; short, as a poll reads one small file


@dataclass(frozen=True)
class Argument:
    """One flag.

    Attributes:
        flag: the flag with its value, as on the command line.
        why: the reason, written as a comment beside the flag.
    """

    flag: str
    why: str


def server_arguments(
    name: str, options: DeploymentOptions, *, batching_file: str, gpu: bool
) -> list[Argument]:
    """Return the flags for the servers of one servable.

    Args:
        name: name of the servable.
        options: options of the deployment.
        batching_file: name of its batching file in the configuration folder.
        gpu: whether the servers run on GPUs.
    """
    cpus = options.cpus
    arguments = [
        Argument("--port=8500", "gRPC port."),
        Argument("--rest_api_port=8501", "Port of REST and of the metrics."),
        Argument(
            f"--model_config_file={CONTAINER_FOLDER}/{name}/{CONFIG_NAME}",
            "In the models volume, so that an edit reaches every server.",
        ),
        Argument(
            f"--model_config_file_poll_wait_seconds={CONFIG_POLL_S}",
            "How often the file is read: the delay of a rollback or a label.",
        ),
        Argument(
            "--allow_version_labels_for_unavailable_models=true",
            "When the server starts, a label may be set before its version is loaded.",
        ),
        Argument("--enable_batching=true", "Requests of several users run in one batch."),
        Argument(
            f"--batching_parameters_file={CONFIG_FOLDER}/{batching_file}",
            "Batching parameters, with a reason for each.",
        ),
        Argument(f"--monitoring_config_file={CONFIG_FOLDER}/monitoring.config", "Metrics for Prometheus."),
        Argument("--enable_grpc_healthcheck_service=true", "For probes and load balancers."),
        Argument(
            f"--tensorflow_intra_op_parallelism={cpus}",
            "By default the server counts the cores of the machine, not of the container.",
        ),
        Argument(f"--tensorflow_inter_op_parallelism={cpus}", "For the same reason."),
        Argument(f"--rest_api_num_threads={4 * cpus}", "For the same reason; four per core is the default."),
        Argument(
            "--num_load_threads=1",
            "By default versions load in the manager's own loop, which may delay requests.",
        ),
        Argument("--num_unload_threads=1", "For the same reason."),
        Argument(
            "--max_num_load_retries=1", "Report a broken version soon; the version before it stays loaded."
        ),
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

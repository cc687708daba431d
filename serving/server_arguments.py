"""The command line of TensorFlow Serving in a container, each flag with its reason."""

from dataclasses import dataclass

from genre_tf.serving.deployment import DeploymentOptions
from genre_tf.serving.model_folders import CONFIG_NAME
from genre_tf.serving.models_config import CONTAINER_FOLDER

CONFIG_FOLDER = "/config"
TLS_FILE = "/tls/ssl.config"
CONFIG_POLL_S = 10  # `genre rollback` and `genre label` take effect this soon; a poll reads one small file


@dataclass(frozen=True)
class Argument:
    """One flag.

    Attributes:
        flag: as the server takes it.
        why: for whoever reads the file.
    """

    flag: str
    why: str


def server_arguments(
    name: str, options: DeploymentOptions, *, batching_file: str, gpu: bool
) -> list[Argument]:
    """Flags for the servers of one servable.

    Args:
        name: of the servable.
        options: of the deployment.
        batching_file: name of its batching file in the folder of configuration.
        gpu: whether a GPU computes.
    """
    cpus = options.cpus
    arguments = [
        Argument("--port=8500", "gRPC."),
        Argument("--rest_api_port=8501", "REST, and the metrics."),
        Argument(
            f"--model_config_file={CONTAINER_FOLDER}/{name}/{CONFIG_NAME}",
            "In the volume of the models: an edit there reaches every server.",
        ),
        Argument(
            f"--model_config_file_poll_wait_seconds={CONFIG_POLL_S}",
            "How soon a rollback or a label is followed.",
        ),
        Argument(
            "--allow_version_labels_for_unavailable_models=true",
            "A label may be there when the server starts, before its version has loaded.",
        ),
        Argument("--enable_batching=true", "Requests of several users share a run of the graph."),
        Argument(
            f"--batching_parameters_file={CONFIG_FOLDER}/{batching_file}", "Its numbers and their reasons."
        ),
        Argument(f"--monitoring_config_file={CONFIG_FOLDER}/monitoring.config", "Metrics for Prometheus."),
        Argument("--enable_grpc_healthcheck_service=true", "For probes and balancers."),
        Argument(
            f"--tensorflow_intra_op_parallelism={cpus}",
            "The server counts the cores of the machine, not those that the container may use.",
        ),
        Argument(f"--tensorflow_inter_op_parallelism={cpus}", "Likewise."),
        Argument(f"--rest_api_num_threads={4 * cpus}", "Likewise: four for each core is its own default."),
        Argument(
            "--num_load_threads=1",
            "By default versions load in the manager's own loop, which may delay requests.",
        ),
        Argument("--num_unload_threads=1", "Likewise."),
        Argument("--max_num_load_retries=1", "A broken version is told soon; the one before it stays."),
    ]
    if options.bfloat16 and not gpu:
        arguments.append(
            Argument(
                "--mixed_precision=bfloat16",
                "Products in 16 bits where the processor has them; compare answers before you rely on it.",
            )
        )
    if options.tls:
        arguments.append(Argument(f"--ssl_config_file={TLS_FILE}", "gRPC by TLS; REST stays as it is."))
    return arguments

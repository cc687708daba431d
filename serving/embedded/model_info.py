"""What a server reports about its models: version states and signatures."""

from collections.abc import Sequence
from typing import Any

from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2

from genre_tf.serving.embedded.model_manager import ModelManager, ModelSpec
from genre_tf.serving.embedded.statuses import invalid_argument

SIGNATURES = "signature_def"


def read_spec(request: Any) -> ModelSpec:
    """The ModelSpec of any gRPC request that has one.

    Raises:
        ServingError: the request has no ModelSpec.
    """
    if not request.HasField("model_spec"):
        raise invalid_argument("Missing ModelSpec")
    spec = request.model_spec
    chosen = spec.WhichOneof("version_choice")
    return ModelSpec(
        spec.name,
        version=spec.version.value if chosen == "version" else None,
        label=spec.version_label if chosen == "version_label" else None,
    )


def model_status(manager: ModelManager, spec: ModelSpec) -> Any:
    """The GetModelStatusResponse for `spec`.

    Raises:
        ServingError: no such model or version.
    """
    response = get_model_status_pb2.GetModelStatusResponse()
    for state in manager.states(spec):
        entry = response.model_version_status.add(version=state.version, state=state.state)
        entry.status.SetInParent()
        entry.status.error_code = state.error_code
        entry.status.error_message = state.error_message
    return response


def model_metadata(manager: ModelManager, spec: ModelSpec, fields: Sequence[str]) -> Any:
    """The GetModelMetadataResponse for `spec`.

    Raises:
        ServingError: no such model or version, or a field that TensorFlow Serving does not know.
    """
    if not fields:
        raise invalid_argument("GetModelMetadataRequest must specify at least one metadata_field")
    for field in fields:
        if field != SIGNATURES:
            raise invalid_argument(f"Metadata field {field} is not supported")
    response = get_model_metadata_pb2.GetModelMetadataResponse()
    with manager.use(spec) as servable:
        response.model_spec.name = servable.name
        response.model_spec.version.value = servable.version
        response.metadata[SIGNATURES].Pack(signature_map(servable.signatures))
    return response


def signature_map(signatures: dict[str, Any]) -> Any:
    """The SignatureDefMap of a servable."""
    found = get_model_metadata_pb2.SignatureDefMap()
    for name, signature in signatures.items():
        found.signature_def[name].CopyFrom(signature)
    return found

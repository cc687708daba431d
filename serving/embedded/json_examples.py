"""The tf.Examples of a REST Regress or Classify request.

Follows json_tensor.cc of TensorFlow Serving, its error texts included.
"""

from typing import Any

from genre_tf.serving.embedded.json_tensors import decode_base64, is_base64, json_type, to_bytes
from genre_tf.serving.embedded.json_writer import debug_text
from genre_tf.serving.embedded.statuses import invalid_argument


def read_examples(document: dict[str, Any], request: Any) -> None:
    """Fill the signature name and the examples of a request.

    Args:
        document: the JSON object.
        request: RegressionRequest or ClassificationRequest.

    Raises:
        ServingError: the object contains no valid examples.
    """
    request.model_spec.signature_name = _valid(document.get("signature_name", ""))
    given = request.input
    has_context = "context" in document
    if has_context:
        _fill(given.example_list_with_context.context, document["context"])
    if "examples" not in document:
        raise invalid_argument(
            f"JSON Value: {debug_text(document)} When method is classify, key 'examples' is expected and was "
            "not found"
        )
    examples = document["examples"]
    if not isinstance(examples, list):
        raise invalid_argument(
            f"JSON Value: {debug_text(document)} Expecting 'examples' value to be an list/array"
        )
    if not examples:
        raise invalid_argument(f"JSON Value: {debug_text(document)} 'examples' value is an empty array")
    listed = given.example_list_with_context if has_context else given.example_list
    for example in examples:
        _fill(listed.examples.add(), example)


def _fill(example: Any, content: Any) -> None:
    if not isinstance(content, dict):
        raise invalid_argument(f"Example must be JSON object but got JSON {json_type(content)}")
    for name, values in content.items():
        feature = example.features.feature[_valid(name)]
        for value in values if isinstance(values, list) else [values]:
            _add(feature, name, value)


def _valid(text: str) -> str:
    """Text that a proto accepts: bytes that are not UTF-8 become replacement characters."""
    return to_bytes(text).decode("utf-8", "replace")


def _add(feature: Any, name: str, value: Any) -> None:
    if value is None or isinstance(value, list) or (isinstance(value, dict) and not is_base64(value)):
        raise invalid_argument(f"Feature: {name} has element with unexpected JSON type: {json_type(value)}")
    if isinstance(value, float):
        kind = "float"
    elif isinstance(value, int):
        kind = "int64"
    else:
        kind = "bytes"
    held = feature.WhichOneof("kind")
    if held not in (None, f"{kind}_list"):
        expected = held.removesuffix("_list")
        raise invalid_argument(f"Unexpected element type in feature: {name} expecting type: {expected}")
    if kind == "int64" and not -(2**63) <= value < 2**63:
        raise invalid_argument(f"Feature: {name} has uint64_t element. Only int64_t is supported.")
    if kind == "bytes":
        feature.bytes_list.value.append(to_bytes(value) if isinstance(value, str) else decode_base64(value))
    elif kind == "float":
        feature.float_list.value.append(value)
    else:
        feature.int64_list.value.append(int(value))

"""TensorFlow Serving's REST API: method, path and body in; status, content type and body out.

Follows http_rest_api_handler.cc and http_rest_api_util.cc of TensorFlow Serving.
"""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import grpc
import numpy as np
from google.protobuf import json_format
from tensorflow_serving.apis import classification_pb2, get_model_metadata_pb2, regression_pb2

from genre_tf.contract import DEFAULT_SIGNATURE
from genre_tf.serving.inference import classify, regress
from genre_tf.serving.json_examples import read_examples
from genre_tf.serving.json_tensors import parse_request, read_tensors
from genre_tf.serving.json_writer import (
    column_body,
    error_body,
    float_texts,
    results_body,
    row_body,
    string_text,
)
from genre_tf.serving.metrics import ServerMetrics
from genre_tf.serving.model_info import SIGNATURES, model_metadata, model_status
from genre_tf.serving.model_manager import ModelManager, ModelSpec
from genre_tf.serving.prediction import check_names, predict
from genre_tf.serving.servable import Servable
from genre_tf.serving.statuses import ServingError, invalid_argument

_VERSION = r"(?:/versions/(?P<version>[0-9]+)|/labels/(?P<label>[^/:]+))?"
_POST = re.compile(rf"(?i)/v1/models/(?P<model>[^/:]+){_VERSION}:(?P<verb>classify|regress|predict)")
_GET = re.compile(rf"(?i)/v1/models(?:/(?P<model>[^/:]+))?{_VERSION}(?:/(?P<verb>metadata))?")
_JSON = "application/json"
_NOT_FOUND_PAGE = (
    b"<HTML><HEAD>\n<TITLE>404 Not Found</TITLE>\n</HEAD><BODY>\n<H1>Not Found</H1>\n</BODY></HTML>\n"
)


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer."""

    status: int
    content_type: str
    body: bytes


class RestApi:
    """Answers REST requests from a ModelManager.

    Args:
        manager: the models to answer from.
        metrics: counts requests.
        metrics_path: path of the metrics page for Prometheus; None: no such page.
    """

    def __init__(
        self, manager: ModelManager, metrics: ServerMetrics | None = None, metrics_path: str | None = None
    ) -> None:
        self._manager = manager
        self._metrics = metrics or ServerMetrics()
        self._metrics_path = metrics_path
        self._verbs: dict[str, Callable[[ModelSpec, bytes], bytes]] = {
            "predict": self._predict,
            "regress": self._regress,
            "classify": self._classify,
            "metadata": self._metadata,
            "status": self._status,
        }

    def answer(self, method: str, path: str, body: bytes, origin: str = "") -> Answer:
        """Answer one request; a ServingError becomes an answer with its status and text.

        Args:
            method: HTTP method, upper case.
            path: path of the request, with its query.
            body: body of the request.
            origin: the Origin header, which browsers send with OPTIONS.
        """
        if not path.lower().startswith("/v1/"):
            if self._metrics_path is not None and path.partition("?")[0] == self._metrics_path:
                return Answer(200, "text/plain", self._metrics.page())
            return Answer(404, "text/html", _NOT_FOUND_PAGE)
        if method == "OPTIONS":
            allowed = re.search("https?://", origin)
            self._metrics.requests.add("", "OK" if allowed else "FAILED_PRECONDITION")
            return Answer(200 if allowed else 400, "text/html; charset=ISO-8859-1", b"")
        started = time.perf_counter()
        pattern = {"POST": _POST, "GET": _GET}.get(method)
        match = pattern.fullmatch(path) if pattern else None
        model = unquote(match["model"] or "") if match else ""
        try:
            answer = Answer(200, _JSON, self._dispatch(method, path, match, body))
        except ServingError as error:
            self._metrics.requests.add(model, error.code.name)
            return Answer(error.http_status, _JSON, error_body(error.message))
        verb = ((match and match["verb"]) or "") if method == "POST" else ""
        elapsed_us = (time.perf_counter() - started) * 1e6
        self._metrics.request_latency.add(elapsed_us, model, verb, "REST")
        self._metrics.requests.add(model, "OK")
        return answer

    def _dispatch(self, method: str, path: str, match: re.Match[str] | None, body: bytes) -> bytes:
        if match is None:
            raise invalid_argument(f"Malformed request: {method} {path}")
        version, label = match["version"], match["label"]
        if version is not None and int(version[:20]) >= 2**63:
            raise invalid_argument(f"Failed to convert version: {version} to numeric.")
        spec = ModelSpec(
            unquote(match["model"] or ""),
            version=None if version is None else int(version),
            label=None if label is None else unquote(label),
        )
        if method == "GET" and not spec.name:
            raise invalid_argument("Missing model name in request.")
        return self._verbs[(match["verb"] or "status").lower()](spec, body)

    def _predict(self, spec: ModelSpec, body: bytes) -> bytes:
        document = parse_request(body)
        with self._manager.use(spec) as servable:
            outputs, in_rows = _run_document(servable, document)
        if not outputs:
            raise invalid_argument("Cannot convert empty tensor map to JSON")
        return row_body(outputs) if in_rows else column_body(outputs)

    def _regress(self, spec: ModelSpec, body: bytes) -> bytes:
        request = regression_pb2.RegressionRequest()
        read_examples(parse_request(body), _with_spec(request, spec))
        with self._manager.use(spec) as servable:
            values = [entry.value for entry in regress(servable, request).result.regressions]
        return results_body(float_texts(np.array(values, np.float32)))

    def _classify(self, spec: ModelSpec, body: bytes) -> bytes:
        request = classification_pb2.ClassificationRequest()
        read_examples(parse_request(body), _with_spec(request, spec))
        with self._manager.use(spec) as servable:
            rows = classify(servable, request).result.classifications
        entries = []
        for row in rows:
            scores = float_texts(np.array([entry.score for entry in row.classes], np.float32))
            labels = [string_text(entry.label.encode()) for entry in row.classes]
            pairs = (f"[{label}, {score}]" for label, score in zip(labels, scores, strict=True))
            entries.append("[" + ", ".join(pairs) + "]")
        return results_body(entries)

    def _status(self, spec: ModelSpec, body: bytes) -> bytes:
        return _proto_json(model_status(self._manager, spec)).encode() + b"\n"

    def _metadata(self, spec: ModelSpec, body: bytes) -> bytes:
        response = model_metadata(self._manager, spec, [SIGNATURES])
        found = get_model_metadata_pb2.SignatureDefMap()
        response.metadata[SIGNATURES].Unpack(found)
        signatures = _proto_json(found)
        model_spec = _proto_json(response.model_spec)
        text = f'{{\n"model_spec":{model_spec},\n"metadata": {{"signature_def": {signatures}}}\n}}\n'
        return text.encode()


def _run_document(servable: Servable, document: dict[str, Any]) -> tuple[dict[str, np.ndarray], bool]:
    """Return the outputs, and whether the request is in row form (`instances`)."""
    name = document.get("signature_name") or DEFAULT_SIGNATURE
    signature = servable.signatures.get(name)
    if signature is None:
        raise invalid_argument(f'Serving signature name: "{name}" not found in signature def')
    if not signature.inputs:
        given = document.get("signature_name") or "DEFAULT"
        raise invalid_argument(f"Failed to get input map for signature: {given}")
    arrays, in_rows = read_tensors(document, signature.inputs)
    check_names(signature, arrays)
    return predict(servable, signature, arrays), in_rows


def _with_spec(request: Any, spec: ModelSpec) -> Any:
    request.model_spec.name = spec.name
    if spec.version is not None:
        request.model_spec.version.value = spec.version
    if spec.label is not None:
        request.model_spec.version_label = spec.label
    return request


def _proto_json(message: Any) -> str:
    try:
        return json_format.MessageToJson(
            message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True, indent=1
        )
    except (ValueError, TypeError) as error:  # for example a tensor name that is not UTF-8
        text = f"Failed to convert proto to json. Error: {error}"
        raise ServingError(grpc.StatusCode.INTERNAL, text) from error

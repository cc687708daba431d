"""Errors that are sent as answers: a gRPC code, its HTTP status for REST, and a text in plain words."""

from typing import Any

import grpc

from genre_tf.serving.client.rest import HTTP_STATUS

_BY_NUMBER = {code.value[0]: code for code in grpc.StatusCode}


class ServingError(Exception):
    """An error that is sent as the answer to a request.

    Args:
        code: what gRPC clients see, as TensorFlow Serving chooses it; `http_status` is what REST clients see.
        message: what happened, for people.
    """

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message

    @property
    def http_status(self) -> int:
        """The status of the REST answer."""
        return HTTP_STATUS[self.code]


def invalid_argument(message: str) -> ServingError:
    """Return an INVALID_ARGUMENT error: the request is wrong."""
    return ServingError(grpc.StatusCode.INVALID_ARGUMENT, message)


def not_found(message: str) -> ServingError:
    """Return a NOT_FOUND error: no such model or version."""
    return ServingError(grpc.StatusCode.NOT_FOUND, message)


def from_tensorflow(error: Any) -> ServingError:
    """Convert an error of a graph (`tf.errors.OpError`), with its code and text unchanged."""
    code = _BY_NUMBER.get(error.error_code, grpc.StatusCode.UNKNOWN)
    return ServingError(code, error.message)

"""Errors that are sent as answers: a gRPC code, its HTTP status for REST, and a text in plain words."""

import grpc


class ServingError(Exception):
    """An error that is sent as the answer to a request; `code` is the one that TensorFlow Serving chooses."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code, self.error_code = code, int(code.value[0])  # the second as TensorFlow's errors have it
        self.message = message


def invalid_argument(message: str) -> ServingError:
    """The error of a wrong request."""
    return ServingError(grpc.StatusCode.INVALID_ARGUMENT, message)


def not_found(message: str) -> ServingError:
    """The error of a request for a model or version that is not there."""
    return ServingError(grpc.StatusCode.NOT_FOUND, message)

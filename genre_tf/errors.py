"""The two errors that people meet; the command line prints them without a traceback."""


class InputError(Exception):
    """What the user gave is wrong: says what happened, what was received and what to do. Exit status 2."""


class FailureError(Exception):
    """The input was right and the work still failed, such as a check that did not hold. Exit status 1."""


class StoppedError(Exception):
    """Somebody asked for the end, and it was prepared for.

    Args:
        message: what was saved and how to go on.
        status: exit status, 128 and the signal's number as shells have it.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status

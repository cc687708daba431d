"""The errors that users see; the command line prints them without a traceback."""


class InputError(Exception):
    """Wrong input; the message says what happened, what was received and what to do. Exit status 2."""


class FailureError(Exception):
    """The input was valid but the work failed, for example a check did not pass. Exit status 1."""


class StoppedError(Exception):
    """The command was stopped, by Ctrl-C or a signal; the exit status is 128 plus its number."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status

"""The two errors that people meet; the command line prints them without a traceback."""


class InputError(Exception):
    """What the user gave is wrong: says what happened, what was received and what to do. Exit status 2."""


class FailureError(Exception):
    """The input was right and the work still failed, such as a check that did not hold. Exit status 1."""

"""Keeps TensorFlow's start-up notes off the screen, where they would bury a one-line error."""

import logging
import os
import sys
import tempfile


def load_tensorflow(*, look_for_devices: bool = True) -> None:
    """Import TensorFlow with its start-up notes held back; they are shown if the import fails.

    They come from C++ before any log level is read, so only the file descriptor can hold them.

    Args:
        look_for_devices: False leaves them to be configured; the notes on them then come later.
    """
    if "tensorflow" in sys.modules:
        return
    sys.stderr.flush()
    screen = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            import tensorflow
            import tensorflow_text  # noqa: F401

            logging.getLogger("tensorflow").setLevel(logging.ERROR)  # advice for developers
            if look_for_devices:
                tensorflow.zeros(())  # the first operation does, and says so
        except BaseException:
            held.seek(0)
            os.write(screen, held.read())
            raise
        finally:
            os.dup2(screen, 2)
            os.close(screen)

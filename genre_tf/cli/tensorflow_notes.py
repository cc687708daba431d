"""Keeps TensorFlow's start-up messages off the screen, where they would bury a one-line error."""

import atexit
import gc
import logging
import os
import sys
import tempfile


def load_tensorflow(*, look_for_devices: bool = True) -> None:
    """Import TensorFlow with its start-up messages held back; they are shown if the import fails.

    They come from C++ before any log level is read, so only the file descriptor can hold them.

    Args:
        look_for_devices: False: devices can still be configured; messages about them then come later.
    """
    if "tensorflow" in sys.modules:
        return
    sys.stderr.flush()
    screen = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        gc.disable()  # nothing is garbage while TensorFlow's modules are imported: a fifth faster
        try:
            import tensorflow

            logging.getLogger("tensorflow").setLevel(logging.ERROR)  # advice for developers
            if look_for_devices:
                tensorflow.zeros(())  # the first operation looks for devices, with messages
        except BaseException:
            held.seek(0)
            os.write(screen, held.read())
            raise
        finally:
            gc.enable()
            os.dup2(screen, 2)
            os.close(screen)
    # The collector need not go through TensorFlow's modules: it takes a second to do so at the exit.
    atexit.register(gc.freeze)

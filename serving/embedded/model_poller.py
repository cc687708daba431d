"""Watches a MODELS folder for new versions, removed versions and a changed models.config."""

import logging
import threading
from collections.abc import Callable
from pathlib import Path

from genre_tf.errors import InputError
from genre_tf.serving.embedded.model_manager import ModelManager
from genre_tf.serving.embedded.version_loader import VersionLoader
from genre_tf.serving.operations.model_folders import CONFIG_NAME, scan_models, version_fault

_log = logging.getLogger(__name__)


class ModelPoller:
    """Checks a MODELS folder at intervals, and makes the loader follow its changes.

    Args:
        models: the folder.
        manager: knows what is served now.
        loader: loads and unloads versions.
        say: called once with each reason why the folder cannot be followed.
    """

    def __init__(
        self, models: Path, manager: ModelManager, loader: VersionLoader, say: Callable[[str], None]
    ) -> None:
        self._models = models
        self._manager = manager
        self._loader = loader
        self._say = say
        self._configured = (models / CONFIG_NAME).is_file()
        self._said = ""
        self._told = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, interval_s: float) -> None:
        """Check every `interval_s` seconds from now on, in a separate thread."""
        self._thread = threading.Thread(target=self._run, args=(interval_s,), name="poll", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop checking; wait at most one second for a running load."""
        self._told.set()
        if self._thread is not None:
            self._thread.join(1.0)

    def poll(self) -> None:
        """Check once. If the folder cannot be followed, report why and keep the served versions."""
        try:
            config = (self._models / CONFIG_NAME).is_file()
            if self._configured and not config:
                raise InputError(f"{self._models / CONFIG_NAME} is gone: the served versions are kept")
            folders = scan_models(self._models, self._fault)
            self._configured = config
        except (InputError, OSError) as error:  # OSError: a folder vanished during the check
            if str(error) != self._said:
                self._said = str(error)
                self._say(f"cannot follow the models folder: {error}")
            return
        self._said = ""
        self._loader.follow(folders, only=config)

    def _fault(self, name: str, version: int, folder: Path) -> str | None:
        # A served version is in memory: like TensorFlow Serving, do not check its files again.
        if version in self._manager.versions.get(name, []):
            return None
        return version_fault(folder)

    def _run(self, interval_s: float) -> None:
        while not self._told.wait(interval_s):
            try:
                self.poll()
            except Exception:
                _log.exception("checking %s failed", self._models)

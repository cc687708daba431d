"""Watching a MODELS folder: new versions, versions that are gone, a changed models.config."""

import logging
import threading
from collections.abc import Callable
from pathlib import Path

from genre_tf.errors import InputError
from genre_tf.serving.model_folders import CONFIG_NAME, scan_models, version_fault
from genre_tf.serving.model_manager import ModelManager
from genre_tf.serving.version_loader import VersionLoader

_log = logging.getLogger(__name__)


class ModelPoller:
    """Looks at a MODELS folder again and again, and has the loader follow it.

    Args:
        models: the folder.
        manager: what is served now.
        loader: what changes it.
        say: told, once each, what keeps the folder from being followed.
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
        """Look every `interval_s` seconds from now on, in a thread of its own."""
        self._thread = threading.Thread(target=self._run, args=(interval_s,), name="poll", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Look no more; a load that runs is not waited for beyond a second."""
        self._told.set()
        if self._thread is not None:
            self._thread.join(1.0)

    def poll(self) -> None:
        """Look once. Whatever cannot be followed is said, and what is served stays as it is."""
        try:
            config = (self._models / CONFIG_NAME).is_file()
            if self._configured and not config:
                raise InputError(f"{self._models / CONFIG_NAME} is gone: what is served stays as it is")
            folders = scan_models(self._models, self._fault)
            self._configured = config
        except (InputError, OSError) as error:  # OSError: a folder went while it was looked at
            if str(error) != self._said:
                self._said = str(error)
                self._say(f"not followed: {error}")
            return
        self._said = ""
        self._loader.follow(folders, only=config)

    def _fault(self, name: str, version: int, folder: Path) -> str | None:
        # What is served is in memory: TensorFlow Serving does not look at its files again either.
        if version in self._manager.versions.get(name, []):
            return None
        return version_fault(folder)

    def _run(self, interval_s: float) -> None:
        while not self._told.wait(interval_s):
            try:
                self.poll()
            except Exception:
                _log.exception("looking at %s failed", self._models)

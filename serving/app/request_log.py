"""A sample of the requests to the model server on disk, as files that TensorFlow Serving takes for warmup."""

import contextlib
import os
import queue
import random
import struct
import tempfile
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

from genre_tf.contract import MOST_WARMUP_RECORDS
from genre_tf.errors import InputError
from genre_tf.protobuf import declared
from genre_tf.serving.app.observing import LOGGER

MOST_FILES = 8
"""Older files are deleted, those of earlier runs too."""
FILE_BYTES = 32 << 20
"""A file is closed before it gets larger, or when it has as many records as warmup may have."""
_RECORD_BYTES = 4 << 20  # larger requests are left out
_MOST_WAITING = 64  # further requests are left out until the disk has caught up

# TensorFlow Serving's names and numbers; its own classes import TensorFlow. On the wire a message is bytes.
_PredictionLog = declared(
    {"PredictLog": {"request": (1, "bytes")}, "PredictionLog": {"predict_log": (6, "PredictLog")}}
)["PredictionLog"]


class RequestLog:
    """Writes a share of the requests in the background; a failing disk holds up none.

    The files are `requests-TIME.tfrecord`, readable by their owner alone. Kept are model, signature and
    inputs, not the label of the version that was asked.

    Args:
        folder: of these files alone, and of one app.
        share: of the requests, above 0 and at most 1.

    Raises:
        InputError: the folder cannot be written, the share is wrong, or a package is missing.
    """

    def __init__(self, folder: Path, share: float) -> None:
        try:
            from google_crc32c import value as crc32c
        except ModuleNotFoundError:
            text = "--log-requests: google_crc32c is not installed: pip install 'genre-tf[app]'"
            raise InputError(text) from None
        if not 0 < share <= 1:
            raise InputError(f"--log-share must be above 0 and at most 1; got {share}")
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            text = f"--log-requests: {folder} cannot be written ({error.strerror}): name another folder"
            raise InputError(text) from None
        self._folder, self._share, self._crc32c = folder, share, crc32c
        self._file: BinaryIO | None = None
        self._records, self._failing = 0, False
        self._waiting: queue.Queue[bytes | None] = queue.Queue(_MOST_WAITING)
        self._thread = threading.Thread(target=self._write_all, name="request log", daemon=True)
        self._thread.start()

    def offer(self, request: Any, more: bytes) -> None:
        """Take in a PredictRequest that was answered, with the inputs that were appended to it."""
        if random.random() >= self._share:
            return
        request.model_spec.ClearField("version_label")
        record = _PredictionLog()
        record.predict_log.request = request.SerializeToString() + more
        message = record.SerializeToString()
        if len(message) <= _RECORD_BYTES:
            with contextlib.suppress(queue.Full):
                self._waiting.put_nowait(message)

    def close(self) -> None:
        """Write what waits."""
        self._waiting.put(None)
        self._thread.join()

    def _write_all(self) -> None:
        while (message := self._waiting.get()) is not None:
            try:
                self._append(framed(message, self._crc32c))
                self._failing = False
            except OSError as error:
                if not self._failing:
                    LOGGER.warning("requests are not logged: %s", error)
                self._failing = True
        if self._file is not None:
            self._file.close()

    def _append(self, record: bytes) -> None:
        file = self._file
        full = self._records >= MOST_WARMUP_RECORDS or (
            file is not None and file.tell() + len(record) > FILE_BYTES
        )
        if file is None or full:
            file = self._next_file()
        end = file.tell()
        if file.write(record) < len(record):  # unbuffered: readers see whole records
            file.seek(end)
            file.truncate()
            raise OSError("the disk is full")
        self._records += 1

    def _next_file(self) -> BinaryIO:
        if self._file is not None:
            self._file.close()
            self._file = None
        moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%f")
        path = self._folder / f"requests-{moment}.tfrecord"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        self._file, self._records = os.fdopen(descriptor, "wb", buffering=0), 0
        others = {*self._folder.glob("requests-*.tfrecord")} - {path}
        for old in sorted(others, reverse=True)[MOST_FILES - 1 :]:
            old.unlink(missing_ok=True)
        return self._file


def framed(message: bytes, crc32c: Callable[[bytes], int]) -> bytes:
    """A message as a record of a TFRecord file: length and content, each with its masked checksum.

    Source: TensorFlow, `tensorflow/core/lib/io/record_writer.h`.
    """
    length = struct.pack("<Q", len(message))
    return length + _masked(crc32c(length)) + message + _masked(crc32c(message))


def _masked(checksum: int) -> bytes:
    rotated = (checksum >> 15 | checksum << 17) & 0xFFFFFFFF
    return struct.pack("<I", (rotated + 0xA282EAD8) & 0xFFFFFFFF)

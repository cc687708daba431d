"""Files that pass between this machine and the workers, on any file system that Beam knows."""

import shutil
import tarfile
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from apache_beam.io.filesystem import BeamIOError, CompressionTypes
from apache_beam.io.filesystems import FileSystems

from genre_tf.errors import InputError

_COPIED_BYTES = 1 << 20


class Staging:
    """The place where workers find their input and leave their output.

    Args:
        folder: local folder for the results.
        temp_location: a folder that every worker reaches, such as `gs://bucket/job`. None: workers see this
            machine's files (they run on it, or share a mounted file system), and nothing is copied.

    Raises:
        InputError: Beam has no file system for that address.
    """

    def __init__(self, folder: Path, temp_location: str | None) -> None:
        self._folder = folder.absolute()
        self._remote = temp_location
        self.address = temp_location or str(self._folder / "staging")
        """The folder that workers write into; unfinished files of a failed attempt stay in it."""
        try:
            FileSystems.get_filesystem(self.address)
        except ValueError as error:
            raise InputError(
                f"Beam cannot reach temp_location {temp_location} ({str(error).splitlines()[0]}); "
                "gs:// needs pip install 'apache-beam[gcp]'"
            ) from None

    def share(self, path: Path) -> str:
        """Makes a file readable by workers; returns its address for them."""
        if self._remote is None:
            return str(path.absolute())
        address = FileSystems.join(self.address, path.name)
        _send(path, address)
        return address

    def share_folder(self, folder: Path, members: Sequence[str]) -> str:
        """Makes some files and folders of a folder readable by workers; its address is for `local_folder`."""
        if self._remote is None:
            return str(folder.absolute())
        with tempfile.TemporaryDirectory() as temporary:
            archive = Path(temporary) / f"{folder.name}.tar"
            with tarfile.open(archive, "w") as tar:
                for member in members:
                    tar.add(folder / member, member)
            return self.share(archive)

    def collect(self, name: str) -> Path:
        """Brings a file that a worker wrote into the local folder; returns its path there."""
        path, address = self._folder / name, FileSystems.join(self.address, name)
        if self._remote is None:
            Path(address).rename(path)
        else:
            _fetch(address, path)
        return path

    def close(self) -> None:
        """Removes the workers' folder."""
        if _is_local(self.address):
            shutil.rmtree(self.address, ignore_errors=True)
            return
        with suppress(BeamIOError):
            FileSystems.delete([f"{self.address}/"])  # object stores delete everything below a trailing slash


def open_address(address: str) -> Any:
    """Opens a file of any file system for reading its raw bytes."""
    return FileSystems.open(address, compression_type=CompressionTypes.UNCOMPRESSED)


@contextmanager
def local_copy(address: str) -> Iterator[Path]:
    """The file as a local path: the file itself, or a copy while the block lasts."""
    if _is_local(address):
        yield Path(address)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / Path(address).name
        _fetch(address, path)
        yield path


@contextmanager
def local_folder(address: str) -> Iterator[Path]:
    """The folder that `Staging.share_folder` shared, as a local path while the block lasts."""
    if not address.endswith(".tar"):
        yield Path(address)
        return
    with tempfile.TemporaryDirectory() as folder, local_copy(address) as archive:
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
        yield Path(folder)


def write_whole(folder: str, name: str, write: Callable[[Path], Any]) -> None:
    """Writes a file whole or not at all: runners repeat failed work and may do work twice in parallel.

    `folder` is an address; `write` writes the file to a local path with this name.
    """
    with tempfile.TemporaryDirectory() as local:
        path = Path(local) / name
        write(path)
        part = FileSystems.join(folder, f"{name}.{uuid.uuid4().hex}.part")
        _send(path, part)
    FileSystems.rename([part], [FileSystems.join(folder, name)])


def _is_local(address: str) -> bool:
    return "://" not in address


def _fetch(address: str, path: Path) -> None:
    with open_address(address) as source, path.open("wb") as target:
        shutil.copyfileobj(source, target, _COPIED_BYTES)


def _send(path: Path, address: str) -> None:
    plain = CompressionTypes.UNCOMPRESSED
    with path.open("rb") as source, FileSystems.create(address, compression_type=plain) as target:
        shutil.copyfileobj(source, target, _COPIED_BYTES)

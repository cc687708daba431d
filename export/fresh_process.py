"""A fresh process that runs `replay` to answer the recorded requests of a version."""

import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from genre_tf.contract import ASSETS_FOLDER, COUNTED, WARMUP_FILE
from genre_tf.environment import without_preferences
from genre_tf.export import replay

LONGEST_REPLAY_S = 3600


@contextlib.contextmanager
def fresh_process(known_graph: bool = False, only: Sequence[str] = ()) -> Iterator["FreshProcess"]:
    """Start a process that imports TensorFlow while a version is being written; it ends with the context.

    The arguments are those of `replay.replay`.
    """
    command = [sys.executable, "-I", replay.__file__, *[replay.KNOWN_GRAPH] * known_graph]
    if only:
        command += [replay.ONLY, ",".join(only)]
    pipe = subprocess.PIPE
    with (
        tempfile.TemporaryDirectory() as scratch,
        subprocess.Popen(  # noqa: S603  (our own program)
            command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=without_preferences()
        ) as process,
    ):
        try:
            yield FreshProcess(process, Path(scratch), only)
        finally:
            process.kill()


def refresh_process(news: Path | None) -> contextlib.AbstractContextManager["FreshProcess"]:
    """The process for a refresh: without new articles only the answers that depend on counters change."""
    return fresh_process(known_graph=True, only=() if news else COUNTED)


class FreshProcess:
    """Answers the requests of one version.

    Args:
        process: runs `replay` and has received no input yet.
        scratch: folder for a file of requests.
        only: the signatures whose requests it answers; if empty, all.
    """

    def __init__(self, process: "subprocess.Popen[str]", scratch: Path, only: Sequence[str] = ()) -> None:
        self.only = only
        self._process = process
        self._scratch = scratch
        self._reads: Path | None = None

    def read_graph(self, version: Path) -> None:
        """Make it prepare the signatures of a version of which only the graph is complete; does not wait.

        TensorFlow spends most of the time of a first answer on optimizing the graph.
        """
        self._reads = version
        self._say(version)

    def load(self, version: Path) -> None:
        """Make it load a complete SavedModel and answer the warmup requests; does not wait for it.

        If it answers only some signatures, the warmup requests are skipped: the same graph has answered them
        before.

        Raises:
            InputError: the warmup requests are missing or damaged.
        """
        # Imported here, so that a process can be started before TensorFlow is imported.
        from genre_tf.export.requests import read_warmup, write_exchanges

        requests = self._scratch / "warmup.npz"
        warmup = read_warmup(version / ASSETS_FOLDER / WARMUP_FILE)
        write_exchanges(requests, () if self.only else warmup)
        if self._reads != version:
            self.read_graph(version)
        self._say(requests)

    def ask(self, parity: Path) -> None:
        """Make it answer a file of recorded requests too; does not wait for it."""
        self._say(parity)

    def answers(self) -> tuple[list[dict[str, Any]], list[str]]:
        """Wait for all answers and for the end of the process.

        Returns:
            The result of `replay` for each request, and what is wrong with the process itself, in words.
        """
        said, notes = self._process.communicate(timeout=LONGEST_REPLAY_S)
        if self._process.returncode != 0:
            last = (notes.strip().splitlines() or ["no message"])[-1]
            return [], [f"the model does not load in a session: {last[:300]}"]
        found = json.loads(said)
        if "genre_tf" in found["modules"]:
            return [], ["the fresh process has imported genre_tf, so its answers prove nothing"]
        return found["exchanges"], []

    def _say(self, *names: Path) -> None:
        # If the process has ended, `answers` reports it from the exit status.
        with contextlib.suppress(BrokenPipeError):
            if self._process.stdin is not None:
                self._process.stdin.write("".join(json.dumps(str(name.resolve())) + "\n" for name in names))
                self._process.stdin.flush()

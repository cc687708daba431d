"""Verify a version: run the gate, and answer each recorded request in a fresh process (`replay.py`)."""

import contextlib
import json
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from genre_tf.contract import ASSETS_FOLDER, COUNTED, WARMUP_FILE
from genre_tf.environment import without_preferences
from genre_tf.errors import FailureError, InputError
from genre_tf.export import replay
from genre_tf.export.publishing import versions

LONGEST_REPLAY_S = 3600

# What imports TensorFlow is imported inside functions, so that a process can be started before.


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
    """Answers the requests of one version; none of its methods but `answers` waits.

    The process runs `replay`. If `only` is not empty, it answers only these signatures.
    """

    def __init__(self, process: "subprocess.Popen[str]", scratch: Path, only: Sequence[str] = ()) -> None:
        self.only = only
        self._process = process
        self._scratch = scratch
        self._reads: Path | None = None

    def read_graph(self, version: Path) -> None:
        """Make it prepare the signatures of a version of which only the graph is complete.

        TensorFlow spends most of the time of a first answer on optimizing the graph.
        """
        self._reads = version
        self.ask(version)

    def load(self, version: Path) -> None:
        """Make it load a complete SavedModel and answer the warmup requests.

        If it answers only some signatures, the warmup requests are skipped: the same graph has answered them
        before.
        """
        from genre_tf.export.requests import read_warmup, write_exchanges

        requests = self._scratch / "warmup.npz"
        warmup = read_warmup(version / ASSETS_FOLDER / WARMUP_FILE)
        write_exchanges(requests, () if self.only else warmup)
        if self._reads != version:
            self.read_graph(version)
        self.ask(requests)

    def ask(self, file: Path) -> None:
        """Make it answer a file of recorded requests too."""
        # If the process has ended, `answers` reports it from the exit status.
        with contextlib.suppress(BrokenPipeError):
            if self._process.stdin is not None:
                self._process.stdin.write(json.dumps(str(file.resolve())) + "\n")
                self._process.stdin.flush()

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


@dataclass
class SignatureCheck:
    """Results of the fresh process for one signature."""

    requests: int = 0  # recorded requests with known answers
    warmups: int = 0  # warmup requests
    rows: int = 0  # rows in all these requests
    difference: float = 0.0  # largest absolute difference of a float from the Python model's
    faults: list[str] = field(default_factory=list)  # what was wrong, in words


@dataclass
class Verification:
    """The result of verifying one version of a servable."""

    servable: str
    version: str
    violations: list[str]
    signatures: dict[str, SignatureCheck]
    faults: list[str]

    @property
    def passed(self) -> bool:
        """Whether there are no violations and no faults."""
        return not self.all_faults()

    def all_faults(self) -> list[str]:
        """Everything that is wrong, in words."""
        of_signatures = [
            f"{name}: {fault}" for name, check in self.signatures.items() for fault in check.faults
        ]
        return [*self.violations, *self.faults, *of_signatures]

    def as_json(self) -> dict[str, Any]:
        """The result as JSON values."""
        return {**asdict(self), "passed": self.passed, "tolerance": replay.TOLERANCE}


def find_versions(models: Path) -> list[Path]:
    """The newest version of every servable in MODELS, MODELS/NAME or MODELS/NAME/VERSION."""
    if not models.is_dir():
        raise InputError(f"no folder {models}: give the one that `genre export` wrote")
    if (models / "saved_model.pb").is_file():
        return [models]
    servables = [models, *sorted(entry for entry in models.iterdir() if entry.is_dir())]
    found = [servable / str(versions(servable)[-1]) for servable in servables if versions(servable)]
    if not found and models.name.isdecimal():
        return [models]  # a version without its graph; reading it reports that
    if not found:
        raise InputError(f"no exported version in {models}: give the folder that `genre export` wrote")
    return found


def require_passed(checked: Verification) -> Verification:
    """Return a verification that passed."""
    if not checked.passed:
        faults = checked.all_faults()
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise FailureError(f"{checked.servable} was not published: {faults[0]}{more}")
    return checked


def verify_version(version: Path, name: str | None = None, fresh: FreshProcess | None = None) -> Verification:
    """Check the portability of a version, and its answers in a process without any part of genre_tf.

    A `fresh` process is already loading the version and answering; None: start one.
    """
    from genre_tf.export.contract_file import contract_faults, read_contract, signatures
    from genre_tf.export.gate import missing_assets, portability_violations
    from genre_tf.export.requests import PARITY_FILE, read_exchanges

    parity = version / ASSETS_FOLDER / PARITY_FILE
    contract = read_contract(version)
    violations = [str(violation) for violation in portability_violations(version)]
    read_exchanges(parity)  # reports a damaged file in plain words
    faults = [*missing_assets(version), *contract_faults(version, contract)]
    with contextlib.ExitStack() as stack:
        if fresh is None:
            fresh = stack.enter_context(fresh_process())
            fresh.load(version)
            fresh.ask(parity)
        answers, faults_of_process = fresh.answers()
    checks: dict[str, SignatureCheck] = defaultdict(SignatureCheck)
    for answer in answers:
        check = checks[answer["signature"]]
        check.requests += answer["known"]
        check.warmups += not answer["known"]
        check.rows += answer["rows"]
        check.difference = max(check.difference, answer["difference"])
        check.faults += [f"{answer['case']}: {fault}" for fault in answer["faults"]]
    for signature in sorted(fresh.only or signatures(version)):
        check = checks[signature]
        if answers and not check.requests:
            check.faults.append("no recorded request")
        elif answers and not (check.warmups or fresh.only):
            check.faults.append("no warmup request")
    return Verification(
        str(contract.get("servable")),
        name or version.name,
        violations,
        dict(sorted(checks.items())),
        faults + faults_of_process,
    )

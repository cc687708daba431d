"""Verify a version: run the gate, and answer each recorded request in a fresh process."""

from collections import defaultdict
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from genre_tf.contract import ASSETS_FOLDER
from genre_tf.errors import FailureError, InputError
from genre_tf.export import replay
from genre_tf.export.contract_file import contract_faults, read_contract, signatures
from genre_tf.export.fresh_process import FreshProcess, fresh_process
from genre_tf.export.gate import missing_assets, portability_violations
from genre_tf.export.publishing import versions
from genre_tf.export.requests import PARITY_FILE, read_exchanges


@dataclass
class SignatureCheck:
    """Results of the fresh process for one signature.

    Attributes:
        requests: number of recorded requests with known answers.
        warmups: number of warmup requests.
        rows: number of rows in all these requests.
        difference: largest absolute difference of a float from the Python model's.
        faults: what was wrong, in words.
    """

    requests: int = 0
    warmups: int = 0
    rows: int = 0
    difference: float = 0.0
    faults: list[str] = field(default_factory=list)


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
    """The newest version of every servable.

    Args:
        models: MODELS, or MODELS/NAME, or MODELS/NAME/VERSION.

    Raises:
        InputError: there is no version.
    """
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
    """Return a verification that passed.

    Raises:
        FailureError: it did not pass; the message has the first fault.
    """
    if not checked.passed:
        faults = checked.all_faults()
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise FailureError(f"{checked.servable} was not published: {faults[0]}{more}")
    return checked


def verify_version(version: Path, name: str | None = None, fresh: FreshProcess | None = None) -> Verification:
    """Check the portability of a version, and its answers in a process without any part of genre_tf.

    Args:
        version: folder with `saved_model.pb`.
        name: name of the version in the result; None: the folder's name.
        fresh: a process that is already loading the version and answering; None: start one.

    Raises:
        InputError: the folder is not a complete export.
    """
    extra = version / ASSETS_FOLDER
    contract = read_contract(version)
    violations = [str(violation) for violation in portability_violations(version)]
    read_exchanges(extra / PARITY_FILE)  # reports a damaged file in plain words
    result = Verification(str(contract.get("servable")), name or version.name, violations, {}, [])
    result.faults += [*missing_assets(version), *contract_faults(version, contract)]
    with ExitStack() as stack:
        if fresh is None:
            fresh = stack.enter_context(fresh_process())
            fresh.load(version)
            fresh.ask(extra / PARITY_FILE)
        answers, faults = fresh.answers()
    result.faults += faults
    checks: dict[str, SignatureCheck] = defaultdict(SignatureCheck)
    for answer in answers:
        _count(checks[answer["signature"]], answer)
    for signature in sorted(fresh.only or signatures(version)):
        check = checks[signature]
        if answers and not check.requests:
            check.faults.append("no recorded request")
        elif answers and not (check.warmups or fresh.only):
            check.faults.append("no warmup request")
    result.signatures = dict(sorted(checks.items()))
    return result


def _count(check: SignatureCheck, answer: dict[str, Any]) -> None:
    check.requests += answer["known"]
    check.warmups += not answer["known"]
    check.rows += answer["rows"]
    check.difference = max(check.difference, answer["difference"])
    check.faults += [f"{answer['case']}: {fault}" for fault in answer["faults"]]

"""Is a version what it promises? The gate, and each recorded request answered in a fresh process."""

from collections import defaultdict
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from genre_tf.errors import FailureError, InputError
from genre_tf.export import replay
from genre_tf.export.contract import contract_faults, read_contract, signatures
from genre_tf.export.exchanges import PARITY_FILE, read_exchanges
from genre_tf.export.fresh_process import FreshProcess, fresh_process
from genre_tf.export.gate import missing_assets, portability_violations
from genre_tf.export.publishing import versions


@dataclass
class SignatureCheck:
    """What the fresh process answered for one signature.

    Attributes:
        requests: recorded requests with known answers.
        warmups: warmup requests.
        rows: rows in all of them.
        difference: greatest absolute difference of a float from the Python model's.
        faults: what was wrong, in words.
    """

    requests: int = 0
    warmups: int = 0
    rows: int = 0
    difference: float = 0.0
    faults: list[str] = field(default_factory=list)


@dataclass
class Verification:
    """The verdict on one version of one servable."""

    servable: str
    version: str
    violations: list[str]
    signatures: dict[str, SignatureCheck]
    faults: list[str]

    @property
    def passed(self) -> bool:
        """No violation, no fault."""
        return not self.all_faults()

    def all_faults(self) -> list[str]:
        """Everything that is wrong, in words."""
        of_signatures = [
            f"{name}: {fault}" for name, check in self.signatures.items() for fault in check.faults
        ]
        return [*self.violations, *self.faults, *of_signatures]

    def as_json(self) -> dict[str, Any]:
        """For programs."""
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
        return [models]  # a version without its graph, which whoever reads it will be told
    if not found:
        raise InputError(f"no exported version in {models}: give the folder that `genre export` wrote")
    return found


def require_passed(checked: Verification) -> Verification:
    """A verification that found nothing.

    Raises:
        FailureError: it did; names the first fault.
    """
    if not checked.passed:
        faults = checked.all_faults()
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise FailureError(f"{checked.servable} was not published: {faults[0]}{more}")
    return checked


def verify_version(version: Path, name: str | None = None, fresh: FreshProcess | None = None) -> Verification:
    """Check the portability of a version, and its answers in a process that has no part of genre_tf.

    Args:
        version: folder with `saved_model.pb`.
        name: what to call the version, if not by the folder.
        fresh: a process that was asked to load it and to answer already; None starts one.

    Raises:
        InputError: the folder is no complete export.
    """
    extra = version / "assets.extra"
    contract = read_contract(version)
    violations = [str(violation) for violation in portability_violations(version)]
    read_exchanges(extra / PARITY_FILE)  # a damaged file is told in plain words
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

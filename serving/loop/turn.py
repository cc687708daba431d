"""One turn of the wheel: events > log > check > train > evaluate > canary > compare > promote or roll back.

A turn is a folder with `turn.json`, which tells what is done. Each step may be repeated: it removes what it
left half-made, and makes it anew. So a turn that was killed goes on where it was.
"""

import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from genre_tf.config import read_config
from genre_tf.contract import RECOMMENDER
from genre_tf.data.approved_texts import TEXTS
from genre_tf.data.articles import Article
from genre_tf.errors import InputError
from genre_tf.export.articles_file import read_articles as read_indexed
from genre_tf.export.models_config import configured
from genre_tf.export.publishing import versions
from genre_tf.files import hold, read_json_object, whole_file, whole_folder
from genre_tf.serving.app.rules import STABLE
from genre_tf.serving.app.storage import Store
from genre_tf.serving.loop.comparison import Counts, compare
from genre_tf.serving.loop.desk_log import write_approved
from genre_tf.serving.loop.event_log import (
    count_impressions,
    first_hour,
    hours_with_clicks,
    last_full_hour,
    write_log,
)
from genre_tf.serving.loop.report import write_report
from genre_tf.serving.operations.version_choice import (
    remove_label,
    roll_back,
    served_version,
    set_label,
)

if TYPE_CHECKING:
    from genre_tf.export.exporting import ExportOptions
    from genre_tf.training.progress import FitResult

CANARY = "canary"
"""Label of the version that is tried."""

Outcome = Literal["nothing new", "comparing", "refused", "promoted", "rolled back", "ended by hand"]
Say = Callable[[str], None]
_STATE = "turn.json"


@dataclass(frozen=True, kw_only=True)
class LoopOptions:
    """What a turn works on, and when it decides."""

    run: Path  # the first run; later turns continue from the newest that was promoted
    models: Path
    database: str
    turns: Path  # folder of all turns
    least_impressions: int = 1_000  # new ones with a click: fewer teach a model little
    error_rate: float = 0.05  # of the test: greatest share of equal versions that it calls worse
    compare_impressions: int = 20_000  # of the new version; a difference of a fifth is found long before

    def __post_init__(self) -> None:
        """Raise an `InputError` for values that are out of range."""
        if not 0 < self.error_rate < 1:
            raise InputError(f"--error-rate must be above 0 and below 1; got {self.error_rate}")
        if min(self.least_impressions, self.compare_impressions) < 1:
            raise InputError(
                "--least-impressions and --compare-impressions must be at least 1; got "
                f"{self.least_impressions} and {self.compare_impressions}"
            )


class _EndedError(Exception):
    """A step has decided the turn."""

    def __init__(self, outcome: Outcome, reason: str) -> None:
        super().__init__(reason)
        self.outcome, self.reason = outcome, reason


def take_turn(options: LoopOptions, say: Say, now: Callable[[], float] = time.time) -> dict[str, Any]:
    """Take a turn, or go on with the one that is not finished.

    Returns:
        The report: "turn" (its number; 0 if none was begun), "outcome", "reason", "from_run", "first" and
        "until" (seconds since 1970, UTC), and "steps": the result of each step by name, with "seconds". The
        outcome "nothing new" begins no turn, and "comparing" means: call again later.

    Raises:
        InputError: wrong paths or options, a database that is not the app's, or another turn is being taken.
        FailureError: a step failed; the next call repeats it.
    """
    if not (options.run / "config.toml").is_file():
        raise InputError(f"{options.run} is not a run folder: give one that `genre train` wrote")
    if served_version(options.models, RECOMMENDER) is None:
        raise InputError(f"{options.models} serves no {RECOMMENDER}: export the run first")
    with _lock(options.turns):
        store = Store(options.database, create=False)
        try:
            turn = _open_turn(options, store, now())
            if turn is None:
                few = f"fewer than {options.least_impressions} new impressions with a click"
                reason = f"{few}, or of one hour alone"
                return {"turn": 0, "outcome": "nothing new", "reason": reason, "steps": {}}
            return turn.take(store, say, now)
        finally:
            store.close()


class Turn:
    """A turn and its folder."""

    def __init__(self, options: LoopOptions, folder: Path) -> None:
        self.options, self.folder = options, folder
        self.state = read_json_object(folder / _STATE, "Remove this turn's folder to begin it anew.")
        self.log, self.run = folder / "log", folder / "run"

    def take(self, store: Store, say: Say, now: Callable[[], float]) -> dict[str, Any]:
        """Take the steps that are left."""
        steps: dict[str, Callable[[], dict[str, Any]]] = {
            "collect": lambda: self._collect(store),
            "check": self._check,
            "train": lambda: self._train(say),
            "evaluate": lambda: self._evaluate(say),
            "export": lambda: self._export(say, now),
            "compare": lambda: self._compare(store),
            "decide": self._decide,
        }
        done = self.state["steps"]
        say(f"turn {self.folder.name}: {', '.join(done) or 'nothing'} done")
        try:
            for name, step in steps.items():
                if name in done:
                    continue
                say(f"turn {self.folder.name}: {name}")
                started = time.monotonic()
                found = step()
                self._keep(steps={**done, name: {**found, "seconds": round(time.monotonic() - started, 1)}})
                done = self.state["steps"]
            outcome: Outcome = done["decide"]["outcome"]
            reason = done["compare"]["reason"]
        except _EndedError as ended:
            outcome, reason = ended.outcome, ended.reason
        # The report first: once the outcome is written, no call comes back to this turn.
        write_report({**self.state, "outcome": outcome, "reason": reason}, self.folder)
        self._keep(outcome=outcome, reason=reason)
        return self.state

    def _keep(self, **values: Any) -> None:
        self.state |= values
        write_state(self.folder, self.state)

    def _collect(self, store: Store) -> dict[str, Any]:
        shutil.rmtree(self.log, ignore_errors=True)
        articles = _articles(self.options.models, Path(self.state["from_run"]))
        with whole_folder(self.log) as part:
            found = write_log(store, articles, part, self.state["first"], self.state["until"])
            texts = write_approved(store, articles, part / "train" / TEXTS, self.state["until"])
        return {**asdict(found), "texts": texts}

    def _check(self) -> dict[str, Any]:
        from genre_tf.data.checking import check_data

        found = check_data(self.log)
        result = {"faults": found.fault_count, "warnings": found.warnings}
        if not found.passed:
            raise _EndedError("refused", f"the log has {found.fault_count} faults, such as {found.faults[0]}")
        return result

    def _train(self, say: Say) -> dict[str, Any]:
        from genre_tf.training.run_folder import RejectedError

        try:
            found = continue_run(Path(self.state["from_run"]), self.log, self.run, say)
        except RejectedError as rejected:
            raise _EndedError("refused", str(rejected)) from None
        return {stage: {"metric": one.metric, "best": one.best} for stage, one in found.items()}

    def _evaluate(self, say: Say) -> dict[str, Any]:
        from genre_tf.evaluation.significance import mean_interval, paired_bootstrap

        # The run before has not counted the hours that the new run learned from, but its server has.
        before = _auc(Path(self.state["from_run"]), self.log, counters_from=[self.log / "train"])
        after = _auc(self.run, self.log)
        found = paired_bootstrap(after, before)
        if found is None:
            raise _EndedError("refused", "no impression of the newest hours has clicks to measure on")
        if found.high < 0:
            worse = f"AUC {found.difference:.4f} [{found.low:.4f}, {found.high:.4f}] on the newest hours"
            raise _EndedError("refused", f"the new run is worse than the one before: {worse}")
        say(f"AUC on the newest hours: {found.difference:+.4f} [{found.low:.4f}, {found.high:.4f}]")
        values = asdict(found)
        auc = {"before": mean_interval(before), "after": mean_interval(after)}
        return {"auc_difference": values.pop("difference"), **values, "auc": auc}

    def _export(self, say: Say, now: Callable[[], float]) -> dict[str, Any]:
        """Publish the new version; nobody gets it but the readers of the canary."""
        from genre_tf.export.exporting import export_run

        models, labels = self.options.models, _labels(self.options.models)
        present = labels.get(STABLE) or served_version(models, RECOMMENDER)
        if present is None:
            raise InputError(f"{models} serves no {RECOMMENDER} any more: export the run again")
        if "before" not in self.state:
            self._keep(before=versions(models / RECOMMENDER))
        # With labels, servers load only versions that somebody chose.
        if labels.get(CANARY) is not None:
            remove_label(models, RECOMMENDER, CANARY)
        set_label(models, RECOMMENDER, STABLE, present)
        roll_back(models, RECOMMENDER, present)
        new = self._published()
        if new is None:
            (published, _), *_ = export_run(self.run, models, [], _options_like(models, present), say)
            new = int(published.name)
        set_label(models, RECOMMENDER, CANARY, new, load=True)
        return {"present": present, "new": new, "time": now()}

    def _published(self) -> int | None:
        """The version of this turn's run, if it was published before the turn was killed."""
        from genre_tf.export.contract_file import files_fingerprint, read_contract
        from genre_tf.models.checkpoint import WEIGHTS_FILE

        ours = {
            stage: files_fingerprint(self.run / stage / WEIGHTS_FILE) for stage in ("retrieval", "ranking")
        }
        folder = self.options.models / RECOMMENDER
        for version in (version for version in versions(folder) if version not in self.state["before"]):
            weights = read_contract(folder / str(version)).get("sources", {}).get("weights", {})
            if {stage: weights.get(stage) for stage in ours} == ours:
                return version
        return None

    def _compare(self, store: Store) -> dict[str, Any]:
        exported = self.state["steps"]["export"]
        if _labels(self.options.models).get(CANARY) != exported["new"]:
            reason = f"version {exported['new']} has no longer the label {CANARY}: somebody else has decided"
            raise _EndedError("ended by hand", reason)
        present, new = _counts(store, exported["new"], exported["time"])
        found = compare(
            present,
            new,
            error_rate=self.options.error_rate,
            most_impressions=self.options.compare_impressions,
        )
        rates = (
            f"{found.new.rate:.4f} clicks per impression ({found.new.impressions} impressions of "
            f"{found.new.readers} readers), {found.present.rate:.4f} of the present version"
        )
        known = found.variance if math.isfinite(found.variance) else None  # JSON knows no infinity
        self._keep(comparison={**asdict(found), "variance": known})
        if not found.new.impressions:
            hint = f"run the app with --canary {CANARY}=10%"
            raise _EndedError("comparing", f"no reader was answered by version {exported['new']} yet: {hint}")
        if found.decision == "go on":
            raise _EndedError("comparing", f"no decision yet: {rates}")
        return {"decision": found.decision, "reason": f"{found.decision}: {rates}"}

    def _decide(self) -> dict[str, Any]:
        """Promote the new version or take it back; the decision is written down, so this may be repeated."""
        exported = self.state["steps"]["export"]
        if self.state["steps"]["compare"]["decision"] == "worse":
            self._only(_labels(self.options.models).get(STABLE, exported["present"]))
            return {"outcome": "rolled back"}
        set_label(self.options.models, RECOMMENDER, STABLE, exported["new"], load=True)
        self._only(exported["new"])
        return {"outcome": "promoted"}

    def _only(self, version: int) -> None:
        """Serve one version to all readers; versions with other labels stay loaded."""
        if CANARY in _labels(self.options.models):
            remove_label(self.options.models, RECOMMENDER, CANARY)
        roll_back(self.options.models, RECOMMENDER, version)


def continue_run(start: Path, log: Path, run: Path, say: Say) -> "dict[str, FitResult]":
    """Train a new run on a later log, from the weights of an earlier run.

    Raises:
        RejectedError: the new weights have forgotten too much.
    """
    from genre_tf.training.run_folder import train

    config = read_config(start / "config.toml")
    config = replace(config, continual=replace(config.continual, from_run=str(start.resolve())))
    return train(("retrieval", "ranking"), log, run, config, say)


def write_state(folder: Path, state: Mapping[str, Any]) -> None:
    """Write `turn.json`, whole or not at all."""
    with whole_file(folder / _STATE) as part:
        part.write_text(json.dumps(state, indent=2) + "\n", "utf-8")


def finished_turns(turns: Path) -> list[dict[str, Any]]:
    """The states of all turns, oldest first."""
    return [read_json_object(folder / _STATE) for folder in _folders(turns)]


def _open_turn(options: LoopOptions, store: Store, now: float) -> Turn | None:
    """The turn that is not finished, else a new one; None if there is too little that is new."""
    folders = _folders(options.turns)
    earlier = finished_turns(options.turns)
    if earlier and earlier[-1]["outcome"] in (None, "comparing"):
        return Turn(options, folders[-1])
    first, until = first_hour(store), last_full_hour(now)
    if first is None:
        return None
    run, known = options.run, first
    for state in earlier:
        known = max(known, state["until"])
        if state["outcome"] == "promoted":
            # The newest hours of its log were not trained on, only measured.
            run, first = options.turns / state["name"] / "run", state["steps"]["collect"]["newest_from"]
    if known >= until or count_impressions(store, known, until) < options.least_impressions:
        return None
    if len(hours_with_clicks(store, first, until)) < 2:  # one to learn from, one to measure
        return None
    number = int(folders[-1].name) + 1 if folders else 1
    folder = options.turns / f"{number:04}"
    folder.mkdir()
    state = {"turn": number, "name": folder.name, "outcome": None, "reason": "", "from_run": str(run)}
    write_state(folder, {**state, "first": first, "until": until, "steps": {}})
    return Turn(options, folder)


def _folders(turns: Path) -> list[Path]:
    """Folders of turns, oldest first; one that was killed before its state was written is none."""
    return sorted(
        folder for folder in turns.iterdir() if folder.name.isdecimal() and (folder / _STATE).is_file()
    )


@contextmanager
def _lock(turns: Path) -> Iterator[None]:
    turns.mkdir(parents=True, exist_ok=True)
    file = turns / ".lock"
    lock = hold(file, create=True, wait=False)
    if lock is None:
        holder = file.read_text("ascii", "replace").strip()[:20] if file.exists() else ""
        raise InputError(f"process {holder or '(unknown)'} is taking a turn in {turns}: wait for it")
    try:
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode("ascii"), 0)
        yield
    finally:
        os.close(lock)


def _labels(models: Path) -> dict[str, int]:
    return dict(configured(models)[RECOMMENDER].version_labels)


def _options_like(models: Path, present: int) -> "ExportOptions":
    """Export as the present version was: with its rules, sizes and index; its age limit is learned again."""
    from genre_tf.export.contract_file import read_contract
    from genre_tf.export.exporting import ExportOptions
    from genre_tf.export.refreshing import rules_of
    from genre_tf.export.server_config import warmup_sizes
    from genre_tf.funnel.search import options_of

    contract = read_contract(models / RECOMMENDER / str(present))
    sizes = contract["sizes"]
    return ExportOptions(
        k=sizes["k"],
        retrieve=sizes["retrieve"],
        batch_sizes=tuple(warmup_sizes(models) or contract["batch_sizes"]),
        rules=rules_of(sizes),
        learn_age_limit="max_age_hours" in sizes,
        partitioned=options_of(sizes),
        generator=False,
    )


def _articles(models: Path, run: Path) -> dict[str, Article]:
    """All articles, as the newest version has them: with its titles, and withdrawn where it withdrew them.

    Those of the run have more fields. Older versions may have articles that readers still have in histories.
    """
    from genre_tf.data.prepared import read_articles

    found = {one.news_id: one for one in read_articles(run / "prepared").articles[1:]}
    seen: set[str] = set()
    folder = models / RECOMMENDER
    for version in reversed(versions(folder)):
        try:
            indexed = list(read_indexed(folder / str(version)))
        except InputError:
            continue  # of an earlier release
        for one in indexed:
            if one.news_id in seen:
                continue
            seen.add(one.news_id)
            known = found.get(one.news_id)
            if known is None or " ".join(known.title.split()) != one.title:
                abstract = one.text.removeprefix(one.title).removeprefix(".").strip()
                known = Article(one.news_id, one.category, "", one.title, abstract)
            found[one.news_id] = replace(known, withdrawn=known.withdrawn or one.withdrawn)
    return found


def _auc(run: Path, log: Path, counters_from: Sequence[Path] = ()) -> Any:
    """AUC of each of the newest impressions by the run's last stage, float64 [impressions]."""
    from genre_tf.evaluation.scored_log import read_log
    from genre_tf.evaluation.scoring import chosen_models, load_scorers, open_run
    from genre_tf.metrics.ranking import ranking_metrics

    config = open_run(run)
    name = chosen_models(run, config, [])[-1]
    scored = read_log(run, config, log, "dev", counters_from=counters_from)
    scorer = load_scorers(run, [name], scored.table)[name]
    return ranking_metrics(scorer(scored.examples), scored.clicked())["auc"]


def _counts(store: Store, new: int, since: float) -> tuple[Counts, Counts]:
    """Impressions and clicks of each reader: of all other versions, and of a new one.

    They are counted since the new one first answered: the servers load it some time after the export.
    """
    version = f"{RECOMMENDER}/{new}"
    first = store.read(
        "SELECT min(time) AS time FROM impressions WHERE model_version = :version AND time >= :since",
        version=version,
        since=since,
    )[0].time
    found: tuple[dict[str, tuple[int, int]], dict[str, tuple[int, int]]] = ({}, {})
    if first is None:
        return found
    named = {"since": first, "others": f"{RECOMMENDER}/%"}
    views = store.read(
        "SELECT reader, model_version, count(*) AS views FROM impressions "
        "WHERE model_version LIKE :others AND time >= :since GROUP BY reader, model_version",
        **named,
    )
    clicks = store.read(
        "SELECT reader, model_version, count(*) AS clicks FROM (SELECT DISTINCT events.reader, "
        "events.impression, events.article, impressions.model_version FROM events JOIN impressions "
        "ON impressions.impression = events.impression AND impressions.reader = events.reader "
        "WHERE events.kind = 'click' AND impressions.time >= :since "
        "AND impressions.model_version LIKE :others) AS clicked GROUP BY reader, model_version",
        **named,
    )
    of_reader = {(row.reader, row.model_version): row.clicks for row in clicks}
    for row in views:
        counts = found[row.model_version == version]
        seen, clicked = counts.get(row.reader, (0, 0))
        more = of_reader.get((row.reader, row.model_version), 0)
        counts[row.reader] = (seen + row.views, clicked + more)
    return found

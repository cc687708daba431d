"""`genre bench loop`: what live counters and daily training are worth to readers.

A synthetic newsroom goes on for some days. Four newsrooms that differ in one thing serve the same visits: a
frozen model with the counters of its export; live counters; daily training; both. An oracle knows each click
probability, so the regret of a feed is known without noise: the expected clicks of the best feed that the
reader could have got, minus those of the feed that was shown. The models, the index, the app's database and
live counters, the log and the training are the real ones, in this process.
"""

import math
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from genre_tf.benchmarks.loop_arms import Arm, Lost, Version
from genre_tf.benchmarks.loop_world import World, WorldSizes
from genre_tf.benchmarks.measuring import BenchOptions, Row
from genre_tf.config import NewsConfig, OptimizerConfig, RankingConfig, RetrievalConfig, RunConfig
from genre_tf.data.articles import ArticleTable
from genre_tf.errors import InputError
from genre_tf.training.run_folder import train

UNIT = "clicks lost per visit"
FROZEN, LIVE, DAILY = "frozen", "live counters", "daily training"
BOTH = f"{LIVE}, {DAILY}"
ARMS = (FROZEN, LIVE, DAILY, BOTH)

_FIRST_SEED = 7
# Quantiles of Student's distribution, of 97.5 %, by the number of seeds; for more that of the normal one.
_STUDENT = {2: 12.71, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}
_NORMAL = 1.96


@dataclass(frozen=True, kw_only=True)
class _Sizes:
    world: WorldSizes
    steps: int = 0  # of each training; 0: as usual


# A newsroom of the usual size; some 100 readers see each article. Each arm trains three times.
_FULL = _Sizes(
    world=WorldSizes(readers=600, logged_days=3, logged_impressions=800, days=4, visits=1_500, articles=143)
)
_QUICK = _Sizes(
    world=WorldSizes(readers=20, logged_days=2, logged_impressions=60, days=2, visits=60, articles=12),
    steps=2,
)


def bench(options: BenchOptions) -> list[Row]:
    """Compare the regret of the arms with that of the frozen one, by day and in all, over `rounds` seeds."""
    if options.data is not None:
        raise InputError("genre bench loop has its own newsroom, whose truth is known: leave --data out")
    sizes = _QUICK if options.quick else _FULL
    found = [_simulate(sizes, _FIRST_SEED + number, options) for number in range(options.rounds)]
    return _rows(found, sizes.world.days)


Found = dict[str, list[Lost]]
"""Arm -> what each day lost."""


def _simulate(sizes: _Sizes, seed: int, options: BenchOptions) -> Found:
    """Let the arms live through the days of one newsroom."""
    with tempfile.TemporaryDirectory(prefix="genre-bench-") as scratch:
        folder, world = Path(scratch), World(sizes.world, seed)
        world.write_first_log(folder / "data")
        table, states, run = ArticleTable(world.articles), folder / "states", folder / "run"
        options.say(f"seed {seed}: training the first run")
        train(
            ("retrieval", "ranking"),
            folder / "data",
            run,
            _config(options.news_backbone, seed, sizes.steps),
            lambda line: None,
        )
        first = Version.of(run, table, states)
        arms = [
            Arm(name, name in (LIVE, BOTH), world, first, folder / name.replace(", ", " and "))
            for name in ARMS
        ]
        found: Found = {name: [] for name in ARMS}
        try:
            for day in range(sizes.world.days):
                parts: dict[str, list[Lost]] = {name: [] for name in ARMS}
                for visits in world.visits(day):
                    for arm in arms:
                        parts[arm.name].append(arm.serve(visits))
                for arm in arms:
                    found[arm.name].append(Lost.together(parts[arm.name]))
                    options.say(f"seed {seed}, day {day + 1}, {arm.name}: {_said(found[arm.name][-1])}")
                for arm in arms if day + 1 < sizes.world.days else ():
                    learned = arm.learn(day, options.say) if arm.name in (DAILY, BOTH) else None
                    if learned is not None:
                        arm.use(Version.of(learned, table, states))
        finally:
            for arm in arms:
                arm.close()
    return found


def _config(news_backbone: str, seed: int, steps: int) -> RunConfig:
    """The defaults, with towers that are trained as long as in the demo: more gains little."""
    towers, ranker = OptimizerConfig(steps=40, validate_every=20), RankingConfig()
    if steps:
        towers = OptimizerConfig(steps=steps, validate_every=steps, batch_size=16)
        ranker = RankingConfig(optimizer=towers)
    return RunConfig(
        seed=seed,
        news=NewsConfig(backbone=news_backbone),
        retrieval=RetrievalConfig(optimizer=towers),
        ranking=ranker,
    )


def regret(lost: Sequence[Lost]) -> float:
    """The mean over the visits of some days."""
    all_days = Lost.together(list(lost))
    return float((all_days.best - all_days.shown).mean())


def _said(lost: Lost) -> str:
    shown, best = float(lost.shown.mean()), float(lost.best.mean())
    return f"{shown:.3f} of {best:.3f} clicks a visit, regret {best - shown:.3f}; {_where(lost)}"


def _where(lost: Lost) -> str:
    """Where the regret is: what taste alone would reach, and how much of what is missed is new."""
    by_taste = float((lost.best - lost.by_taste).mean())
    new = float(lost.missed_new.sum() / lost.missed.sum()) if lost.missed.any() else 0.0
    return f"by true taste alone {by_taste:.3f}; {new:.0%} of the missed clicks are on new articles"


def _rows(found: Sequence[Found], days: int) -> list[Row]:
    rows = []
    for arm in ARMS[1:]:
        spans = [(f"day {day + 1}", slice(day, day + 1)) for day in range(days)] + [("all days", slice(None))]
        for span, part in spans:
            ours, peers = ([regret(one[name][part]) for one in found] for name in (arm, FROZEN))
            means = statistics.mean(ours), statistics.mean(peers)
            notes = [f"95 %:{_plus_minus(ours)}, peer{_plus_minus(peers)}"] if len(found) > 1 else []
            if span == "all days":
                shares = [mine / theirs for mine, theirs in zip(ours, peers, strict=True)]
                notes += [f"regret / peer's: {statistics.mean(shares):.3f}{_plus_minus(shares)}"]
                notes += [_where(Lost.together([day for one in found for day in one[arm]]))]
            case = f"{arm}, {span}"
            rows.append(Row(case, *means, FROZEN, means[1] / means[0], UNIT, len(found), "; ".join(notes)))
    return rows


def _plus_minus(values: Sequence[float]) -> str:
    """Half of the 95 % interval of a mean, by Student's distribution."""
    if len(values) < 2:
        return ""
    spread = statistics.stdev(values) / math.sqrt(len(values))
    return f" +/- {_STUDENT.get(len(values), _NORMAL) * spread:.3f}"

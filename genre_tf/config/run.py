"""All settings of a run, read from TOML and written to it."""

import dataclasses
import math
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

import tomli_w

from genre_tf.config.optimizer import OPTIMIZER_RANGES, Range, check_ranges
from genre_tf.config.recommending import (
    DATA_RANGES,
    NEWS_RANGES,
    RANKING_RANGES,
    RETRIEVAL_RANGES,
    DataConfig,
    NewsConfig,
    RankingConfig,
    RetrievalConfig,
)
from genre_tf.config.tables import from_table
from genre_tf.config.writing import (
    GENERATION_RANGES,
    PRETRAIN_RANGES,
    GenerationConfig,
    PretrainConfig,
    SafetyConfig,
)
from genre_tf.errors import InputError
from genre_tf.files import whole_file

CONTINUAL_RANGES: tuple[Range, ...] = (("replay_share", 0.0, 0.99), ("margin", 0.0, math.inf))
RANGES = {
    "data": DATA_RANGES,
    "news": NEWS_RANGES,
    "retrieval": RETRIEVAL_RANGES,
    "ranking": RANKING_RANGES,
    "generation": GENERATION_RANGES,
    "pretrain": PRETRAIN_RANGES,
    "continual": CONTINUAL_RANGES,
    "optimizer": OPTIMIZER_RANGES,
}
"""The ranges of the settings of each section; "optimizer" is a part of several."""


@dataclass(frozen=True, kw_only=True)
class ContinualConfig:
    """Training that continues from an earlier run with a new log."""

    from_run: str = ""  # folder of the earlier run; empty: train from the beginning
    # Share of old examples in training. With one half, the share of each past day halves with each new day,
    # since the next run draws from this mixture.
    replay_share: float = 0.5
    margin: float = 0.01  # in AUC or relative perplexity: validations of a few hundred rows vary by as much

    def __post_init__(self) -> None:
        """Refuse a value out of its range with an `InputError`."""
        check_ranges("continual", self, CONTINUAL_RANGES)


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """All settings that a run folder was made with."""

    seed: int = 7
    data: DataConfig = field(default_factory=DataConfig)
    news: NewsConfig = field(default_factory=NewsConfig)
    retrieval: RetrievalConfig = field(default_factory=RetrievalConfig)
    ranking: RankingConfig = field(default_factory=RankingConfig)
    generation: GenerationConfig = field(default_factory=GenerationConfig)
    safety: SafetyConfig = field(default_factory=SafetyConfig)
    continual: ContinualConfig = field(default_factory=ContinualConfig)
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)


def read_config(file: Path) -> RunConfig:
    """Read a `config.toml`; what it leaves out keeps its default.

    Raises:
        InputError: the file is missing or not TOML, or holds an unknown key or an invalid value.
    """
    try:
        table = tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise InputError(f"no configuration at {file}: give an existing TOML file") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"{file} cannot be read as TOML: {error}") from None
    return from_table(RunConfig, table, str(file), RunConfig())


def write_config(config: RunConfig, file: Path) -> None:
    """Write every setting, resolved, as TOML; whole or not at all.

    Raises:
        FailureError: the file cannot be written; an earlier one is kept.
    """
    with whole_file(file) as part:
        part.write_text(tomli_w.dumps(dataclasses.asdict(config)), encoding="utf-8")

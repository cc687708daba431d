"""All settings of a run, from TOML and back."""

import dataclasses
import math
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

import tomli_w

from genre_tf.config.optimizer import check_ranges
from genre_tf.config.recommending import DataConfig, NewsConfig, RankingConfig, RetrievalConfig
from genre_tf.config.tables import from_table
from genre_tf.config.writing import GenerationConfig, PretrainConfig, SafetyConfig
from genre_tf.errors import FailureError, InputError


@dataclass(frozen=True, kw_only=True)
class ContinualConfig:
    """Training that goes on from an earlier run with a new log."""

    from_run: str = ""  # folder of the earlier run; empty: from the beginning
    # Of the training examples. As many old as new: the share of each past day then halves with each new one,
    # since the next run draws from this mixture.
    replay_share: float = 0.5
    margin: float = 0.01  # one point of AUC, or 1 % of perplexity: validations of some hundred rows vary so

    def __post_init__(self) -> None:
        """Refuse a share that is none with an `InputError`."""
        check_ranges("continual", self, (("replay_share", 0.0, 0.99), ("margin", 0.0, math.inf)))


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that a run folder was made with."""

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
        InputError: the file is absent, no TOML, or has a key or a value that no setting takes.
    """
    try:
        table = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"no configuration at {file}: give an existing TOML file") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"{file} cannot be read as TOML: {error}") from None
    return from_table(RunConfig, table, str(file))


def write_config(config: RunConfig, file: Path) -> None:
    """Write every setting, resolved, as TOML; whole or not at all.

    Raises:
        FailureError: the file cannot be written; the one before is left.
    """
    part = file.with_name(f"{file.name}.part")
    try:
        part.write_text(tomli_w.dumps(dataclasses.asdict(config)), encoding="utf-8")
        part.replace(file)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise FailureError(
            f"{file} cannot be written ({error.strerror}): make room, or check the rights of its folder"
        ) from None

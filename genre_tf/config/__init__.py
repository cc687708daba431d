"""The settings of every stage: frozen dataclasses that read and write TOML.

Each default has its reason beside it. A run folder keeps its settings, fully resolved, in `config.toml`.
"""

from genre_tf.config.optimizer import OptimizerConfig, optimizer_of, with_optimizer
from genre_tf.config.recommending import (
    OBJECTIVES,
    DataConfig,
    NewsConfig,
    RankingConfig,
    RetrievalConfig,
    SignalsConfig,
)
from genre_tf.config.run import RANGES, ContinualConfig, RunConfig, read_config, write_config
from genre_tf.config.writing import (
    GenerationConfig,
    PretrainConfig,
    SafetyConfig,
    TaskSharesConfig,
    WritingConfig,
)

__all__ = [
    "OBJECTIVES",
    "RANGES",
    "ContinualConfig",
    "DataConfig",
    "GenerationConfig",
    "NewsConfig",
    "OptimizerConfig",
    "PretrainConfig",
    "RankingConfig",
    "RetrievalConfig",
    "RunConfig",
    "SafetyConfig",
    "SignalsConfig",
    "TaskSharesConfig",
    "WritingConfig",
    "optimizer_of",
    "read_config",
    "with_optimizer",
    "write_config",
]

"""Options of `genre train` and of similar verbs."""

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer


class Stage(str, Enum):  # noqa: UP042  (typer shows the value of a plain string enum)
    """What to train."""

    retrieval = "retrieval"
    ranking = "ranking"
    generation = "generation"
    all = "all"
    safety = "safety"


class Optimizer(str, Enum):  # noqa: UP042
    """Optimizers by name."""

    adamw = "adamw"
    sgd = "sgd"


class Strategy(str, Enum):  # noqa: UP042
    """Where to train."""

    auto = "auto"
    one = "one"
    mirrored = "mirrored"
    multiworker = "multiworker"
    tpu = "tpu"


class Objective(str, Enum):  # noqa: UP042
    """Objectives of the ranker."""

    click = "click"
    softmax = "softmax"
    click_softmax = "click+softmax"


class Precision(str, Enum):  # noqa: UP042
    """Precision of matrix products in training."""

    float32 = "float32"
    mixed_bfloat16 = "mixed_bfloat16"
    mixed_float16 = "mixed_float16"


NewsBackboneOption = Annotated[
    str | None,
    typer.Option(help="BERT of the news tower: hf://ORG/NAME, preset, folder, package:NAME/SUB."),
]
WriterBackboneOption = Annotated[
    str | None,
    typer.Option(help="GPT-2 or Llama of the generator, named likewise; default: a small new GPT-2."),
]
WriterTrainableOption = Annotated[
    str | None, typer.Option(help="Trained part of the generator's backbone: none, 'lora RANK' or all.")
]
PrecisionOption = Annotated[
    Precision | None,
    typer.Option(help="Precision of the trained backbone layers; weights and later layers stay float32."),
]
ContrastOption = Annotated[
    float | None,
    typer.Option(min=0.0, help="Weight of the loss that makes a title more likely for its own reader."),
]
TrainableOption = Annotated[
    str | None,
    typer.Option(
        help="Trained part of the news backbone: none, 'last N' layers or all; or small additions, "
        "'lora RANK', 'adapters WIDTH' or 'prefix VECTORS', also in the last layers only: 'lora 8 last 2'."
    ),
]
ObjectiveOption = Annotated[
    Objective | None,
    typer.Option(
        help="Objective of the ranker: each click independently, a softmax over the shown articles, or both."
    ),
]
TeacherOption = Annotated[
    Path | None,
    typer.Option(help="Run folder whose ranker is a teacher; the new ranker learns from it and from clicks."),
]
StrategyOption = Annotated[
    Strategy,
    typer.Option(
        help="one (device), mirrored (all GPUs), multiworker (TF_CONFIG) or tpu; auto: what is available."
    ),
]
TpuOption = Annotated[
    str | None, typer.Option(help="Name or grpc:// address of the TPU; default: TPU_NAME, or this machine's.")
]
FixedShapesOption = Annotated[
    bool, typer.Option("--fixed-shapes", help="Use fixed (TPU-style) batch shapes and XLA on any device.")
]
BatchArticlesOption = Annotated[
    int | None,
    typer.Option(min=1, help="Articles per batch of fixed shape; oldest clicks beyond are left out."),
]
AccumulateOption = Annotated[int | None, typer.Option(min=1, help="Batches averaged into one step.")]
ExecutionOption = Annotated[
    int | None, typer.Option(min=1, help="Steps per call of the compiled function, for TPU and GPU.")
]
StepsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--steps",
        metavar="[STAGE=]N",
        help="Number of steps, instead of epochs; or by stage: retrieval=200,generation=1000 (repeatable).",
    ),
]
WandbOption = Annotated[
    str | None,
    typer.Option(
        "--wandb",
        metavar="PROJECT",
        help="Also log scalars to this Weights & Biases project; WANDB_MODE=offline keeps them here.",
    ),
]
ProfileOption = Annotated[
    str | None,
    typer.Option(
        "--profile",
        metavar="FIRST-LAST",
        help="Trace these steps of each stage, such as 20-25, for TensorBoard's Profile tab.",
    ),
]
RecallOption = Annotated[
    float | None, typer.Option(help="Safety only: share of unsafe texts to catch (default: 0.9).")
]
FromOption = Annotated[
    Path | None, typer.Option("--from", help="Run to continue from with a later log; it is not changed.")
]
ReplayOption = Annotated[
    float | None,
    typer.Option(
        min=0.0, max=0.99, help="With --from: share of training examples drawn from the earlier run."
    ),
]
MarginOption = Annotated[
    float | None,
    typer.Option(min=0.0, help="With --from: allowed loss on older days, in AUC (0.01) or perplexity (1 %)."),
]

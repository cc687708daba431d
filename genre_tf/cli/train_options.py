"""What `genre train` is asked with, and verbs like it."""

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
    """By name."""

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
    """Of the ranker."""

    click = "click"
    softmax = "softmax"
    click_softmax = "click+softmax"


class Precision(str, Enum):  # noqa: UP042
    """Of matrix products in training."""

    float32 = "float32"
    mixed_bfloat16 = "mixed_bfloat16"
    mixed_float16 = "mixed_float16"


NewsBackboneOption = Annotated[
    str | None,
    typer.Option(help="BERT of the news tower: hf://ORG/NAME, preset, folder, package:NAME/SUB."),
]
WriterBackboneOption = Annotated[
    str | None, typer.Option(help="GPT-2 or Llama of the generator, named likewise; else a small new GPT-2.")
]
WriterTrainableOption = Annotated[
    str | None, typer.Option(help="What of the generator's backbone is trained: none, 'lora RANK' or all.")
]
PrecisionOption = Annotated[
    Precision | None,
    typer.Option(help="Of the trained layers of the backbones; weights and what follows stay float32."),
]
ContrastOption = Annotated[
    float | None,
    typer.Option(min=0.0, help="Weight of the loss by which a title must be likelier before its own reader."),
]
TrainableOption = Annotated[
    str | None,
    typer.Option(
        help="What of the news backbone is trained: none, 'last N' or all; or small additions to it, "
        "'lora RANK', 'adapters WIDTH' or 'prefix VECTORS', these also as 'lora 8 last 2'."
    ),
]
ObjectiveOption = Annotated[
    Objective | None,
    typer.Option(help="Of the ranker: each click by itself, a softmax over what was shown, or both."),
]
TeacherOption = Annotated[
    Path | None, typer.Option(help="Run folder whose ranker the new one learns from, beside the clicks.")
]
StrategyOption = Annotated[
    Strategy, typer.Option(help="One device, all GPUs, machines by TF_CONFIG, a TPU; auto: what is here.")
]
TpuOption = Annotated[
    str | None, typer.Option(help="Name or grpc:// address of the TPU; else TPU_NAME, else this machine's.")
]
FixedShapesOption = Annotated[
    bool, typer.Option("--fixed-shapes", help="Batches as a TPU needs them, compiled by XLA, anywhere.")
]
BatchArticlesOption = Annotated[
    int | None, typer.Option(min=1, help="Articles of such a batch; oldest clicks beyond are left out.")
]
AccumulateOption = Annotated[
    int | None, typer.Option(min=1, help="Batches whose mean gradient makes one step.")
]
ExecutionOption = Annotated[
    int | None, typer.Option(min=1, help="Steps in one call of the compiled function, for TPU and GPU.")
]
WandbOption = Annotated[
    str | None,
    typer.Option(
        "--wandb",
        metavar="PROJECT",
        help="Scalars go to this project of Weights & Biases too; WANDB_MODE=offline keeps them here.",
    ),
]
ProfileOption = Annotated[
    str | None,
    typer.Option(
        "--profile",
        metavar="FIRST-LAST",
        help="Trace these steps of each stage, as 20-25, for TensorBoard's Profile tab.",
    ),
]
RecallOption = Annotated[
    float | None, typer.Option(help="Of safety: share of unsafe texts to be caught (0.9).")
]
FromOption = Annotated[
    Path | None, typer.Option("--from", help="Run to go on from with a later log; it is left as it is.")
]
ReplayOption = Annotated[
    float | None,
    typer.Option(min=0.0, max=0.99, help="With --from: share of its older examples among those learned."),
]
MarginOption = Annotated[
    float | None,
    typer.Option(min=0.0, help="With --from: what AUC may lose on older days (0.01), or perplexity (1 %)."),
]

"""`genre to-transformers`: a fine-tuned model of a run, as a Hugging Face folder."""

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.markup import escape

from genre_tf.cli.console import load_tensorflow, print_json, progress, results

Stage = Literal["retrieval", "ranking", "generation"]


def to_transformers(
    run: Annotated[Path, typer.Argument(help="Run folder that `genre train` wrote.")],
    out: Annotated[Path, typer.Argument(help="Folder to write.")],
    stage: Annotated[Stage, typer.Option(help="Stage whose language model is saved.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT if it exists.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print a summary as JSON.")] = False,
) -> None:
    """Save a fine-tuned BERT, GPT-2 or Llama as a folder that Hugging Face transformers loads.

    Example: genre to-transformers runs/mind my-bert --stage ranking

    LoRA is merged into the kernels, and the folder is read back and compared before it appears. PyTorch's
    AutoModel.from_pretrained(OUT) loads it, and genre accepts it as a backbone.
    """
    load_tensorflow()
    from genre_tf.export.transformers_folder import write_transformers_folder

    with progress.status(escape(f"reading {run}")):
        difference = write_transformers_folder(run, stage, out, overwrite)
    if json:
        print_json({"out": str(out), "stage": stage, "largest_difference": difference})
    else:
        results.print(f"{out}: read back, equal to the run within {difference:.1g}")

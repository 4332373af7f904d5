"""`vit-hybrid train`: from a folder of pictures to a fine-tuned hybrid."""

from __future__ import annotations

import shlex
import sys
from contextlib import closing
from pathlib import Path
from typing import Annotated, Literal

import typer

from ..assets import BUILT_IN_MODEL
from ..outputs.problems import ProblemType
from ..runtimes import FloatingPrecision
from .options import MODELS, AsJson, DryRun, MaxPixels, Overwrite, SplitOptions, Threads
from .output import counts_of
from .session import CLASSIFIER_WARNINGS, expecting
from .streams import is_heard, printable, standard_error, write, write_json


def train(
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA",
            help="A folder of class folders, with train/ and val/ or without; parquet, CSV or JSON Lines; a folder "
            "that datasets wrote, or its hub id.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path, typer.Option(metavar="OUT", help="The folder for the model and its figures.", show_default=False)
    ],
    model: Annotated[
        str | None,
        typer.Option(
            metavar="M",
            help=f"What to start from: {MODELS}; or a preset such as R26+S/32, from random weights.",
            show_default=f"the recipe's, else {BUILT_IN_MODEL}",
        ),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            metavar="R",
            help="A recipe's name or a YAML file.",
            show_default="adamw; with --resume, what the run began with",
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Change any of the recipe's fields; may be repeated."),
    ] = None,
    epochs: Annotated[float | None, typer.Option(help="How often to see every picture.")] = None,
    max_steps: Annotated[int | None, typer.Option(min=1, help="Stop after so many optimizer steps.")] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Pictures of one optimizer step, over all processes.")
    ] = None,
    learning_rate: Annotated[float | None, typer.Option(help="The optimizer's highest learning rate.")] = None,
    image_size: Annotated[int | None, typer.Option(min=1, help="Side of the model's images in pixels.")] = None,
    precision: Annotated[FloatingPrecision | None, typer.Option(help="What to compute in.")] = None,
    workers: Annotated[int | None, typer.Option(min=0, help="Processes that read and crop pictures.")] = None,
    pictures: SplitOptions = SplitOptions(),  # noqa: B008 - it is frozen
    max_pixels: MaxPixels = None,
    problem_type: Annotated[
        ProblemType | None,
        typer.Option(help="What the labels are.", show_default="as the data look"),
    ] = None,
    dry_run: DryRun = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last whole checkpoint in OUT.")] = False,
    overwrite: Overwrite = False,
    device: Annotated[
        Literal["cpu"] | None,
        typer.Option(help="Train on the CPU even where there is an accelerator.", show_default="the accelerator"),
    ] = None,
    threads: Threads = None,
    tensorboard: Annotated[bool | None, typer.Option("--tensorboard", help="Log for TensorBoard too.")] = None,
    push_to_hub: Annotated[bool, typer.Option("--push-to-hub", help="Upload the finished model.")] = False,
    hub_model_id: Annotated[
        str | None, typer.Option(help="Upload to this repository.", show_default="OUT's name")
    ] = None,
    hub_private: Annotated[bool | None, typer.Option("--hub-private", help="Make that repository private.")] = None,
    as_json: AsJson = False,
) -> None:
    """Train a hybrid on labeled pictures, from another one or from random weights.

    OUT then holds the model, its card, metrics.json, training_curve.png, confusion_matrix.png and recipe.yaml. The
    same command works under torchrun and accelerate launch. Ctrl-C saves a checkpoint; --resume goes on.
    """
    from ..train.job import look
    from ..train.job import train as run_training
    from ..train.progress import TrainingProgress
    from ..train.recipe import DEFAULT_RECIPE, load_recipe, parse_settings
    from ..train.resuming import RECIPE_FILE
    from ..train.run import Run

    flags = {
        "model": model,
        "epochs": epochs,
        "max_steps": max_steps,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "image_size": image_size,
        "precision": precision,
        "seed": pictures.seed,
        "workers": workers,
        "val_fraction": pictures.val_fraction,
        "tensorboard": tensorboard,
    }
    given = {name: value for name, value in flags.items() if value is not None}
    if recipe is None:
        begun = output / RECIPE_FILE
        recipe = str(begun) if resume and begun.is_file() else DEFAULT_RECIPE
    with closing(TrainingProgress(standard_error())) as progress, expecting(CLASSIFIER_WARNINGS):
        run = Run(
            data=data,
            output=output,
            recipe=load_recipe(recipe, {**parse_settings(settings or ()), **given}),
            val=pictures.val,
            **pictures.columns,
            problem_type=problem_type,
            max_pixels=max_pixels,
            resume=resume,
            overwrite=overwrite,
            strict=pictures.strict,
            device=device,
            threads=threads,
            push_to_hub=push_to_hub,
            hub_model_id=hub_model_id,
            hub_private=hub_private,
            command=command_line(),
            callbacks=[progress],
            report=progress.say,
        )
        if dry_run:  # which says in words what it finds
            split = look(run)
            if as_json:
                write_json({"data": data, "train": counts_of(split.train), "val": counts_of(split.val)})
            elif not is_heard():  # then nobody has been told
                write("".join(f"{line}\n" for line in split.described()))
            return
        outcome = run_training(run)
    if not outcome.is_first_process:
        return
    if as_json:
        scores = {name: value for name, value in outcome.metrics.items() if name not in ("log", "recipe")}
        write_json({"output": str(outcome.output), **scores})
    else:
        write(
            f"{printable(str(outcome.output))}: {outcome.score_name} {outcome.score:.4f} on "
            f"{outcome.metrics['validation_images']:,} validation pictures\n"
        )


def command_line() -> str:
    """The command as it was typed, for the card."""
    return shlex.join(["vit-hybrid", *sys.argv[1:]])


__all__ = ["train"]

"""`vit-hybrid embed`: a vector for each of any number of pictures."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from ..assets import BUILT_IN_MODEL
from .many_pictures import PartsOptions, SharingOptions
from .options import AnyModel, AsJson, Sources, VectorOptions
from .parts import RunProgress, Strict, conclude
from .running import by_hand


def embed(
    sources: Sources,
    output: Annotated[
        str,
        typer.Option(
            metavar="OUT",
            help="A name that ends in .parquet: a folder of parts; or an address.",
            show_default=False,
        ),
    ],
    model: AnyModel = BUILT_IN_MODEL,
    dtype: Annotated[
        Literal["float32", "float16"],
        typer.Option(help="What a vector is kept in; float16 takes half the room."),
    ] = "float32",
    normalization: Annotated[
        Literal["none", "l2"], typer.Option(help="l2: vectors of length 1; none: as the classifier takes them.")
    ] = "none",
    strict: Strict = False,
    as_json: AsJson = False,
    parts: PartsOptions = PartsOptions(),  # noqa: B008 - it is frozen
    sharing: SharingOptions = SharingOptions(),  # noqa: B008
    engine: VectorOptions = VectorOptions(),  # noqa: B008
) -> None:
    """Embed any number of pictures: of each the vector that the model's classifier takes.

    OUT gets columns path, width, height and embedding, a list of one fixed size, and for a picture that could not be
    read error and reason. Its metadata say what model the vectors are of, so that none are compared with another's.
    A run that was stopped goes on with --resume.
    """
    from ..predict.job import embed as run

    with RunProgress(model) as progress:
        summary = run(
            sources,
            output,
            model=model,
            dtype=dtype,
            normalization=normalization,
            progress=progress,
            **vars(parts),
            **vars(sharing),
            **by_hand(model, engine),
        )
    conclude(summary, strict, as_json)


__all__ = ["embed"]

"""`vit-hybrid predict`: a row for each of any number of pictures, in parts that a later run goes on from."""

from __future__ import annotations

from typing import Annotated

import typer

from ..assets import BUILT_IN_MODEL
from ..outputs.problems import DEFAULT_TOP_K
from .many_pictures import PartsOptions, SharingOptions
from .options import AnyModel, AsJson, ConfidenceOptions, EngineOptions, Sources, TopK
from .parts import RunProgress, Strict, conclude
from .running import by_hand


def predict(
    sources: Sources,
    output: Annotated[
        str,
        typer.Option(
            metavar="OUT",
            help="A name that ends in .parquet (a folder of parts), .csv or .jsonl; or an address.",
            show_default=False,
        ),
    ],
    model: AnyModel = BUILT_IN_MODEL,
    top_k: TopK = DEFAULT_TOP_K,
    embeddings: Annotated[
        bool, typer.Option("--embeddings", help="Write the vector that the classifier takes, too; not to CSV.")
    ] = False,
    strict: Strict = False,
    as_json: AsJson = False,
    confidence: ConfidenceOptions = ConfidenceOptions(),  # noqa: B008 - it is frozen
    parts: PartsOptions = PartsOptions(),  # noqa: B008
    sharing: SharingOptions = SharingOptions(),  # noqa: B008
    engine: EngineOptions = EngineOptions(),  # noqa: B008
) -> None:
    """Predict the labels of any number of pictures, a row each.

    OUT gets columns path, width, height, labels and probabilities (in CSV label_1, probability_1, ...; values of a
    regression), and for a picture that could not be read error and reason; of a model that was calibrated also set (in
    CSV a JSON list), familiarity and none_of_these. A run that was stopped goes on with
    --resume; what was done is not done again.
    """
    from ..predict.job import predict as run

    with RunProgress(model) as progress:
        summary = run(
            sources,
            output,
            model=model,
            top_k=top_k,
            embeddings=embeddings,
            progress=progress,
            **vars(confidence),
            **vars(parts),
            **vars(sharing),
            **by_hand(model, engine),
        )
    conclude(summary, strict, as_json)


__all__ = ["predict"]

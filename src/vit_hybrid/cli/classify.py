"""`vit-hybrid classify`: what is in these pictures?"""

from __future__ import annotations

from typing import Annotated

import typer

from ..assets import BUILT_IN_MODEL
from ..outputs.problems import DEFAULT_TOP_K
from .options import AnyModel, AsJson, ConfidenceOptions, EngineOptions, TopK
from .output import RecordPrinter, complain
from .session import EXIT_FAILED, opened_predictor


def classify(
    images: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGE",
            help="Image files; folders, searched through all levels for pictures; globs; - for standard input.",
            show_default=False,
        ),
    ],
    model: AnyModel = BUILT_IN_MODEL,
    top_k: TopK = DEFAULT_TOP_K,
    as_json: AsJson = False,
    confidence: ConfidenceOptions = ConfidenceOptions(),  # noqa: B008 - it is frozen
    engine: EngineOptions = EngineOptions(),  # noqa: B008
) -> None:
    """Say what is in images: ranked labels with their probabilities.

    An image that cannot be read gets one line that says why (on standard error, or with --json in its place) and the
    others are still classified; the exit status is then 1. With a wrong option or --model it is 2. What is passed over
    in folders is counted in one line at the end, without --json with the images that cannot be read.

    Of a model that was calibrated (vit-hybrid calibrate) probabilities mean what they say, labels of the set that holds
    the truth as often as --coverage says are marked, and a picture of nothing that the model knows is called so.
    """
    from ..data import Passed
    from ..data.listing import PICTURE
    from ..data.sources import STANDARD_INPUT, contents, expand

    passed = Passed()
    pairs = expand(images, passed)
    predictor = opened_predictor(model, engine, confidence=not confidence.uncalibrated)
    # Standard input is read when its turn comes, and its turn is not to be waited for.
    ahead = len(pairs) > engine.batch_size and all(source != STANDARD_INPUT for _, source in pairs)
    levels = {"coverage": confidence.coverage, "false_alarms": confidence.false_alarms}
    records = predictor.stream(contents(pairs), top_k=top_k, read_ahead=ahead, **levels)
    with RecordPrinter(as_json=as_json, labels=predictor.labels, total=len(pairs)) as printer:
        for (path, source), record in zip(pairs, records, strict=True):
            printer.print(record)
            # What was named itself was not passed over, and a folder that cannot be read is counted already.
            if "error" in record and isinstance(source, str) and path not in images and not as_json:
                passed.add(PICTURE, path)
    if passed:
        complain(passed.line())
    if printer.failures:
        raise typer.Exit(EXIT_FAILED)


__all__ = ["classify"]

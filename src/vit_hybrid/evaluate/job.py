"""Runs a model over labeled pictures and scores what it says.

Everything goes through `Predictor`, so what is measured is what `vit-hybrid classify` gives; batches are filled, so
that scores are the same where several share the work (`many`). Pictures are read as their batch comes up; only the
model's outputs are kept, one float32 a picture and label, in a file that is mapped.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable

import numpy as np

from ..data import DataError, LabeledPictures
from ..data.listing import PICTURE
from ..data.pictures import PictureSources
from ..inference.predictor import Predictor
from ..outputs.ranking import ErrorRecord
from ..outputs.scores import scores
from .evaluation import Evaluation
from .pictures import matched


def evaluate(
    predictor: Predictor,
    pictures: LabeledPictures,
    strict: bool = False,
    progress: Callable[[ErrorRecord | None], None] | None = None,
) -> Evaluation:
    """Runs a model over labeled pictures and scores what it says.

    Labels are matched by name. Data whose labels are bare integers are taken to mean the positions of the model's
    labels, and a note says so. The values of a regression may be called otherwise in the data than in the model.

    Args:
        predictor: The model.
        pictures: The pictures; a label of the model that none of them has is no error.
        strict: Stop at a picture that cannot be read, instead of passing over it.
        progress: Called after each picture, with its error or None.

    Raises:
        DataError: If the data are for another kind of model or have labels that the model does not know, if no picture
            can be read, or, with `strict`, at the first that cannot.
    """
    pictures, names, notes = matched(predictor, pictures)
    start = time.perf_counter()
    paths: list[str] = []
    rows: list[int] = []
    skipped: list[ErrorRecord] = []
    with predictor.streaming.filled(), tempfile.TemporaryFile(prefix="vit-hybrid-") as outputs:
        for row, record in enumerate(predictor.stream_logits(PictureSources(pictures))):
            error: ErrorRecord | None = None
            if "logits" in record:
                paths.append(record["path"])
                outputs.write(np.asarray(record["logits"], np.float32).tobytes())
                rows.append(row)
            else:
                error = record
                skipped.append(record)
                pictures.passed.add(PICTURE, record["path"])
                if strict:
                    raise DataError(record["error"])
            if progress is not None:
                progress(error)
        seconds = time.perf_counter() - start
        if not rows:
            why = f": {skipped[0]['error']}" if skipped else ""
            raise DataError(f"none of the {len(pictures)} pictures can be scored{why}")
        outputs.flush()
        # What is mapped stays when the file is closed, and gone from the folder.
        logits = np.memmap(outputs, np.float32, "r").reshape(len(rows), -1)
    targets = pictures.targets[rows]
    return Evaluation(
        problem_type=predictor.problem_type,
        labels=tuple(names),
        scores=scores(predictor.problem_type, logits, targets, names),
        paths=tuple(paths),
        logits=logits,
        targets=targets,
        rows=np.array(rows),
        skipped=tuple(skipped),
        notes=tuple(notes),
        seconds=seconds,
        pictures=pictures,
    )


__all__ = ["evaluate"]

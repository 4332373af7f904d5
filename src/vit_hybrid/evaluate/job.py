"""Runs a model over labeled pictures and scores what it says.

Everything goes through `Predictor`, so what is measured is what `vit-hybrid classify` gives; batches are filled, so
that scores are the same where several share the work (`many`). Pictures are read as their batch comes up; only the
model's outputs are kept, one float32 a picture and label, in a file that is mapped.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack

import numpy as np

from ..data import DataError, LabeledPictures
from ..data.listing import PICTURE
from ..data.pictures import PictureSources
from ..data.streams import PictureStream
from ..inference.predictor import Predictor
from ..outputs.assessment import Assessor
from ..outputs.problems import DEFAULT_COVERAGE, DEFAULT_FALSE_ALARMS
from ..outputs.ranking import ErrorRecord
from ..outputs.scores import scores
from .assessing import Kept, Outputs, outputs_of, run_over_strangers
from .evaluation import Evaluation
from .pictures import matched

# Pictures that are assessed together.
AT_ONCE = 256


def evaluate(
    predictor: Predictor,
    pictures: LabeledPictures,
    strict: bool = False,
    progress: Callable[[ErrorRecord | None], None] | None = None,
    *,
    coverage: float = DEFAULT_COVERAGE,
    false_alarms: float = DEFAULT_FALSE_ALARMS,
    strangers: PictureStream | None = None,
) -> Evaluation:
    """Runs a model over labeled pictures and scores what it says.

    Labels are matched by name. Data whose labels are bare integers are taken to mean the positions of the model's
    labels, and a note says so. The values of a regression may be called otherwise in the data than in the model.

    Args:
        predictor: The model.
        pictures: The pictures; a label of the model that none of them has is no error.
        strict: Stop at a picture that cannot be read, instead of passing over it.
        progress: Called after each picture, with its error or None; after each of the strangers, too.
        coverage: How often sets of labels are to hold the truth, 0 to 1, of a calibrated model.
        false_alarms: Which share of pictures of what the model knows may be called none of these, likewise.
        strangers: Pictures of nothing that the model knows (`vit_hybrid.data.streams.open_stream`), to be told from
            the others.

    Raises:
        DataError: If the data are for another kind of model or have labels that the model does not know, if no picture
            can be read, or, with `strict`, at the first that cannot.
        ValueError: If `coverage` takes more held-out pictures than there were, one of the levels is no share, or the
            model that `strangers` are for has not one label a picture.
    """
    pictures, names, notes = matched(predictor, pictures)
    problem_type, confidence = predictor.problem_type, predictor.confidence
    assessor = Assessor(problem_type, confidence, coverage, false_alarms, strangers is not None)
    start = time.perf_counter()
    paths: list[str] = []
    rows: list[int] = []
    skipped: list[ErrorRecord] = []
    unreadable_strangers: tuple[ErrorRecord, ...] = ()
    waiting = Outputs()

    def tell(error: ErrorRecord | None) -> None:
        if error is not None and strict:
            raise DataError(error["error"])
        if progress is not None:
            progress(error)

    with ExitStack() as ending:
        ending.enter_context(predictor.streaming.filled())
        outputs, *files = (ending.enter_context(tempfile.TemporaryFile(prefix="vit-hybrid-")) for _ in range(3))
        kept = Kept(*files)

        def assess() -> None:
            if len(waiting):
                targets = pictures.targets[rows[-len(waiting) :]]
                kept.take(*assessor.known(np.stack(waiting.logits), targets, waiting.tokens, waiting.statistics))
                waiting.clear()

        for row, record in enumerate(outputs_of(predictor, assessor.basis, PictureSources(pictures))):
            error: ErrorRecord | None = None
            if "error" in record:
                error = record
                skipped.append(record)
                pictures.passed.add(PICTURE, record["path"])
            else:
                paths.append(record["path"])
                outputs.write(np.asarray(record["logits"], np.float32).tobytes())
                rows.append(row)
                waiting.add(record)
            tell(error)
            if len(waiting) == AT_ONCE:
                assess()
        assess()
        seconds = time.perf_counter() - start
        if not rows:
            why = f": {skipped[0]['error']}" if skipped else ""
            raise DataError(f"none of the {len(pictures)} pictures can be scored{why}")
        if strangers is not None:
            unreadable_strangers = run_over_strangers(predictor, assessor, strangers, kept, AT_ONCE, tell)
        outputs.flush()
        # What is mapped stays when the file is closed, and gone from the folder.
        logits = np.memmap(outputs, np.float32, "r").reshape(len(rows), -1)
        targets = pictures.targets[rows]
        found = kept.found(assessor.basis, names, (logits, targets))
    missing = assessor.basis.missing()
    return Evaluation(
        problem_type=problem_type,
        labels=tuple(names),
        scores=scores(problem_type, logits, targets, names),
        paths=tuple(paths),
        logits=logits,
        targets=targets,
        rows=np.array(rows),
        skipped=tuple(skipped),
        notes=(*notes, *([missing] if missing else [])),
        seconds=seconds,
        pictures=pictures,
        assessment=found,
        temperature=assessor.basis.temperature,
        unreadable_strangers=unreadable_strangers,
    )


__all__ = ["evaluate"]

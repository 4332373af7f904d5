"""A benchmark from settings to a report, and to the files that keep it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from ..files import replacing
from . import report as reports
from .models import prepare
from .processes import busy
from .race import race, turns
from .report import Report
from .settings import Settings

RESULTS_FILE, TABLE_FILE, CHART_FILE = "results.json", "results.md", "chart.png"
TEMPORARY_PREFIX = "vit-hybrid-benchmark-"

Progress = Callable[[int, int], None]


def run(
    settings: Settings,
    progress: Progress | None = None,
    preparing: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> Report:
    """Measures everything in turns.

    The model is saved once for each image size in a temporary folder, which all contenders load it from and which is
    gone in the end, like all their processes.

    Args:
        settings: What to measure.
        progress: Called with (turns done, turns in all).
        preparing: Makes what is entered while the model is opened and saved.

    Returns:
        The report, as `report.make` describes it. A contender that fails has an error in it.

    Raises:
        ValueError: The model or the device cannot be used, or the model cannot be of such a size.
        OSError: The temporary folder cannot be written to.
    """
    from ..engines.devices import usable_device

    device = str(usable_device(settings.device))
    contenders = settings.contenders()
    rounds = settings.warm_up + settings.repetitions
    batch_sizes = sorted(set(settings.batch_sizes))
    image_sizes = list(dict.fromkeys(settings.image_sizes))
    total = len(image_sizes) * turns(len(contenders), len(batch_sizes), rounds)
    done = 0

    def advance() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total)

    heats = []
    with _ending_on_request(), tempfile.TemporaryDirectory(prefix=TEMPORARY_PREFIX) as place:
        for number, image_size in enumerate(image_sizes):
            folder = Path(place, str(number))
            folder.mkdir()
            with preparing():
                prepared = prepare(
                    settings.model,
                    image_size,
                    most_pictures=batch_sizes[-1],
                    folder=folder,
                    for_timm=any(peer.kind == "timm" for peer in settings.peers),
                    for_int8="int8" in settings.precisions,
                )
            with busy(settings.busy):
                heats.append(
                    race(
                        contenders,
                        prepared,
                        batch_sizes,
                        device,
                        settings.threads,
                        settings.warm_up,
                        settings.repetitions,
                        folder,
                        advance,
                    )
                )
            shutil.rmtree(folder)
    return reports.make(settings, heats, device)


def write_files(report: Report, folder: str | os.PathLike[str]) -> list[Path]:
    """Writes results.json, results.md and chart.png into `folder`, which is made where it is not there.

    Raises:
        ImportError: matplotlib is not installed.
        OSError: A file cannot be written.
    """
    from .chart import chart
    from .tables import markdown

    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    chart(report, place / CHART_FILE)
    texts = {RESULTS_FILE: as_json(report, indent=1), TABLE_FILE: markdown(report, CHART_FILE)}
    for name, text in texts.items():
        with replacing(place / name) as unfinished:
            unfinished.write_text(text, encoding="utf-8")
    return [place / name for name in (RESULTS_FILE, TABLE_FILE, CHART_FILE)]


def as_json(report: Report, indent: int | None = None) -> str:
    """The report as JSON, with a line's end."""
    return json.dumps(report, indent=indent, allow_nan=False) + "\n"


@contextmanager
def _ending_on_request() -> Iterator[None]:
    """Makes of SIGTERM an exit like others, so that processes and the temporary folder go with us."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, _: Any) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


__all__ = ["CHART_FILE", "RESULTS_FILE", "TABLE_FILE", "as_json", "run", "write_files"]

"""From what was measured to what is said of it: plain data, as JSON holds them."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from .. import __version__
from ..checkpoints.opening import is_preset
from . import machine
from .contenders import RATE_OF, Contender
from .models import base_name
from .race import Cell, Entry, Heat
from .settings import Settings

FORMAT = "vit-hybrid benchmark 1"

Report = dict[str, Any]
"""What `run` gives and `results.json` holds; `make` says what is in it."""


def make(settings: Settings, heats: Sequence[Heat], device: str) -> Report:
    """The report.

    Returns:
        `machine` (hardware and libraries), `model`, `settings`, `command`; `sizes`: for each image size its costs, the
        rates of matrix products and convolutions (operations a second) and preprocessing (pictures a second);
        `contenders` with their starts; `rows`: for each contender, image size and batch size the `min` and `median`
        seconds of a pass (on another device than the CPU, over pixel values that are there already, and
        `min_from_numpy` over others), `pictures_per_second` by the median, `ratio` and `ratio_median` (time by that of
        `baseline`), `share_of_rate` (of `rate_precision`'s matrix products), `peak_bytes`, `difference` (the largest of
        a logit to `reference`) and `agreement` (the share of pictures with the same top-1), or an `error`; `table`,
        that of Hugging Face's documentation; `failures`, a line for each contender that did not get through.
    """
    rows = [row for heat in heats for row in _rows(heat)]
    remarks: dict[str, None] = {}  # in order, each once
    for heat in heats:
        remarks |= dict.fromkeys(heat.remarks)  # what could not be measured of the machine
        fallbacks = [(entry.contender.name, entry.ready.get("fallback")) for entry in heat.entries]
        remarks |= dict.fromkeys(f"{name}: {fallback}" for name, fallback in fallbacks if fallback)
    return {
        "format": FORMAT,
        "version": __version__,
        "date": datetime.now(UTC).date().isoformat(),
        "command": settings.command(),
        "model": {"name": base_name(settings.model), "weights": "random" if is_preset(settings.model) else "as saved"},
        "machine": {**machine.describe(), "device": device, "device_name": heats[0].device_name},
        "settings": settings.described(),
        "peers": {peer.title: dict(peer.versions) for peer in settings.peers},
        "sizes": [_size(heat) for heat in heats],
        "contenders": [_contender(entry, heat) for heat in heats for entry in heat.entries],
        "rows": rows,
        "table": [line for heat in heats for line in _documentation(heat)],
        "failures": _failures(rows),
        "remarks": list(remarks),
    }


def baseline_order(contender: Contender) -> int:
    """Against which contender times are held: the first of these that has one. Lower is better."""
    if contender.precision != "f32" or not contender.is_plain:
        return 5
    if contender.peer is not None:
        return 0 if contender.peer.kind == "legacy" and contender.attention == "sdpa" else 4
    if contender.engine == "torch":
        return 1 if contender.attention == "eager" else 2
    return 3


def reference_order(contender: Contender) -> int:
    """Against which contender logits are held: torch in float32, if it is there. Lower is better."""
    if contender.precision != "f32" or not contender.is_plain:
        return 4
    if contender.engine == "torch":
        return 0 if contender.attention == "sdpa" else 1
    return 2 if contender.peer is not None else 3


def _rows(heat: Heat) -> list[dict[str, Any]]:
    rows = []
    for batch_size in dict.fromkeys(batch for entry in heat.entries for batch in entry.cells):
        through = [entry for entry in heat.entries if entry.cells[batch_size].error is None]
        baseline = min(through, key=lambda entry: baseline_order(entry.contender), default=None)
        reference = min(through, key=lambda entry: reference_order(entry.contender), default=None)
        for entry in heat.entries:
            row = {
                "contender": entry.contender.name,
                "image_size": heat.about["image_size"],
                "batch_size": batch_size,
            }
            cell = entry.cells[batch_size]
            if cell.error is not None or baseline is None or reference is None:
                rows.append({**row, "error": cell.error})
                continue
            rows.append(
                {
                    **row,
                    **_times(cell, baseline.cells[batch_size], batch_size),
                    "baseline": baseline.contender.name,
                    **_share_of_rate(entry.contender, cell, heat, batch_size),
                    "peak_bytes": cell.peak_bytes,
                    "device_peak_bytes": cell.device_peak_bytes,
                    **_likeness(cell, reference.cells[batch_size]),
                    "reference": reference.contender.name,
                }
            )
    return rows


def _times(cell: Cell, baseline: Cell, batch_size: int) -> dict[str, Any]:
    least, median = min(cell.seconds), statistics.median(cell.seconds)
    return {
        "min": least,
        "median": median,
        "min_from_numpy": min(cell.copied_seconds, default=None),
        "passes": len(cell.seconds),
        "pictures_per_second": batch_size / median,
        "ratio": least / min(baseline.seconds),
        "ratio_median": median / statistics.median(baseline.seconds),
    }


def _share_of_rate(contender: Contender, cell: Cell, heat: Heat, batch_size: int) -> dict[str, Any]:
    """Of the rate at which the machine multiplies matrices, in float32 or, for all that is narrower, bfloat16."""
    precision = RATE_OF[contender.precision]
    rate = heat.rates.get(precision)
    share = None
    if rate and contender.token_merging is None:  # which leaves out some of the model's operations
        share = heat.about["flops"] * batch_size / min(cell.seconds) / rate if heat.about["flops"] else None
    return {"share_of_rate": share, "rate_precision": precision}


def _likeness(cell: Cell, reference: Cell) -> dict[str, Any]:
    logits, expected = cell.logits, reference.logits
    if logits is None or expected is None or logits.shape != expected.shape:
        return {"difference": None, "agreement": None}
    difference = float(np.abs(logits.astype(np.float64) - expected.astype(np.float64)).max())
    return {
        "difference": difference if np.isfinite(difference) else None,
        "agreement": float((logits.argmax(-1) == expected.argmax(-1)).mean()),
    }


def _size(heat: Heat) -> dict[str, Any]:
    return {
        **heat.about,
        "rates": heat.rates,
        "convolution_rates": heat.convolutions,
        "preprocessing": {f"{name}_per_second": 1 / seconds for name, seconds in heat.preprocessing.items()},
    }


def _contender(entry: Entry, heat: Heat) -> dict[str, Any]:
    return {
        **entry.contender.described(),
        "image_size": heat.about["image_size"],
        "device": entry.ready.get("device"),
        "start_seconds": entry.start_seconds,
        "start_peak_bytes": entry.start_peak_bytes,
        "error": entry.error,
    }


def _documentation(heat: Heat) -> list[dict[str, Any]]:
    """Hugging Face's table: this package's torch in float32 with both attentions."""
    plain = {
        entry.contender.attention: entry
        for entry in heat.entries
        if entry.contender.engine == "torch" and entry.contender.precision == "f32" and entry.contender.is_plain
    }
    if not {"eager", "sdpa"} <= plain.keys():
        return []
    lines = []
    for batch_size, cell in plain["eager"].cells.items():
        eager, sdpa = cell.seconds, plain["sdpa"].cells[batch_size].seconds
        if not (eager and sdpa) or cell.error or plain["sdpa"].cells[batch_size].error:
            continue
        line: dict[str, Any] = {"image_size": heat.about["image_size"], "batch_size": batch_size}
        for name, of in (("min", min), ("median", statistics.median)):
            times = {"eager_ms": 1000 * of(eager), "sdpa_ms": 1000 * of(sdpa)}
            line[name] = {**times, "speed_up": times["eager_ms"] / times["sdpa_ms"]}
        lines.append(line)
    return lines


def _failures(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A line for each reason for which a contender did not get through, with where that was."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        if row.get("error") is None:
            continue
        failure = found.setdefault(
            (row["contender"], row["error"]), {"contender": row["contender"], "error": row["error"], "at": []}
        )
        failure["at"].append({"image_size": row["image_size"], "batch_size": row["batch_size"]})
    return list(found.values())


__all__ = ["FORMAT", "Report", "baseline_order", "make", "reference_order"]

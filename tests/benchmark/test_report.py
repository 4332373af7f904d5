"""From made-up measurements to what is said of them: which are compared, and what is left out."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from vit_hybrid import __version__
from vit_hybrid.benchmark import report
from vit_hybrid.benchmark.contenders import Contender, Peer
from vit_hybrid.benchmark.race import Cell, Entry, Heat
from vit_hybrid.benchmark.settings import Settings

ABOUT = {"image_size": [32, 48], "flops": 3e9}
EAGER, SDPA = Contender("torch", "f32", "eager"), Contender("torch", "f32", "sdpa")


def entry(contender: Contender, cells: dict[int, Cell], **ready: Any) -> Entry:
    return Entry(contender, [1.5, 0.5], [7, None], ready, cells)


def test_the_documentations_table_has_batches_that_both_attentions_got_through() -> None:
    eager = {1: Cell([0.3, 0.2]), 2: Cell([0.9], error="no memory"), 4: Cell([0.8]), 8: Cell([1.6])}
    sdpa = {1: Cell([0.1, 0.3]), 2: Cell([0.4]), 4: Cell([0.4], error="it ended"), 8: Cell()}
    others = [entry(Contender("torch", "f32", "sdpa", token_merging=2), sdpa), entry(Contender("onnx", "f32"), sdpa)]
    [line] = report._documentation(Heat(ABOUT, [entry(EAGER, eager), *others, entry(SDPA, sdpa)]))
    assert line == {
        "image_size": [32, 48],
        "batch_size": 1,
        "min": {"eager_ms": pytest.approx(200), "sdpa_ms": pytest.approx(100), "speed_up": pytest.approx(2)},
        "median": {"eager_ms": pytest.approx(250), "sdpa_ms": pytest.approx(200), "speed_up": pytest.approx(1.25)},
    }
    assert report._documentation(Heat(ABOUT, [entry(EAGER, eager), *others])) == []


@pytest.mark.parametrize(
    ("logits", "difference", "agreement"),
    [
        ([[1, 3], [4, 2]], 0.0, 1.0),
        ([[1, 2.5], [4, 5]], 3.0, 0.5),
        ([[1, np.inf], [4, 2]], None, 1.0),
        ([[1, 2.5], [4, -1]], 3.0, 1.0),
        ([[1, 3]], None, None),
        (None, None, None),
    ],
)
def test_how_alike_logits_are(logits: Any, difference: float | None, agreement: float | None) -> None:
    reference = Cell(logits=np.array([[1, 3], [4, 2]], np.float32))
    found = report._likeness(Cell(logits=None if logits is None else np.array(logits, np.float32)), reference)
    assert found == {"difference": difference, "agreement": agreement}
    reference, other = (Cell(logits=np.array([[5, 1, 0], last])) for last in ([4, 9, 2], [4, 2, 9]))
    assert report._likeness(other, reference) == {"difference": 7.0, "agreement": 0.5}


def test_the_share_of_the_rate_is_of_all_operations_of_a_batch_in_the_least_time() -> None:
    heat = Heat(ABOUT, [], rates={"f32": 60e9, "bf16": 120e9})
    cell = Cell([0.5, 0.2])
    for precision, share in (("f32", 0.5), ("bf16", 0.25), ("int8", 0.25)):
        found = report._share_of_rate(Contender("openvino", precision), cell, heat, 2)  # 6e9 in 0.2 s are 30e9
        assert found == {"share_of_rate": pytest.approx(share), "rate_precision": "f32" if share == 0.5 else "bf16"}
    compiled = Contender("torch", "f32", compiled=True)
    assert report._share_of_rate(compiled, cell, heat, 2)["share_of_rate"] == pytest.approx(0.5)
    merging = Contender("openvino", "f32", token_merging=1)
    assert report._share_of_rate(merging, cell, heat, 2)["share_of_rate"] is None
    for unknown in (Heat(ABOUT, []), Heat({**ABOUT, "flops": 0}, [], rates={"f32": 60e9})):
        assert report._share_of_rate(EAGER, cell, unknown, 2)["share_of_rate"] is None


def test_reasons_are_told_once_with_all_places() -> None:
    rows = [
        {"contender": "a", "image_size": [8, 8], "batch_size": 1, "error": "no memory"},
        {"contender": "b", "image_size": [8, 8], "batch_size": 1},
        {"contender": "a", "image_size": [8, 8], "batch_size": 2, "error": "it ended"},
        {"contender": "a", "image_size": [9, 9], "batch_size": 1, "error": "no memory"},
    ]
    one, two, other = (
        {"image_size": row["image_size"], "batch_size": row["batch_size"]} for row in rows if "error" in row
    )
    assert report._failures(rows) == [
        {"contender": "a", "error": "no memory", "at": [one, other]},
        {"contender": "a", "error": "it ended", "at": [two]},
    ]


def test_all_that_is_said_of_a_run() -> None:
    peer = Peer("timm", "/somewhere/python", {"timm": "1.0", "torch": "2"})
    settings = Settings(model="R50+B/16", engines=("torch",), peers=(peer,), threads=2, repetitions=3, busy=1)
    cell = Cell([0.2], logits=np.zeros((1, 2)))
    contenders = (SDPA, Contender("torch", "bf16", compiled=True), Contender(None, "f32", "sdpa", peer=peer))
    heats = [
        Heat(
            ABOUT,
            [
                entry(one, {1: cell}, device="cpu", fallback="in float32" if one.precision == "bf16" else "")
                for one in contenders
            ],
            {"f32": 1e9},
            {"f32": 2e9},
            {"decode": 0.01},
            name,
            ["preprocessing: it ended"],
        )
        for name in ("Abacus", None)
    ]
    cell.peak_bytes, cell.device_peak_bytes, cell.copied_seconds = 5, 6, [0.4, 0.3]
    before = datetime.now(UTC).date()
    found = report.make(settings, heats, "cuda:0")
    assert before.isoformat() <= found["date"] <= datetime.now(UTC).date().isoformat()
    assert (found["format"], found["version"]) == ("vit-hybrid benchmark 1", __version__)
    assert found["command"] == settings.command()
    assert [(row["contender"], row["image_size"], row["batch_size"]) for row in found["rows"]] == 2 * [
        (name, [32, 48], 1) for name in ("torch f32 sdpa", "torch bf16, compiled", "timm 1.0 f32 sdpa")
    ]
    assert found["rows"][0] == {
        **{"contender": "torch f32 sdpa", "image_size": [32, 48], "batch_size": 1, "min": 0.2, "median": 0.2},
        **{"min_from_numpy": 0.3, "passes": 1, "pictures_per_second": 5.0, "ratio": 1.0, "ratio_median": 1.0},
        **{"baseline": "torch f32 sdpa", "share_of_rate": pytest.approx(15.0), "rate_precision": "f32"},
        **{"peak_bytes": 5, "device_peak_bytes": 6, "difference": 0.0, "agreement": 1.0},
        "reference": "torch f32 sdpa",
    }
    assert (found["failures"], found["table"]) == ([], [])
    assert found["model"] == {"name": "R50+B/16", "weights": "random"}
    assert (found["machine"]["device"], found["machine"]["device_name"]) == ("cuda:0", "Abacus")
    assert found["settings"] == {
        **{"batch_sizes": [1, 2, 4, 8], "threads": 2, "device": None, "repetitions": 3, "warm_up": 2, "busy": 1},
    }
    assert found["peers"] == {"timm 1.0": {"timm": "1.0", "torch": "2"}}
    assert found["remarks"] == ["preprocessing: it ended", "torch bf16, compiled: in float32"]
    size = {"rates": {"f32": 1e9}, "convolution_rates": {"f32": 2e9}, "preprocessing": {"decode_per_second": 100.0}}
    assert found["sizes"] == [{**ABOUT, **size}] * 2
    plain = {"attention": None, "compiled": False, "token_merging": None, "is_peer": False}
    started = {
        **{"image_size": [32, 48], "device": "cpu", "error": None},
        **{"start_seconds": [1.5, 0.5], "start_peak_bytes": [7, None]},
    }
    assert found["contenders"] == 2 * [
        {**plain, **started, **described}
        for described in (
            {"name": "torch f32 sdpa", "engine": "torch", "precision": "f32", "attention": "sdpa"},
            {"name": "torch bf16, compiled", "engine": "torch", "precision": "bf16", "compiled": True},
            {
                "name": "timm 1.0 f32 sdpa",
                "engine": "timm 1.0",
                "precision": "f32",
                "attention": "sdpa",
                "is_peer": True,
            },
        )
    ]
    assert "python" not in found["command"]

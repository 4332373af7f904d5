"""A report in words, from made-up figures: each stands where it belongs, in its unit."""

from __future__ import annotations

from typing import Any

import pytest

from vit_hybrid.benchmark import tables


@pytest.fixture
def report() -> Any:
    row = {
        "contender": "torch | f32",
        "image_size": (384, 256),
        "batch_size": 4,
        "min": 0.01234,
        "median": 0.02345,
        "pictures_per_second": 324.15,
        "ratio": 0.876,
        "share_of_rate": 0.654,
        "rate_precision": "f32",
        "peak_bytes": 1_234_567_890,
        "difference": 0.00123,
        "agreement": 0.987,
        "baseline": "one",
        "reference": "other",
    }
    undefined = {"share_of_rate": None, "peak_bytes": None, "difference": None, "agreement": None, "baseline": "two"}
    size = {
        "image_size": (384, 256),
        "flops": 12.34e9,
        "tokens": 577,
        "rates": {"f32": 123.4e9, "int8": 567.8e9},
        "convolution_rates": {"f32": 98.7e9},
        "preprocessing": {"decode_per_second": 234.5, "decode_and_preprocess_per_second": 123.4},
    }
    line = {"batch_size": 4, "min": {"eager_ms": 30.0, "sdpa_ms": 20.0, "speed_up": 1.5}}
    started = {"name": "torch", "image_size": (384, 256), "device": "cpu", "start_seconds": [9.87, 2.5, 1.5]}
    return {
        "model": {"name": "tiny", "weights": "random"},
        "machine": {
            **{"usable_cores": 2, "cores": 8, "memory_bytes": 16 * 2**30, "abilities": ["avx2", "amx_bf16"]},
            **{"device": "cpu", "device_name": None, "cpu": "EPYC", "os": "Linux", "architecture": "x86_64"},
            "libraries": {"torch": "2.9"},
        },
        "settings": {"threads": 2, "warm_up": 3, "repetitions": 30, "busy": 0},
        "version": "1.2.3",
        "peers": {"old": {"transformers": "4"}},
        "date": "2026-11-29",
        "remarks": ["it was warm"],
        "command": "vit-hybrid benchmark tiny",
        "sizes": [size],
        "table": [{**line, "image_size": (384, 256)}, {**line, "image_size": (9, 9)}],
        "rows": [row, {**row, **undefined, "batch_size": 1}, {**row, "error": "no memory"}],
        "contenders": [
            {**started, "start_peak_bytes": [1e9, 2e9, 3e9]},
            {**started, "name": "once", "device": None, "start_seconds": [1.0], "start_peak_bytes": [None]},
            {**started, "start_seconds": [], "start_peak_bytes": []},
            {**started, "name": "warm", "start_seconds": [0.5, 2.0], "start_peak_bytes": [1e9, 4e9]},
        ],
        "failures": [
            {
                "contender": "onnx",
                "at": [{"batch_size": one, "image_size": (384, 256)} for one in (4, 4, 16)],
                "error": "no memory",
            }
        ],
    }


def test_what_was_measured_and_on_what(report: Any) -> None:
    assert tables.about(report) == [
        ("model", "tiny (random), 384 x 256 (12.3 GFLOP, 577 tokens) a picture"),
        ("device", "cpu"),
        ("CPU", "EPYC (avx2 amx_bf16), 2 of 8 cores, 16 GiB of memory"),
        ("system", "Linux, x86_64"),
        ("libraries", "vit-hybrid 1.2.3, torch 2.9"),
        ("old", "transformers 4"),
        ("measured", "2026-11-29; 2 threads, 3 rounds of warm-up, 30 timed, in turns"),
        ("remark", "it was warm"),
    ]
    report["machine"] |= {"device": "cuda:0", "device_name": "H200", "memory_bytes": None, "abilities": []}
    report["settings"]["busy"] = 2
    said = dict(tables.about(report))
    assert (said["device"], said["CPU"]) == ("H200 (cuda:0)", "EPYC, 2 of 8 cores")
    assert said["measured"].endswith("in turns, beside 2 busy processes")


def test_each_figure_stands_in_its_column_and_unit(report: Any) -> None:
    first, everything, starts, machine, failures = tables.tables(report)
    assert first.title == "torch f32, eager and sdpa, 384 x 256 pixels"
    assert first.rows == [("4", "30.00", "20.00", "1.50")]
    assert [" | ".join(table.heads) for table in tables.tables(report)] == [
        ">batch size | >eager ms | >sdpa ms | >speed-up",
        "contender | >pixels | >batch | >min ms | >median ms | >pictures/s | >ratio | >of product rate | >MB | "
        ">logits differ by | >same top-1",
        "contender | >pixels | device | >first start s | >again s | >MB",
        "what | >pixels | >best",
        "contender | pixels | batch | reason",
    ]
    measured = ("12.34", "23.45", "324.1", "0.88")
    assert everything.rows == [
        ("torch | f32", "384 x 256", "4", *measured, "65% of f32", "1,235", "1.2e-03", "99%"),
        ("torch | f32", "384 x 256", "1", *measured, "-", "-", "-", "-"),
    ]
    assert "that of one, two." in everything.note
    assert "against other." in everything.note
    assert starts.rows == [
        ("torch", "384 x 256", "cpu", "9.87", "1.50", "3,000"),
        ("once", "384 x 256", "-", "1.00", "-", "-"),
        ("warm", "384 x 256", "cpu", "0.50", "2.00", "4,000"),
    ]
    assert machine.rows == [
        ("matrix products, f32", "384 x 256", "123 GFLOP/s"),
        ("matrix products, int8", "384 x 256", "568 GOP/s"),
        ("convolutions 3 x 3, f32", "384 x 256", "99 GFLOP/s"),
        ("decoding, one thread", "384 x 256", "234 pictures/s"),
        ("decoding and preprocessing, one thread", "384 x 256", "123 pictures/s"),
    ]
    assert failures.rows == [("onnx", "384 x 256", "4, 16", "no memory")]
    assert all(len(row) == len(table.heads) for table in tables.tables(report) for row in table.rows)


def test_what_could_not_be_measured_of_the_machine_has_no_row(report: Any) -> None:
    [size] = report["sizes"]
    size["preprocessing"].pop("decode_per_second")
    del size["convolution_rates"]
    found = {table.title: table for table in tables.tables(report)}["The machine"]
    assert [row[0] for row in found.rows] == [
        *("matrix products, f32", "matrix products, int8", "decoding and preprocessing, one thread")
    ]
    size["rates"].clear()
    size["preprocessing"].clear()
    assert "The machine" not in [table.title for table in tables.tables(report)]


def test_on_a_gpu_its_memory_and_the_copy_are_told(report: Any) -> None:
    report["rows"][0] |= {"device_peak_bytes": 2_000_000_000, "min_from_numpy": 0.5}
    report["rows"][1] |= {"device_peak_bytes": None, "min_from_numpy": None}  # of an engine beside it
    everything = {table.title: table for table in tables.tables(report)}["All contenders"]
    place = everything.heads.index(">GPU MB")
    assert everything.heads[place : place + 2] == (">GPU MB", ">from NumPy ms")
    assert [row[place : place + 2] for row in everything.rows] == [("2,000", "500.00"), ("-", "-")]
    assert "from NumPy: with the copy." in everything.note


def test_as_a_page(report: Any) -> None:
    report["failures"] = []
    report["remarks"] = ["a | b\nc"]
    del report["settings"]["busy"]  # which earlier releases did not say
    text = tables.markdown(report, "chart.svg")
    lines = text.splitlines()
    assert lines[0] == "# tiny: time of a forward pass"
    assert lines[lines.index("```sh") + 1] == "vit-hybrid benchmark tiny"
    assert "| batch size | eager ms | sdpa ms | speed-up |" in lines
    assert lines[lines.index("| batch size | eager ms | sdpa ms | speed-up |") + 1] == "| ---: | ---: | ---: | ---: |"
    assert sum(line.startswith("| torch \\| f32 | 384 x 256 |") for line in lines) == 2
    assert "Did not get through" not in text
    assert {"- remark: a \\| b c", "## All contenders", "## Start-up"} <= {*lines}
    assert lines[lines.index("## The machine") - 2].startswith(
        "From the start of the process"
    )  # a note, below its table
    assert lines[-1] == "![Time against batch and image size](chart.svg)"

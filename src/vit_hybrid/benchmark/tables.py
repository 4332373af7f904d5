"""A report as tables for people: the first as in Hugging Face's documentation, then all that was measured."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from .report import Report

UNDEFINED = "-"
MEGABYTE, GIGA = 10**6, 10**9


@dataclass(frozen=True)
class Table:
    """A table of text.

    Attributes:
        title: A line above it.
        heads: What the columns hold; those that start with ">" are set to the right.
        rows: As many cells as there are columns, in each row.
        note: What there is to know for reading it.
    """

    title: str
    heads: tuple[str, ...]
    rows: Sequence[Sequence[str]]
    note: str = ""


def tables(report: Report) -> list[Table]:
    """All tables that the report has something for."""
    found = [*_documentation(report), _all(report), _starts(report), _machine(report), _failures(report)]
    return [table for table in found if table.rows]


def about(report: Report) -> list[tuple[str, str]]:
    """What was measured, and on what: pairs of a name and its value."""
    machine, settings = report["machine"], report["settings"]
    sizes = ", ".join(
        f"{_by(size['image_size'])} ({size['flops'] / GIGA:.1f} GFLOP, {size['tokens']} tokens)"
        for size in report["sizes"]
    )
    cores = f"{machine['usable_cores']} of {machine['cores']} cores"
    memory = f", {machine['memory_bytes'] / 2**30:.0f} GiB of memory" if machine["memory_bytes"] else ""
    abilities = f" ({' '.join(machine['abilities'])})" if machine["abilities"] else ""
    device = machine["device_name"] or machine["device"]
    return [
        ("model", f"{report['model']['name']} ({report['model']['weights']}), {sizes} a picture"),
        ("device", device if machine["device"] == "cpu" else f"{device} ({machine['device']})"),
        ("CPU", f"{machine['cpu']}{abilities}, {cores}{memory}"),
        ("system", f"{machine['os']}, {machine['architecture']}"),
        ("libraries", _versions({"vit-hybrid": report["version"], **machine["libraries"]})),
        *((title, _versions(versions)) for title, versions in report["peers"].items()),
        (
            "measured",
            f"{report['date']}; {settings['threads']} threads, {settings['warm_up']} rounds of warm-up, "
            f"{settings['repetitions']} timed, in turns{_beside(settings)}",
        ),
        *(("remark", remark) for remark in report["remarks"]),
    ]


def markdown(report: Report, chart_file: str) -> str:
    """The report as a page with its tables and its chart."""
    lines = [f"# {report['model']['name']}: time of a forward pass", ""]
    lines += [f"- {name}: {_escaped(value)}" for name, value in about(report)]
    lines += ["", "```sh", report["command"], "```", ""]
    for table in tables(report):
        lines += [f"## {table.title}", ""]
        lines.append(_row(head.removeprefix(">") for head in table.heads))
        lines.append(_row("---:" if head.startswith(">") else "---" for head in table.heads))
        lines += [_row(cells) for cells in table.rows]
        lines += ["", *([table.note, ""] if table.note else [])]
    return "\n".join([*lines, f"![Time against batch and image size]({chart_file})", ""])


def _documentation(report: Report) -> list[Table]:
    heads = (">batch size", ">eager ms", ">sdpa ms", ">speed-up")
    found = []
    for size in report["sizes"]:
        rows = [
            (str(line["batch_size"]), *(f"{line['min'][name]:.2f}" for name in ("eager_ms", "sdpa_ms", "speed_up")))
            for line in report["table"]
            if line["image_size"] == size["image_size"]
        ]
        note = "A batch's time, minimum; speed-up: eager / sdpa. The table of Hugging Face's page on ViT Hybrid."
        found.append(Table(f"torch f32, eager and sdpa, {_by(size['image_size'])} pixels", heads, rows, note))
    return found


def _all(report: Report) -> Table:
    heads = ("contender", ">pixels", ">batch", ">min ms", ">median ms", ">pictures/s", ">ratio", ">of product rate")
    has_gpu = any(row.get("device_peak_bytes") for row in report["rows"])
    heads = (*heads, ">MB", *((">GPU MB", ">from NumPy ms") if has_gpu else ()), ">logits differ by", ">same top-1")
    rows = [
        (
            row["contender"],
            _by(row["image_size"]),
            str(row["batch_size"]),
            _milliseconds(row["min"]),
            _milliseconds(row["median"]),
            f"{row['pictures_per_second']:.1f}",
            f"{row['ratio']:.2f}",
            _share(row),
            _megabytes(row["peak_bytes"]),
            *((_megabytes(row["device_peak_bytes"]), _milliseconds(row["min_from_numpy"])) if has_gpu else ()),
            UNDEFINED if row["difference"] is None else f"{row['difference']:.1e}",
            UNDEFINED if row["agreement"] is None else f"{row['agreement']:.0%}",
        )
        for row in report["rows"]
        if "error" not in row
    ]
    baselines = _listed(row["baseline"] for row in report["rows"] if "error" not in row)
    references = _listed(row["reference"] for row in report["rows"] if "error" not in row)
    copied = " On the GPU, times are of pixels that are there already; from NumPy: with the copy." if has_gpu else ""
    note = (
        f"Ratio: minimum as a share of that of {baselines}. Of product rate: the model's operations a second as a "
        "share of those in matrix products of its MLP's shape, in f32 or, for what is narrower, in bf16. MB: the most "
        f"memory that the process had resident. Logits and top-1 against {references}.{copied}"
    )
    return Table("All contenders", heads, rows, note)


def _starts(report: Report) -> Table:
    heads = ("contender", ">pixels", "device", ">first start s", ">again s", ">MB")
    rows = [
        (
            one["name"],
            _by(one["image_size"]),
            one["device"] or UNDEFINED,
            f"{one['start_seconds'][0]:.2f}",
            f"{min(one['start_seconds'][1:]):.2f}" if one["start_seconds"][1:] else UNDEFINED,
            _megabytes(one["start_peak_bytes"][-1]),
        )
        for one in report["contenders"]
        if one["start_seconds"]
    ]
    note = (
        "From the start of the process to the logits of one picture. The first start may read files for the first "
        "time, convert and compile; MB is the most memory that the process had resident in the last."
    )
    return Table("Start-up", heads, rows, note)


def _machine(report: Report) -> Table:
    rows = []
    for size in report["sizes"]:
        pixels = _by(size["image_size"])
        for precision, rate in size["rates"].items():
            unit = "GOP/s" if precision == "int8" else "GFLOP/s"
            rows.append((f"matrix products, {precision}", pixels, f"{rate / GIGA:,.0f} {unit}"))
        for precision, rate in size.get("convolution_rates", {}).items():
            rows.append((f"convolutions 3 x 3, {precision}", pixels, f"{rate / GIGA:,.0f} GFLOP/s"))
        for name, title in (("decode", "decoding"), ("decode_and_preprocess", "decoding and preprocessing")):
            if f"{name}_per_second" in size["preprocessing"]:
                rate = size["preprocessing"][f"{name}_per_second"]
                rows.append((f"{title}, one thread", pixels, f"{rate:,.0f} pictures/s"))
    note = "Preprocessing is of JPEG photos of 475 x 395 that are made up."
    return Table("The machine", ("what", ">pixels", ">best"), rows, note)


def _failures(report: Report) -> Table:
    rows = []
    for failure in report["failures"]:
        batches = _listed(str(place["batch_size"]) for place in failure["at"])
        pixels = _listed(_by(place["image_size"]) for place in failure["at"])
        rows.append((failure["contender"], pixels, batches, failure["error"]))
    return Table("Did not get through", ("contender", "pixels", "batch", "reason"), rows)


def _beside(settings: dict[str, Any]) -> str:
    busy = settings.get("busy", 0)
    return f", beside {busy} busy process{'es' * (busy > 1)}" if busy else ""


def _share(row: dict[str, Any]) -> str:
    share = row["share_of_rate"]
    return UNDEFINED if share is None else f"{share:.0%} of {row['rate_precision']}"


def _milliseconds(seconds: float | None) -> str:
    return UNDEFINED if seconds is None else f"{1000 * seconds:.2f}"


def _megabytes(size: int | None) -> str:
    return UNDEFINED if size is None else f"{size / MEGABYTE:,.0f}"


def _by(size: Sequence[int]) -> str:
    return f"{size[0]} x {size[1]}"


def _versions(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def _listed(words: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(words))


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(_escaped(cell) for cell in cells)} |"


def _escaped(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


__all__ = ["Table", "about", "markdown", "tables"]

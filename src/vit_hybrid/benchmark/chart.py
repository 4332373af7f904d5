"""The chart of a benchmark: what a picture costs against the batch and against the image's size."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable
from textwrap import wrap
from typing import Any

from ..files import replacing
from ..outputs.figures import DOTS_PER_INCH, STYLE
from .report import Report

PANEL_INCHES = (5.6, 4.8)
LEGEND_INCHES = 2.6
# Times that are further apart than this are drawn on a logarithmic axis.
LARGEST_LINEAR_RANGE = 8.0
# Lines beyond matplotlib's ten colors get other dashes.
COLORS = 10
DASHES = ("-", "--", ":", "-.")
PEER_MARKER, OWN_MARKER = "s", "o"
PEER_COLOR, OWN_COLOR = "C7", "C0"
# Of a title, so that it is as wide as what it stands above.
CHARACTERS_AN_INCH = 9

Point = tuple[float, float]


def chart(report: Report, path: str | os.PathLike[str]) -> None:
    """Draws milliseconds a picture, minimum: against the batch for each image size, where there are several batches;
    against image size where there are several, at the smallest batch; of one size at one batch, a bar a contender.

    Raises:
        ImportError: matplotlib is not installed.
        OSError: The file cannot be written.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    sizes = [size["image_size"] for size in report["sizes"]]
    rows = [row for row in report["rows"] if "error" not in row]
    panels: list[tuple[str, str, bool, dict[str, list[Point]]]] = []
    for size in sizes if len(sizes) == 1 or len(report["settings"]["batch_sizes"]) > 1 else ():
        of_size = [row for row in rows if row["image_size"] == size]
        points = _series(of_size, lambda row: row["batch_size"])
        panels.append((f"{size[0]} x {size[1]} pixels", "batch size", True, points))
    if len(sizes) > 1:
        batch = min(report["settings"]["batch_sizes"])
        of_batch = [row for row in rows if row["batch_size"] == batch]
        points = _series(of_batch, lambda row: math.sqrt(row["image_size"][0] * row["image_size"][1]))
        panels.append((f"batch size {batch}", "side of the image in pixels", False, points))

    width, height = PANEL_INCHES
    figure = Figure(figsize=(width * len(panels) + LEGEND_INCHES, height), dpi=DOTS_PER_INCH, layout="constrained")
    FigureCanvasAgg(figure)
    styles = _styles(report)
    name = _drawable(f"{report['model']['name']} on {_device(report)}")
    with matplotlib.rc_context(STYLE):
        if len(sizes) == 1 and len({row["batch_size"] for row in rows}) == 1:
            [(title, _, _, series)] = panels
            axes = figure.subplots()
            _draw_bars(axes, series, styles)
            axes.set(title=f"{title}, batch size {rows[0]['batch_size']}", xlabel="milliseconds a picture")
            figure.suptitle("\n".join(wrap(name, int(CHARACTERS_AN_INCH * figure.get_figwidth()))))
        else:
            # The title is that of the panels, and ends where the legend's column begins.
            parts: Any = figure.subfigures(1, 2, width_ratios=(width * len(panels), LEGEND_INCHES))
            left, right = parts
            for axes, (title, label, by_batch, series) in zip(
                left.subplots(1, len(panels), squeeze=False)[0], panels, strict=True
            ):
                _draw(axes, series, styles, by_batch)
                axes.set(title=title, xlabel=label, ylabel="milliseconds a picture")
            lines = {line.get_label(): line for axes in left.axes for line in axes.get_lines()}
            ordered = [lines[name] for name in map(_drawable, styles) if name in lines]
            if ordered:
                right.legend(handles=ordered, loc="upper left", fontsize=8)
            left.suptitle("\n".join(wrap(name, int(CHARACTERS_AN_INCH * width * len(panels)))))
        with replacing(path) as unfinished:
            # Without the name of the software the same report has the same bytes under every matplotlib.
            figure.savefig(unfinished, format="png", dpi=DOTS_PER_INCH, metadata={"Software": None})


def _series(rows: Iterable[dict[str, Any]], place: Callable[[dict[str, Any]], float]) -> dict[str, list[Point]]:
    """By contender, the points of its line."""
    found: dict[str, list[Point]] = {}
    for row in rows:
        point = (float(place(row)), 1000 * row["min"] / row["batch_size"])
        found.setdefault(row["contender"], []).append(point)
    return {name: sorted(points) for name, points in found.items()}


def _styles(report: Report) -> dict[str, dict[str, Any]]:
    """How the line of each contender that has one is drawn, the same in all panels."""
    measured = {row["contender"] for row in report["rows"] if "error" not in row}
    peers = {one["name"]: one["is_peer"] for one in report["contenders"] if one["name"] in measured}
    return {
        name: {
            "color": f"C{number % COLORS}",
            "linestyle": DASHES[number // COLORS % len(DASHES)],
            "marker": PEER_MARKER if is_peer else OWN_MARKER,
        }
        for number, (name, is_peer) in enumerate(peers.items())
    }


def _draw(axes: Any, series: dict[str, list[Point]], styles: dict[str, dict[str, Any]], by_batch: bool) -> None:
    for name, points in series.items():
        x, y = zip(*points, strict=True)
        axes.plot(x, y, label=_drawable(name), linewidth=1.2, markersize=3.5, **styles[name])
    axes.grid(True, which="both", alpha=0.3)
    places = sorted({x for points in series.values() for x, _ in points})
    values = [y for points in series.values() for _, y in points]
    if not values:
        axes.text(0.5, 0.5, "nothing measured", ha="center", va="center", transform=axes.transAxes, color="0.5")
        return
    if by_batch:
        axes.set_xscale("log", base=2)
    axes.set_xticks(places, [f"{place:g}" if by_batch else f"{place:.0f}" for place in places])
    if max(values) > LARGEST_LINEAR_RANGE * min(values):
        axes.set_yscale("log")
        _label_logarithmic(axes)
    else:
        axes.set_ylim(bottom=0.0)
    axes.minorticks_off()


def _draw_bars(axes: Any, series: dict[str, list[Point]], styles: dict[str, dict[str, Any]]) -> None:
    """A bar for each contender, the first at the top, with what it is long."""
    names = list(series)
    values = [series[name][0][1] for name in names]
    colors = [OWN_COLOR if styles[name]["marker"] == OWN_MARKER else PEER_COLOR for name in names]
    bars = axes.barh([_drawable(name) for name in names], values, color=colors)
    axes.bar_label(bars, [f"{value:.3g}" for value in values], padding=3, fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.tick_params(axis="y", labelsize=8)
    axes.grid(True, axis="x", alpha=0.3)


def _label_logarithmic(axes: Any) -> None:
    """Plain numbers instead of powers of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator

    axes.yaxis.set_major_locator(LogLocator(base=10, subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _device(report: Report) -> str:
    machine = report["machine"]
    if machine["device"] != "cpu":
        return str(machine["device_name"] or machine["device"])
    return f"{machine['cpu']}, {report['settings']['threads']} threads"


def _drawable(text: str) -> str:
    """`text` in characters that every font has."""
    return text.encode("ascii", "backslashreplace").decode()


__all__ = ["chart"]

"""The PNGs that training and evaluation leave behind: curves, confusion matrix, contact sheet of pictures.

Drawn with matplotlib's objects on its Agg canvas: no window, no pyplot, and the same input gives the same bytes. A file
appears under its name only when it is whole.
"""

from __future__ import annotations

import math
import os
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
from PIL import Image

try:
    import matplotlib
    from matplotlib import font_manager
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, PercentFormatter
except ImportError as error:
    raise ImportError("figures need matplotlib: pip install 'vit-hybrid[evaluate]'") from error

from ..files import replacing

Item: TypeAlias = tuple[Image.Image, Sequence[str]]

DOTS_PER_INCH = 100
FONT = "DejaVu Sans"  # comes with matplotlib
# Draws a box for every character there is, which tells nobody anything; comes with matplotlib too.
LAST_RESORT = "Last Resort"
NORMAL_WEIGHTS = (400, "normal", "regular")
# Text is drawn as it stands: a "$" in a label starts no formula.
STYLE: dict[Any, Any] = {"text.usetex": False, "text.parse_math": False, "font.size": 9.0}

LONGEST_LABEL = 24  # in columns of a terminal, of which a Chinese character takes two
ELLIPSIS = "…"

# Up to how many classes the cells of a confusion matrix hold numbers, and all classes are named.
MOST_NUMBERED_CLASSES = 40
MOST_NAMED_CLASSES = 120
CELL_INCHES = 0.46
LARGEST_MATRIX_INCHES = 18.0
SMALLEST_MATRIX_INCHES = 2.5
MARGIN_INCHES = 2.6  # for the names of classes and the scale of colors
# Cells with a larger share are so dark that numbers on them are white.
DARK_SHARE = 0.55
COLORS = "Blues"

THUMBNAIL_PIXELS = 170
CAPTION_COLUMNS = 28
CAPTION_PIXELS = 13
GAP_PIXELS = 12
TITLE_PIXELS = 34
DEFAULT_COLUMNS = 6

# The scores that a training curve shows, the first of these that was logged, and what its axis says.
SCORE_NAMES = {
    "top1": "top-1 accuracy",
    "accuracy": "accuracy",
    "mean_average_precision": "mean average precision",
    "mae": "mean absolute error",
}
# What the same score is called in the log of training steps, where it has another name there.
TRAINING_SCORES = {"top1": "accuracy"}
EVALUATION_PREFIX = "eval_"
# What transformers logs of an evaluation besides its scores.
BOOKKEEPING = ("loss", "runtime", "samples_per_second", "steps_per_second", "jit_compilation_time", "model_preparation")


def training_curve(history: Iterable[Mapping[str, Any]], path: str | os.PathLike[str]) -> None:
    """Draws how training went: on the left the losses, on the right the validation score and the learning rate.

    Args:
        history: What transformers' `Trainer` logged (`trainer.state.log_history`): entries with `epoch` or `step` and
            some of `loss`, `accuracy`, `learning_rate`, `eval_loss` and a score such as `eval_top1`. Other keys and
            numbers that are not finite are passed over.
        path: The PNG to write.

    Raises:
        OSError: If the file cannot be written.
    """
    entries = list(history)
    by_epoch = any("epoch" in entry for entry in entries)
    unit = "epoch" if by_epoch else "step"
    score = _score_of(entries)

    figure, draw = _new_figure(10.0, 4.2), _Text()
    with matplotlib.rc_context(STYLE):
        losses, scores_axes = figure.subplots(1, 2)
        drawn = [
            _line(losses, _series(entries, unit, "loss"), "training", "C0"),
            _line(losses, _series(entries, unit, "eval_loss"), "validation", "C1", marker="o"),
        ]
        losses.set(xlabel=unit, ylabel="loss", title="Loss")
        _finish_axes(losses, drawn, "upper right")

        rates = scores_axes.twinx()
        name = SCORE_NAMES.get(score or "", score or "score")
        drawn = [
            _line(scores_axes, _series(entries, unit, TRAINING_SCORES.get(score or "", score)), "training", "C0"),
            _line(
                scores_axes, _series(entries, unit, EVALUATION_PREFIX + (score or "")), "validation", "C1", marker="o"
            ),
            _line(rates, _series(entries, unit, "learning_rate"), "learning rate", "0.6", linestyle="--"),
        ]
        scores_axes.set(xlabel=unit, ylabel=draw(name), title=draw(name[:1].upper() + name[1:]))
        scores_axes.set_zorder(rates.get_zorder() + 1)  # the score's line above the learning rate's
        scores_axes.patch.set_visible(False)
        rates.set_ylabel("learning rate")
        rates.set_ylim(bottom=0.0)
        _finish_axes(scores_axes, drawn, "lower right")
        _save(figure, path, draw)


def confusion_matrix(
    matrix: Sequence[Sequence[int]] | np.ndarray, labels: Sequence[str], path: str | os.PathLike[str]
) -> None:
    """Draws a confusion matrix: a row for each true class, colored by the share of its pictures.

    Up to 40 classes the cells hold how many pictures they stand for; above 120 only some classes are named.

    Args:
        matrix: (labels, labels) counts, a row for each true class and a column for each predicted one.
        labels: The names of the classes.
        path: The PNG to write.

    Raises:
        ValueError: If the matrix is not square or has another size than there are labels.
        OSError: If the file cannot be written.
    """
    counts = np.asarray(matrix)
    classes = len(labels)
    if counts.shape != (classes, classes) or not classes:
        raise ValueError(f"the matrix has shape {counts.shape} with {classes} labels; expected (labels, labels).")
    totals = counts.sum(axis=1, keepdims=True)
    shares = counts / np.maximum(totals, 1)

    side = min(max(classes * CELL_INCHES, SMALLEST_MATRIX_INCHES), LARGEST_MATRIX_INCHES)
    figure, draw = _new_figure(side + MARGIN_INCHES, side + MARGIN_INCHES - 0.8), _Text()
    with matplotlib.rc_context(STYLE):
        axes = figure.subplots()
        image = axes.imshow(shares, cmap=COLORS, vmin=0.0, vmax=1.0)
        every = math.ceil(classes / MOST_NAMED_CLASSES)
        named = range(0, classes, every)
        names = [shortened(draw(labels[index])) for index in named]
        size = min(9.0, max(4.0, 72 * side / len(named) * 0.75))  # points of which `side` inches hold 72 each
        axes.set_xticks(named, names, rotation=90, fontsize=size)
        axes.set_yticks(named, names, fontsize=size)
        axes.set(xlabel="predicted", ylabel="truth")
        if classes <= MOST_NUMBERED_CLASSES:
            for (row, column), count in np.ndenumerate(counts):
                if count:
                    color = "white" if shares[row, column] > DARK_SHARE else "black"
                    text = str(int(count)) if count < 10_000 else f"{count / 1000:.0f}k"
                    axes.text(column, row, text, ha="center", va="center", color=color, fontsize=8)
        bar = figure.colorbar(image, ax=axes, shrink=0.6, format=PercentFormatter(xmax=1.0, decimals=0))
        bar.set_label("share of the true class")
        _save(figure, path, draw)


def reliability_diagram(found: Mapping[str, Mapping[str, Any]], path: str | os.PathLike[str]) -> None:
    """Draws how often what is said is right against how probable it is called, and how many pictures are called so.

    Args:
        found: `assessment.Calibration` by a word that says which probabilities they are, such as before and after.
        path: The PNG to write.

    Raises:
        OSError: If the file cannot be written.
    """
    figure, draw = _new_figure(5.2, 6.4), _Text()
    with matplotlib.rc_context(STYLE):
        shares, counts = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
        shares.plot([0, 1], [0, 1], color="0.6", linestyle="--", linewidth=1.0, label="calibrated perfectly")
        for number, (name, one) in enumerate(found.items()):
            points = [(each["confidence"], each["accuracy"]) for each in one["bins"]]
            error = f"{draw(name)}: calibration error {one['calibration_error']:.1%}"
            _line(shares, points, error, f"C{number}", marker="o")
            pictures = [(each["confidence"], float(each["pictures"])) for each in one["bins"]]
            _line(counts, pictures, draw(name), f"C{number}", marker="o")
        shares.set(xlim=(0, 1), ylim=(0, 1), ylabel="share that is right", title="Reliability")
        shares.grid(True, alpha=0.3)
        shares.legend(loc="upper left", fontsize=8)
        counts.set(xlabel="probability of what is said", ylabel="how many")
        counts.set_ylim(bottom=0)
        counts.grid(True, alpha=0.3)
        _save(figure, path, draw)


def risk_coverage_curve(
    points: Sequence[tuple[float, float]],
    answers: Sequence[Mapping[str, Any]],
    path: str | os.PathLike[str],
) -> None:
    """Draws the accuracy among the pictures that are answered against their share, the surest first.

    Args:
        points: (share answered, accuracy among these), as `reliability.risk_coverage` gives them.
        answers: `reliability.Answers`, which are marked.
        path: The PNG to write.

    Raises:
        OSError: If the file cannot be written.
    """
    figure, draw = _new_figure(5.6, 4.2), _Text()
    with matplotlib.rc_context(STYLE):
        axes = figure.subplots()
        _line(axes, points, "accuracy", "C0")
        for number, one in enumerate((one for one in answers if one["share"] is not None), start=1):
            said = f"right {one['accuracy']:.0%} of the time: answer {one['share']:.0%}"
            _line(axes, [(one["share"], one["accuracy"])], said, f"C{number}", linestyle="none")
        axes.set(xlim=(0, 1.02), ylim=(0, 1.02), xlabel="share answered, the surest first", ylabel="accuracy of these")
        axes.set_title("Accuracy against share answered")
        axes.grid(True, alpha=0.3)
        axes.legend(loc="lower left", fontsize=8)
        _save(figure, path, draw)


def contact_sheet(
    items: Iterable[Item], path: str | os.PathLike[str], columns: int = DEFAULT_COLUMNS, title: str | None = None
) -> None:
    """Draws a grid of pictures with what is to be said of each below it.

    Args:
        items: Pictures and the lines of their captions; lines that are too long are shortened in the middle. A picture
            is drawn as large as fits 170 x 170 pixels.
        path: The PNG to write.
        columns: How many pictures stand side by side.
        title: A line above all; without it and without items, an empty sheet is drawn.

    Raises:
        ValueError: If `columns` is not positive.
        OSError: If the file cannot be written.
    """
    if columns < 1:
        raise ValueError(f"columns is {columns}; expected 1 or more.")
    shown = [(_thumbnail(picture), list(lines)) for picture, lines in items]
    columns = min(columns, max(len(shown), 2))  # of which two leave room for the title
    rows = math.ceil(len(shown) / columns)
    most_lines = max((len(lines) for _, lines in shown), default=0)

    cell_width = THUMBNAIL_PIXELS + GAP_PIXELS
    cell_height = THUMBNAIL_PIXELS + most_lines * CAPTION_PIXELS + GAP_PIXELS
    top = TITLE_PIXELS if title else GAP_PIXELS
    width, height = columns * cell_width + GAP_PIXELS, top + rows * cell_height + GAP_PIXELS
    figure = Figure(figsize=(width / DOTS_PER_INCH, height / DOTS_PER_INCH), dpi=DOTS_PER_INCH)
    FigureCanvasAgg(figure)
    draw = _Text()
    with matplotlib.rc_context(STYLE):
        if title:
            text = shortened(draw(title), columns * CAPTION_COLUMNS)
            figure.text(GAP_PIXELS / width, 1 - top / 2 / height, text, ha="left", va="center", fontsize=10)
        for position, (thumbnail, lines) in enumerate(shown):
            row, column = divmod(position, columns)
            left, upper = GAP_PIXELS + column * cell_width, top + row * cell_height
            x = left + (THUMBNAIL_PIXELS - thumbnail.width) // 2
            lower = upper + THUMBNAIL_PIXELS  # captions of a row stand in line
            figure.figimage(np.asarray(thumbnail), xo=x, yo=height - lower, origin="upper")
            text = "\n".join(shortened(draw(line), CAPTION_COLUMNS) for line in lines)
            figure.text(left / width, 1 - (lower + 4) / height, text, ha="left", va="top", fontsize=7, linespacing=1.2)
        _save(figure, path, draw)


def shortened(text: str, columns: int = LONGEST_LABEL) -> str:
    """`text`, no wider than `columns`: its middle is left out, for names differ at their ends."""
    if _columns(text) <= columns:
        return text
    room = columns - 1
    head = _prefix(text, room - room // 3)
    tail = _prefix(text[::-1], room - _columns(head))[::-1]
    return f"{head}{ELLIPSIS}{tail}"


def _columns(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


def _prefix(text: str, columns: int) -> str:
    end = 0
    while end < len(text) and _columns(text[: end + 1]) <= columns:
        end += 1
    return text[:end]


class _Text:
    """Makes texts drawable, and remembers which fonts they need."""

    def __init__(self) -> None:
        self.fonts = [FONT]

    def __call__(self, text: str) -> str:
        """`text` on one line, with what no font here can draw written as escapes, such as \\u732b."""
        drawable = ""
        for character in " ".join(text.split()):
            font = _font_with(character)
            if font is None:
                drawable += character.encode("unicode_escape").decode()
                continue
            drawable += character
            if font not in self.fonts:
                self.fonts.append(font)
        return drawable


@lru_cache(maxsize=4096)
def _font_with(character: str) -> str | None:
    """The first font of this machine that has `character`, matplotlib's own before others."""
    if not character.isprintable():
        return None
    return next((name for name in _families() if ord(character) in _characters_of(name)), None)


@lru_cache(maxsize=1)
def _families() -> dict[str, str]:
    """Fonts by name, and the file of their upright letters of normal weight."""
    found = {
        entry.name: entry.fname
        for entry in font_manager.fontManager.ttflist
        if entry.style == "normal" and entry.weight in NORMAL_WEIGHTS and not entry.name.startswith(LAST_RESORT)
    }
    return {name: found[name] for name in sorted(found, key=lambda name: (name != FONT, name))}


@lru_cache(maxsize=1024)
def _characters_of(family: str) -> frozenset[int]:
    try:
        return frozenset(font_manager.get_font(_families()[family]).get_charmap())
    except (OSError, RuntimeError, ValueError):  # a font file that is gone or damaged since matplotlib listed it
        return frozenset()


def _new_figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), dpi=DOTS_PER_INCH, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Figure, path: str | os.PathLike[str], draw: _Text) -> None:
    """Writes under another name first, so that nobody finds half a picture."""
    from matplotlib.text import Text

    # Only now is it known which fonts all texts need together; `findobj` gives those of axes too.
    for text in figure.findobj(Text):
        text.set_fontfamily(draw.fonts)
    with replacing(path) as unfinished:
        # Without the name of the software the same picture has the same bytes under every matplotlib.
        figure.savefig(unfinished, format="png", dpi=DOTS_PER_INCH, metadata={"Software": None})


def _score_of(entries: Sequence[Mapping[str, Any]]) -> str | None:
    """The score that a log is about, without its prefix."""
    logged = [key for entry in entries for key in entry if key.startswith(EVALUATION_PREFIX)]
    found = dict.fromkeys(key.removeprefix(EVALUATION_PREFIX) for key in logged)
    scores = [name for name in found if not name.startswith(BOOKKEEPING)]
    return next((name for name in SCORE_NAMES if name in scores), scores[0] if scores else None)


def _series(entries: Sequence[Mapping[str, Any]], unit: str, key: str | None) -> list[tuple[float, float]]:
    points = [(entry.get(unit), entry.get(key)) for entry in entries if key]
    return [(float(x), float(y)) for x, y in points if _is_finite(x) and _is_finite(y)]  # type: ignore[arg-type]


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _line(axes: Any, points: Sequence[tuple[float, float]], label: str, color: str, **style: Any) -> Any:
    """The line through the points, if there are any."""
    if not points:
        return None
    if len(points) == 1:  # of which a line shows nothing
        style.setdefault("marker", "o")
    x, y = zip(*points, strict=True)
    [line] = axes.plot(x, y, label=label, color=color, linewidth=1.2, markersize=3.5, **style)
    return line


def _finish_axes(axes: Any, lines: Sequence[Any], place: str) -> None:
    axes.grid(True, alpha=0.3)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
    drawn = [line for line in lines if line is not None]
    if drawn:
        axes.legend(handles=drawn, loc=place, fontsize=8)  # the best place is slow to find among many points
    else:
        axes.text(0.5, 0.5, "nothing logged", ha="center", va="center", transform=axes.transAxes, color="0.5")


def _thumbnail(picture: Image.Image) -> Image.Image:
    picture = picture.convert("RGB")
    scale = THUMBNAIL_PIXELS / max(picture.size)
    size = tuple(max(1, round(side * scale)) for side in picture.size)
    # The pixels of an enlarged picture stay the squares that they are.
    resample = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
    return picture.resize((size[0], size[1]), resample)


__all__ = [
    "Item",
    "confusion_matrix",
    "contact_sheet",
    "reliability_diagram",
    "risk_coverage_curve",
    "shortened",
    "training_curve",
]

"""Explanations in one HTML file that needs nothing else: pictures under their maps, sliders over layers and heads.

Maps are in it as numbers, a byte a place, and so are the attention maps of all layers and heads; the page stretches and
colors them as `drawing` does.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from html import escape
from string import Template
from typing import Any, TextIO

import numpy as np
from PIL import Image

from ..errors import escaped
from ..outputs.pages import beginning, ending
from .attention import Array
from .drawing import OPACITY, UNSEEN, fitting, palette, scaled
from .explanation import Explanation, told

# Of a picture's longer side, in pixels.
PICTURE_SIZE = 512
JPEG_QUALITY = 85

SCRIPT = Template("""
"use strict";
const PALETTE = $palette, OPACITY = $opacity, UNSEEN = $unseen;
const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));

// Where each of so many pixels lies among cells from start to stop: the cell before it, and its share of the next.
const places = (length, start, stop, cells) => Array.from({length}, (_, pixel) => {
  if (pixel + 0.5 < start || pixel + 0.5 > stop) return null;
  const place = Math.min(Math.max((pixel + 0.5 - start) / (stop - start) * cells - 0.5, 0), cells - 1);
  const before = Math.min(Math.floor(place), Math.max(cells - 2, 0));
  return [before, Math.min(before + 1, cells - 1), place - before];
});

for (const section of document.querySelectorAll("section")) {
  const data = JSON.parse(section.querySelector("script").textContent);
  const canvas = section.querySelector("canvas"), pencil = canvas.getContext("2d");
  const [layer, head, strength] = section.querySelectorAll("input");
  const heads = bytes(data.heads.values), [, count, rows, columns] = data.heads.shape;
  let shown = null;

  const draw = () => {
    const {values, shape: [high, wide]} = shown, [left, top, right, bottom] = data.seen;
    const across = places(canvas.width, left, right, wide), down = places(canvas.height, top, bottom, high);
    const image = pencil.createImageData(canvas.width, canvas.height);
    let pixel = 0;
    for (const row of down) {
      for (const column of across) {
        if (row && column) {
          const [y0, y1, y] = row, [x0, x1, x] = column;
          const upper = values[y0 * wide + x0] * (1 - x) + values[y0 * wide + x1] * x;
          const lower = values[y1 * wide + x0] * (1 - x) + values[y1 * wide + x1] * x;
          const level = Math.round(upper * (1 - y) + lower * y), color = PALETTE[level];
          image.data[pixel] = color[0];
          image.data[pixel + 1] = color[1];
          image.data[pixel + 2] = color[2];
          image.data[pixel + 3] = level * OPACITY * strength.value / 100;
        } else {
          image.data[pixel + 3] = 255 * UNSEEN;
        }
        pixel += 4;
      }
    }
    pencil.putImageData(image, 0, 0);
    section.querySelector("output").textContent = shown.name;
    canvas.setAttribute("aria-label", shown.name);
    for (const button of section.querySelectorAll("button")) {
      button.setAttribute("aria-pressed", String(data.maps[button.value] === shown));
    }
  };
  const attend = () => {
    const start = ((layer.value - 1) * count + Number(head.value)) * rows * columns;
    const whose = head.value === "0" ? "all heads" : `head $${head.value}`;
    const name = `attention, layer $${layer.value}, $${whose}`;
    shown = {name, values: heads.subarray(start, start + rows * columns), shape: [rows, columns]};
    draw();
  };
  for (const one of data.maps) one.values = bytes(one.values);
  for (const button of section.querySelectorAll("button")) {
    button.addEventListener("click", () => { shown = data.maps[button.value]; draw(); });
  }
  for (const slider of [layer, head]) slider.addEventListener("input", attend);
  strength.addEventListener("input", draw);
  shown = data.maps[0];
  draw();
}
""")

STYLE = """.row { display: flex; flex-wrap: wrap; gap: 1.5rem; align-items: flex-start; }
.stack { position: relative; max-width: 100%; }
.stack > * { display: block; max-width: 100%; height: auto; }
canvas { position: absolute; inset: 0; width: 100%; }
td { padding: 0.1rem 1rem 0.1rem 0; overflow-wrap: anywhere; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
button { font: inherit; }
button[aria-pressed=true] { font-weight: bold; }
label { display: grid; grid-template-columns: 5rem 12rem; gap: 0.5rem; align-items: center; }
output { display: block; margin: 0.5rem 0; color: var(--faint); overflow-wrap: anywhere; }
"""
WITHOUT_SCRIPT = "<noscript>This page draws its maps with a script of its own, which is switched off here.</noscript>\n"
SECTION = Template("""<section>
<h2>$path</h2>
<div class="row">
<div class="stack"><img alt="$path" src="data:image/jpeg;base64,$picture" width="$width" height="$height">
<canvas role="img" aria-label="$first" width="$width" height="$height"></canvas></div>
<div>
<table>
$labels</table>
<p>$others</p>
<label>Layer <input type="range" min="1" max="$layers" value="$layers"></label>
<label>Head <input type="range" min="0" max="$heads" value="0"></label>
<label>Strength <input type="range" min="0" max="100" value="100"></label>
<output>$first</output>
</div>
</div>
<script type="application/json">$data</script>
</section>
""")


class Page:
    """An HTML page that grows by a section a picture.

    Args:
        file: Where it is written.
        title: What it is called.
    """

    def __init__(self, file: TextIO, title: str) -> None:
        self._file = file
        self._script = SCRIPT.substitute(palette=palette().tolist(), opacity=OPACITY, unseen=UNSEEN)
        file.write(beginning(title, STYLE, self._script) + WITHOUT_SCRIPT)

    def add(self, path: str, explanations: Sequence[Explanation], heads: Array) -> None:
        """A picture with its maps.

        Args:
            path: What it is called.
            explanations: Its maps, one or more; the first is shown first.
            heads: What the class token looks at, (layers, heads, rows, columns).
        """
        picture = explanations[0].picture
        size = fitting(picture.size, PICTURE_SIZE)
        file = io.BytesIO()
        picture.resize(size, Image.Resampling.LANCZOS).save(file, "JPEG", quality=JPEG_QUALITY)
        names = [f"{one.method}: {one.label}" if one.label is not None else one.method for one in explanations]
        with_mean = np.concatenate([heads.mean(axis=1, keepdims=True), heads], axis=1)
        levels = np.stack([[scaled(one) for one in layer] for layer in with_mean])
        across = size[0] / picture.width
        data = {
            "seen": [side * across for side in explanations[0].view.corners()],
            "maps": [
                {"name": name, "shape": one.map.shape, "values": _bytes(scaled(one.map))}
                for name, one in zip(names, explanations, strict=True)
            ],
            "heads": {"shape": levels.shape, "values": _bytes(levels)},
        }
        self._file.write(
            SECTION.substitute(
                path=escape(escaped(path)),
                picture=base64.b64encode(file.getvalue()).decode(),
                width=size[0],
                height=size[1],
                labels="".join(_row(one, explanations) for one in told(explanations)),
                others=_button(0, names[0]) if explanations[0].label is None else "",
                layers=heads.shape[0],
                heads=heads.shape[1],
                first=escape(escaped(names[0])),
                # Within a script element nothing but its end is read as HTML.
                data=json.dumps(data).replace("<", "\\u003c"),
            )
        )

    def close(self) -> None:
        """Ends the page; the file stays open."""
        self._file.write(ending(self._script))


def _row(prediction: dict[str, Any], explanations: Sequence[Explanation]) -> str:
    """A label and what the model says of it; a button where there is a map of it."""
    label = prediction["label"]
    places = [place for place, one in enumerate(explanations) if one.label == label]
    shown = _button(places[0], label) if places else escape(escaped(label))
    number = f"{prediction['probability']:.2%}" if "probability" in prediction else f"{prediction['value']:.4g}"
    return f'<tr><td>{shown}</td><td class="number">{number}</td></tr>\n'


def _button(place: int, text: str) -> str:
    return f'<button type="button" value="{place}" aria-pressed="false">{escape(escaped(text))}</button>'


def _bytes(levels: Array) -> str:
    return base64.b64encode((levels * 255).round().astype(np.uint8).tobytes()).decode()


__all__ = ["Page"]

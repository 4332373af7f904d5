"""Draws what the model looked at in a photo, for its two likeliest labels.

python examples/explain.py PHOTO [--method relevance] [--output .]
"""

from __future__ import annotations

import argparse
from pathlib import Path

from vit_hybrid.explain import METHODS, Explainer, overlay_png


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photo")
    parser.add_argument("--method", choices=sorted(METHODS), default="relevance")
    parser.add_argument("--output", type=Path, default=Path(), help="the folder for the pictures")
    arguments = parser.parse_args()

    explainer = Explainer.from_pretrained("vit-hybrid-tiny-imagenet")
    [first] = explainer.explain(arguments.photo, method=arguments.method)
    labels = [prediction["label"] for prediction in first.predictions[:2]]
    found = [first] if first.label is None else explainer.explain(arguments.photo, arguments.method, labels)
    for number, explanation in enumerate(found, start=1):
        path = arguments.output / f"{Path(arguments.photo).stem}-{arguments.method}-{number}.png"
        path.write_bytes(overlay_png(explanation))
        print(path, explanation.label or "all labels alike")


if __name__ == "__main__":
    main()

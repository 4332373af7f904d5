"""Says what is in a photo, five lines of Python.

python examples/classify.py PHOTO [--model NAME] [--top-k 5]
"""

from __future__ import annotations

import argparse

from vit_hybrid import Predictor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photo")
    parser.add_argument("--model", default="vit-hybrid-tiny-imagenet", help="a folder, a hub id or a file of weights")
    parser.add_argument("--top-k", type=int, default=5)
    arguments = parser.parse_args()

    predictor = Predictor.from_pretrained(arguments.model)
    for prediction in predictor(arguments.photo, top_k=arguments.top_k):
        print(f"{prediction['label']:<24} {prediction['probability']:6.1%}")


if __name__ == "__main__":
    main()

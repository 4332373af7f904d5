"""Fine-tunes the model in the package on a folder of pictures, and says how good it has become.

    python examples/fine_tune.py PICTURES --output my-model [--epochs 20]

PICTURES holds a folder for each label, with or without train/ and val/ around them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from vit_hybrid import Predictor
from vit_hybrid.train import Run, load_recipe, train


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", help="a folder of class folders")
    parser.add_argument("--output", type=Path, required=True, help="the folder for the model")
    parser.add_argument("--epochs", type=float, default=20, help="how often to see every picture")
    parser.add_argument("--max-steps", type=int, help="stop after so many steps")
    arguments = parser.parse_args()

    changes = {"epochs": arguments.epochs, "max_steps": arguments.max_steps}
    recipe = load_recipe("adamw", {name: value for name, value in changes.items() if value is not None})
    outcome = train(Run(data=arguments.pictures, output=arguments.output, recipe=recipe, report=print))
    print(f"top-1 on the pictures held out: {outcome.score:.1%}")

    model = Predictor.from_pretrained(arguments.output)
    print(f"it tells apart: {', '.join(model.labels)}")


if __name__ == "__main__":
    main()

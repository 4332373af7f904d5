"""Record what the image processor of transformers 4.49 computes, for tests/images/test_image_processing.py.

    python -m venv legacy
    legacy/bin/pip install transformers==4.49.0 torch==2.13.0 pillow numpy
    legacy/bin/python scripts/record_legacy_image_processor.py

Writes ``tests/recorded/legacy/image_processor.npz``: one array per image of each case in ``tests/legacy_pictures.py``,
named ``case/position``. Pillow must be the version of constraints.txt: its filters change a level now and then.
"""

import sys
from pathlib import Path

import numpy as np
import PIL
import transformers

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import legacy_pictures  # noqa: E402  (found through the line above)

LEGACY_VERSION = "4.49.0"


def main() -> None:
    if transformers.__version__ != LEGACY_VERSION:
        sys.exit(f"this records transformers {LEGACY_VERSION}, but {transformers.__version__} is installed here")
    processor = transformers.ViTHybridImageProcessor()
    outputs = {}
    for name, case in legacy_pictures.CASES.items():
        for index, result in enumerate(processor(case.images, **case.arguments)["pixel_values"]):
            outputs[f"{name}/{index}"] = np.ascontiguousarray(legacy_pictures.sampled(result, case))
    legacy_pictures.RECORDED.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(legacy_pictures.RECORDED, **outputs)
    size = legacy_pictures.RECORDED.stat().st_size
    print(
        f"{legacy_pictures.RECORDED}: {len(outputs)} arrays of {len(legacy_pictures.CASES)} cases, {size // 1000} kB, "
        f"with Pillow {PIL.__version__}"
    )


if __name__ == "__main__":
    main()

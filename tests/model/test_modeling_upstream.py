"""transformers' own test mixins on these classes, where a source checkout of transformers is at hand.

A release's archive is not enough: its `tests` folder lacks what the mixins import.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import transformers

SOURCE = "VIT_HYBRID_TRANSFORMERS_SOURCE"
MIXINS = Path(__file__).with_name("upstream_modeling.py")
NEEDED = (
    *("tests/test_modeling_common.py", "tests/test_backbone_common.py"),
    *("tests/exporters/test_export.py", "tests/utils/test_configuration_utils.py"),
)


@pytest.fixture
def checkout() -> Path:
    """A transformers source checkout with its tests, at the version that is installed."""
    if SOURCE not in os.environ:
        pytest.skip(f"{SOURCE} names no transformers source checkout")
    root = Path(os.environ[SOURCE]).resolve()
    missing = [name for name in NEEDED if not (root / name).is_file()]
    if missing:
        pytest.skip(f"{root} has no {', '.join(missing)}")
    found = re.search(r'^__version__ = "(.+)"', (root / "src/transformers/__init__.py").read_text(), re.MULTILINE)
    if found is None or found[1] != transformers.__version__:
        pytest.skip(f"{root} is not transformers {transformers.__version__}, whose tests would be needed")
    return root


def test_the_mixins_of_transformers_pass(checkout):
    # A process of its own: this project's strict pytest settings do not know upstream's markers and warnings.
    options = ["-c", os.devnull, "--noconftest", "-p", "no:cacheprovider", "-q", "--tb=short"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, MIXINS],
        cwd=checkout,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(checkout), *sys.path])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr
    assert re.search(r"\b\d\d+ passed", done.stdout), done.stdout[-2_000:]

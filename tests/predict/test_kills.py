"""A run that is killed at any moment goes on to the same bytes."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("pyarrow", reason="rows in parquet need pyarrow")

SCRIPT = Path(__file__).parents[1] / "killed_run.py"
PARTS = 3


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(3 * PARTS):
        levels = np.random.default_rng(number).integers(0, 255, (9, 9, 3), np.uint8)
        Image.fromarray(levels).save(folder / f"{number}.png")
    return folder


def run(moment: int, model: Path, source: Path, out: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), str(moment), str(model), str(source), str(out)]
    environment = {"PATH": "", "PYTHONPATH": ":".join(filter(None, sys.path))}
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def content(out: Path) -> dict[str, bytes]:
    if out.is_dir():
        return {path.name: path.read_bytes() for path in out.glob("part-*")}
    return {out.name: out.read_bytes()}


def written(out: Path) -> dict[str, tuple[int, int]]:
    """The parts that are there, and which file each is: one that is written again is another."""
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in out.glob("part-*")}


@pytest.mark.parametrize("ending", [".parquet", ".csv"])
def test_killed_at_several_moments(tiny_folder: Path, pictures: Path, tmp_path: Path, ending: str) -> None:
    whole = run(-1, tiny_folder, pictures, tmp_path / f"whole{ending}")
    assert whole.returncode == 0, whole.stderr
    moments = int(whole.stdout)
    # Spread over the run, so that each kind of moment is among them.
    chosen = np.random.default_rng(sum(ending.encode())).choice(moments, 4, replace=False)
    for moment in sorted(int(one) for one in chosen):
        out = tmp_path / f"{moment}{ending}"
        assert run(moment, tiny_folder, pictures, out).returncode == -signal.SIGKILL
        before = written(out)
        again = run(-1, tiny_folder, pictures, out)
        assert again.returncode == 0, again.stderr
        assert list(content(out).values()) == list(content(tmp_path / f"whole{ending}").values()), moment
        if ending == ".parquet":
            changed = {name for name, file in before.items() if written(out)[name] != file}
            assert len(changed) <= 1, moment
        assert not [*tmp_path.rglob("*.partial"), *tmp_path.glob("*.parts")]

"""The notebook of the examples: it runs on a small sample, and what is stored in it is a whole run.

`python tests/test_notebook.py` runs it as it is, and stores what comes out.
"""

from __future__ import annotations

import base64
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

nbformat = pytest.importorskip("nbformat", reason="needs nbclient and ipykernel: pip install 'vit-hybrid[test]'")
nbclient = pytest.importorskip("nbclient", reason="needs nbclient: pip install 'vit-hybrid[test]'")
pytest.importorskip("ipykernel", reason="needs ipykernel: pip install 'vit-hybrid[test]'")

NOTEBOOK = Path(__file__).parents[1] / "examples" / "fine_tune.ipynb"
DATA_SET = "tinyphotos10"
# Per class, of the sample.
TRAINING_PICTURES, VALIDATION_PICTURES = 4, 2
STEPS = 2
SECONDS_FOR_A_CELL = 120
LARGEST_BYTES = 1_500_000
GOAL = 0.70  # top-1 that fine-tuning on these ten classes is held to


@pytest.fixture
def notebook() -> Any:
    return nbformat.read(NOTEBOOK, as_version=4)


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def printed(notebook: Any) -> str:
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    return "".join(output.text for output in outputs if output.output_type == "stream")


def pictures(notebook: Any) -> list[bytes]:
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    return [base64.b64decode(output.data["image/png"]) for output in outputs if "image/png" in output.get("data", {})]


def shares_after(word: str, text: str) -> list[float]:
    return [float(share) / 100 for share in re.findall(rf"{word}:? (\d+\.\d)%", text)]


def run(notebook: Any, seconds: int | None = None) -> None:
    """Runs the notebook where it lies, each cell in at most so many seconds.

    What libraries say on standard error is left out: it is about the machine.
    """
    resources = {"metadata": {"path": str(NOTEBOOK.parent)}}
    nbclient.NotebookClient(notebook, timeout=seconds, record_timing=False, resources=resources).execute()
    for cell in code_cells(notebook):
        cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]


def sample(source: Path, target: Path) -> None:
    """The first few pictures of each class of both splits."""
    for split, number in (("train", TRAINING_PICTURES), ("val", VALIDATION_PICTURES)):
        for folder in sorted((source / split).iterdir()):
            place = target / split / folder.name
            place.mkdir(parents=True)
            for picture in sorted(folder.iterdir())[:number]:
                shutil.copy(picture, place)


def test_runs_on_a_small_sample(notebook: Any, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not (data_dir / DATA_SET).is_dir():
        pytest.skip(f"no {DATA_SET} in {data_dir}")
    sample(data_dir / DATA_SET, tmp_path / DATA_SET)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("VIT_HYBRID_DATA", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(temporary))
    [parameters] = [index for index, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", ())]
    changes = {"max_steps": STEPS, "batch_size": 10, "workers": 0, "image_size": 64}
    notebook.cells.insert(parameters + 1, nbformat.v4.new_code_cell(f"CHANGES = {changes}"))

    run(notebook, SECONDS_FOR_A_CELL)

    text = printed(notebook)
    assert (
        f"{10 * TRAINING_PICTURES} pictures of 10 classes to train on, {10 * VALIDATION_PICTURES} to validate with"
        in text
    )
    assert len(shares_after("top-1", text)) == 1
    assert all(0 <= share <= 1 for share in shares_after("top-1", text) + shares_after("pictures of each class", text))
    assert len(pictures(notebook)) == 4
    [output] = temporary.glob("*/model")
    assert (output / "model.safetensors").is_file()


def test_is_stored_as_it_ran_from_top_to_bottom(notebook: Any) -> None:
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]
    assert NOTEBOOK.stat().st_size < LARGEST_BYTES
    assert len(pictures(notebook)) == 4
    assert not re.search(r"(?<![\w.])/(?:tmp|home|root|usr|work|Users)\b", printed(notebook)), "a path of one machine"


def test_stored_result_reaches_the_goal_and_beats_the_probe(notebook: Any) -> None:
    text = printed(notebook)
    [fine_tuned] = shares_after("top-1", text)
    probes = shares_after("pictures of each class", text)
    assert fine_tuned >= GOAL
    assert fine_tuned > max(probes)


if __name__ == "__main__":
    stored = nbformat.read(NOTEBOOK, as_version=4)
    run(stored)
    nbformat.write(stored, NOTEBOOK)

"""What the README says is so."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from vit_hybrid.cli.main import app

REPOSITORY = Path(__file__).parents[1]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
MAX_LINES = 150
MAX_EXAMPLE_LINES = 10


def blocks(language: str, page: str = README) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)


def test_is_short() -> None:
    assert len(README.splitlines()) <= MAX_LINES


def test_the_example_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    [example] = blocks("python")
    assert len([line for line in example.splitlines() if line]) <= MAX_EXAMPLE_LINES
    monkeypatch.chdir(REPOSITORY)
    exec(example, {})
    first, second = capsys.readouterr().out.splitlines()
    assert re.match(r"\[\{'label': '[\w ]*cat', 'probability': ", first)
    assert second.endswith("cat")


def commands() -> list[str]:
    """Those of the README, then those of the pages beside it."""
    pages = [README, *(page.read_text(encoding="utf-8") for page in sorted((REPOSITORY / "docs").glob("*.md")))]
    found = [block for page in pages for block in blocks("sh", page)]
    lines = [line for block in found for line in block.splitlines() if line.startswith("vit-hybrid")]
    # A server ends when it is told to: tests/serve/test_guide.py is about its page.
    lines = [line for line in lines if not line.startswith("vit-hybrid serve") and " --server " not in line]
    return [*dict.fromkeys(line.partition("#")[0].strip() for line in lines)]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the README's reader has it: the repository's files, and pictures/ with a folder for each label."""
    folder = tmp_path_factory.mktemp("reader")
    for name in ("examples", "src"):
        (folder / name).symlink_to(REPOSITORY / name)
    with Image.open(REPOSITORY / "examples" / "cat.jpg") as photo:
        for label, box in {"faces": (180, 30, 450, 300), "fur": (0, 0, 120, 120)}.items():
            (folder / "pictures" / label).mkdir(parents=True)
            for shift in range(24):  # as many as calibration takes
                picture = photo.crop(tuple(side + shift for side in box))
                picture.resize((64, 64)).save(folder / "pictures" / label / f"{shift}.png")
    return folder


@pytest.mark.parametrize("command", commands())
def test_the_commands_run(command: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    command, _, source = command.partition("<")
    given = Path(source.strip()).read_bytes() if source else None
    if "my-model" in command and " train " not in command and not Path("my-model").exists():
        training = next(other for other in commands() if " train " in other)
        trained = CliRunner().invoke(app, shlex.split(training)[1:])
        assert trained.exit_code == 0, trained.output
    for made in re.findall(r"--model (my-bundle|my-program|tiny-\w+)", command):
        if not Path(made).exists():
            exporting = next(other for other in commands() if f" export vit-hybrid-tiny-imagenet {made}" in other)
            CliRunner().invoke(app, shlex.split(exporting)[1:])
    if " search vectors.parquet" in command and not Path("vectors.parquet").exists():
        embedding = next(other for other in commands() if " --output vectors.parquet" in other)
        CliRunner().invoke(app, shlex.split(embedding)[1:])
    result = CliRunner().invoke(app, shlex.split(command)[1:], input=given)
    assert result.exit_code == 0, result.output
    assert (result.stdout + result.stderr).strip()


# Their lines ask a server that runs, or go on from what a person has: tests of their own are about these.
WITH_TESTS_OF_THEIR_OWN = {"serving", "speed"}

# What people may read our files with, and no extra installs.
OTHERS = ("duckdb", "lancedb")


@pytest.mark.parametrize(
    "name", sorted({page.stem for page in (REPOSITORY / "docs").glob("*.md")} - WITH_TESTS_OF_THEIR_OWN)
)
def test_the_pages_examples_run(name: str, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page's lines of Python, one block after another, as a person copies them."""
    page = (REPOSITORY / "docs" / f"{name}.md").read_text(encoding="utf-8")
    for had in ("examples", "pictures", "src"):  # the rest is the page's own to write
        (tmp_path / had).symlink_to(place / had)
    if "report/" in page:
        evaluating = next(other for other in commands() if " --output report" in other)
        test_the_commands_run(evaluating, place, monkeypatch)
        (tmp_path / "report").symlink_to(place / "report")
    monkeypatch.chdir(tmp_path)
    said: dict[str, object] = {}
    for block in blocks("python", page):
        for other in re.findall(rf"^import ({'|'.join(OTHERS)})$", block, re.MULTILINE):
            pytest.importorskip(other)
        exec(compile(block, f"{name}.md", "exec"), said)


def test_there_are_commands_for_each_task() -> None:
    assert {command.split()[1] for command in commands()} >= {
        "classify",
        "info",
        "train",
        "evaluate",
        "probe",
        "predict",
        "embed",
        "search",
    }


def test_the_tree_names_what_is_there_and_all_of_the_package() -> None:
    layout = (REPOSITORY / "docs" / "layout.md").read_text()
    [tree] = [block for block in blocks("", layout) if block.startswith("src/vit_hybrid/")]
    names = [(len(line) - len(line.lstrip()), line.split()[0]) for line in tree.splitlines()]
    folders = {REPOSITORY / name for indent, name in names if indent == 0}
    package = {REPOSITORY / "src" / "vit_hybrid" / name for indent, name in names if indent}
    assert all(path.exists() for path in folders | package)
    modules = {path for path in (REPOSITORY / "src" / "vit_hybrid").glob("*.py") if not path.name.startswith("__")}
    assert {path for path in package if path.suffix == ".py"} == modules

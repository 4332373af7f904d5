"""What the README says is so."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from vit_hybrid.cli.main import app

REPOSITORY = Path(__file__).parents[1]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
MAX_LINES = 150
MAX_EXAMPLE_LINES = 10


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def test_is_short() -> None:
    assert len(README.splitlines()) <= MAX_LINES


def test_the_example_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    [example] = blocks("python")
    assert len([line for line in example.splitlines() if line]) <= MAX_EXAMPLE_LINES
    monkeypatch.chdir(REPOSITORY)
    exec(example, {})
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("[{'label': 'cat', 'probability': ")
    assert second == "cat"


def commands() -> list[str]:
    lines = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("vit-hybrid")]
    return [line.partition("#")[0].strip() for line in lines]


@pytest.mark.parametrize("command", commands())
def test_the_commands_run(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    command, _, source = command.partition("<")
    given = Path(source.strip()).read_bytes() if source else None
    result = CliRunner().invoke(app, shlex.split(command)[1:], input=given)
    assert result.exit_code == 0, result.output
    assert result.stdout.strip()


def test_there_are_commands_for_each_task() -> None:
    assert {command.split()[1] for command in commands()} >= {"classify", "info"}


def test_the_tree_names_what_is_there_and_all_of_the_package() -> None:
    [tree] = [block for block in blocks("") if block.startswith("src/vit_hybrid/")]
    names = [(len(line) - len(line.lstrip()), line.split()[0]) for line in tree.splitlines()]
    folders = {REPOSITORY / name for indent, name in names if indent == 0}
    package = {REPOSITORY / "src" / "vit_hybrid" / name for indent, name in names if indent}
    assert all(path.exists() for path in folders | package)
    modules = {path for path in (REPOSITORY / "src" / "vit_hybrid").glob("*.py") if not path.name.startswith("__")}
    assert {path for path in package if path.suffix == ".py"} == modules

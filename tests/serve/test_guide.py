"""What docs/serving.md says to type is what works, and its options and limits are those there are."""

from __future__ import annotations

import re
import shlex
import subprocess
from dataclasses import fields
from pathlib import Path

import pytest
from serving import fake
from typer.testing import CliRunner

from vit_hybrid.cli.main import app
from vit_hybrid.cli.options import ConfidenceOptions
from vit_hybrid.cli.serve import ServedOptions, ServerOptions
from vit_hybrid.serve.settings import Settings

pytest.importorskip("fastapi", reason="needs the extra serve")
pytest.importorskip("uvloop", reason="needs the extra serve")

REPOSITORY = Path(__file__).parents[2]
PAGE = (REPOSITORY / "docs" / "serving.md").read_text()


def blocks(language: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return [text for kind, text in found if kind == language]


def test_its_requests_are_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(REPOSITORY)
    with fake() as server:
        here = f"http://127.0.0.1:{server.port}"
        lines = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("curl ")]
        assert lines
        for line in lines:
            command = ["curl", "-sS", "--fail", *shlex.split(line.replace("http://127.0.0.1:8000", here))[1:]]
            place = command.index("-o") + 1 if "-o" in command else None
            if place is not None:
                command[place] = str(tmp_path / command[place])
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            assert place is not None or '"predictions": [' in done.stdout
        assert [path.name for path in tmp_path.iterdir()] == ["cat-explained.png"]
        lines = [line for block in blocks("sh") for line in block.splitlines() if " --server " in line]
        assert lines
        for line in lines:
            answer = CliRunner().invoke(app, shlex.split(line.replace("http://127.0.0.1:8000", here))[1:])
            assert answer.exit_code == 0, answer.output
            assert "probability" in answer.stdout
        [program] = blocks("python")
        exec(program.replace("http://127.0.0.1:8000", here), {})
        assert capsys.readouterr().out.strip() in ("red", "green", "blue")


def test_its_keys_are_a_file_that_can_be_read(tmp_path: Path) -> None:
    from vit_hybrid.serve.keys import opened_keys

    [block] = [block for block in blocks("") if "quota=" in block]
    (tmp_path / "keys").write_text(block)
    keys = opened_keys(str(tmp_path / "keys"), None)
    assert keys is not None
    found = keys.find(b"CyKvPpgzHw4nE2rNq7dN")
    assert found is not None
    assert (found.name, found.quota) == ("ann", 600)


def test_its_numbers_are_those_of_the_settings() -> None:
    assert f"`--drain-delay` seconds ({Settings.drain_delay:g})" in PAGE
    assert f"`--grace` seconds ({Settings.grace:g})" in PAGE
    assert f"With the defaults here that is {Settings.drain_delay + Settings.grace + 5:g}" in PAGE
    # curl's, classify's and podman's
    own = {*"--data-binary --json --server --model --format --rm --build-arg".split()}
    named = {name.removeprefix("--").replace("-", "_") for name in {*re.findall(r"--[a-z][a-z-]+", PAGE)} - own}
    groups = (ServerOptions, ServedOptions, ConfidenceOptions)
    assert named - {"help", "cors_origin", "max_batch"} <= {field.name for group in groups for field in fields(group)}

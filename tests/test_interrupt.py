"""Ctrl-C before the command has been loaded ends it without a word, and changes nothing in other programs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import fresh_process
import pytest
from typer import Exit

from vit_hybrid.cli.session import ending_quietly
from vit_hybrid.interrupt import is_command, leave_at_once

# Presses Ctrl-C as soon as a module is looked for.
PRESSING = """
    import os, signal, sys

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it

    class Pressing:
        def find_spec(self, name, path=None, target=None):
            if name == {module!r}:
                os.kill(os.getpid(), signal.SIGINT)

    sys.meta_path.insert(0, Pressing())
"""
MODULES = ["__future__", "vit_hybrid.first_use", "vit_hybrid.registration", "typer", "vit_hybrid.cli.session"]
MODULES += ["rich.console"]


def ended(command: list[str], **environment: str) -> tuple[int, str, str]:
    done = subprocess.run(
        command,
        env=fresh_process.environment(**environment),
        capture_output=True,
        text=True,
        timeout=fresh_process.TIME_LIMIT,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("module", MODULES)
def test_the_installed_command(module: str, tmp_path: Path) -> None:
    script = tmp_path / "vit-hybrid"
    script.write_text(
        textwrap.dedent(PRESSING).format(module=module) + "from vit_hybrid.cli.main import main\nsys.exit(main())\n"
    )
    assert ended([sys.executable, str(script), "--help"]) == (130, "", "")


def test_the_module(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(textwrap.dedent(PRESSING).format(module=MODULES[1]))
    path = os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH"))))
    assert ended([sys.executable, "-m", "vit_hybrid", "--help"], PYTHONPATH=path) == (130, "", "")


def test_a_program_of_somebodys_own_keeps_its_ctrl_c() -> None:
    code = """
        import signal
        signal.signal(signal.SIGINT, signal.default_int_handler)
        import vit_hybrid.cli.main
        print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)
    """
    assert fresh_process.run(textwrap.dedent(code)) == "True\n"


@pytest.mark.parametrize(
    ("words", "is_one"),
    [
        (["/usr/bin/vit-hybrid", "info"], True),
        (["Scripts/vit-hybrid.exe"], True),  # of Windows
        (["/usr/bin/vit-hybrid-mine"], False),
        (["train.py", "vit-hybrid"], False),
        (["-m", "vit_hybrid"], True),
        (["-m", "pytest", "vit_hybrid"], False),
        ([], False),
    ],
)
def test_the_command_is_told_from_other_programs(
    words: list[str], is_one: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "orig_argv", ["python", "-X", "dev", *words])
    monkeypatch.setattr(sys, "argv", words)
    assert is_command() is is_one


def test_a_job_in_the_background_goes_on(tmp_path: Path) -> None:
    script = tmp_path / "vit-hybrid"
    code = textwrap.dedent(PRESSING).format(module="typer").replace("signal.default_int_handler", "signal.SIG_IGN")
    script.write_text(code + "from vit_hybrid.cli.main import main\nsys.exit(main())\n")
    status, stdout, stderr = ended([sys.executable, str(script), "--version"])
    assert (status, stdout.split()[0], stderr) == (0, "vit-hybrid", "")


def test_a_command_puts_in_order_what_it_began() -> None:
    tidied = []

    def press() -> None:
        with ending_quietly():
            try:
                signal.raise_signal(signal.SIGINT)
            finally:
                tidied.append(True)

    before = signal.signal(signal.SIGINT, leave_at_once)
    try:
        with pytest.raises(Exit) as end:
            press()
        assert (tidied, end.value.exit_code) == ([True], 130)
        assert signal.getsignal(signal.SIGINT) is leave_at_once
    finally:
        signal.signal(signal.SIGINT, before)

"""How commands run: what they say while they do, and how they end."""

from __future__ import annotations

import ast
import logging
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import fresh_process
import pytest
import safetensors
import torch
import typer
from huggingface_hub.utils import are_progress_bars_disabled
from safetensors import SafetensorError
from transformers.utils import logging as transformers_logging
from typer.testing import CliRunner, Result

import vit_hybrid.cli
from vit_hybrid.assets import BUILT_IN_MODEL
from vit_hybrid.cli import session
from vit_hybrid.cli.main import app
from vit_hybrid.cli.streams import own_streams
from vit_hybrid.errors import EngineWarning, JobStopped, argument
from vit_hybrid.interrupt import leave_at_once

CAT = Path(__file__).parents[2] / "examples" / "cat.jpg"
FOLDER = Path(vit_hybrid.cli.__file__).parent


def run(body: Callable[[], None], *arguments: str) -> Result:
    """What becomes of a command that does this."""

    def command(
        batch_size: Annotated[int, typer.Option()] = 7, label_column: Annotated[str, typer.Option()] = "label"
    ) -> None:
        body()

    inner = typer.Typer(pretty_exceptions_enable=False)
    inner.command()(session.in_session(command))
    return CliRunner().invoke(inner, arguments)


def failing(error: BaseException) -> Callable[[], None]:
    def body() -> None:
        raise error

    return body


class TestEndings:
    def test_in_a_folder_that_is_gone_nothing_begins(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        gone = tmp_path / "gone"
        gone.mkdir()
        monkeypatch.chdir(gone)
        gone.rmdir()
        result = run(failing(AssertionError("it began")))
        assert result.exit_code == 2
        assert result.stderr == (
            "vit-hybrid: the folder that this was started in is gone, deleted or put in another's place; go to one "
            "that is there (cd), and start it again.\n"
        )

    @pytest.mark.parametrize(
        ("error", "line"),
        [
            (PermissionError(13, "Permission denied", "model.safetensors"), "model.safetensors: Permission denied"),
            (OSError("no room"), "no room"),
            (ValueError("several\n  lines"), "several lines"),
            (RuntimeError("sizes differ"), "sizes differ"),
            (MemoryError(), "MemoryError"),
            (ImportError("needs more"), "needs more"),
            (SafetensorError("Error while deserializing header"), "Error while deserializing header"),
            (
                torch.OutOfMemoryError("CUDA ..."),
                "the device has too little memory for 7 images at once; try a smaller ",
            ),
        ],
    )
    def test_what_a_person_can_mend_is_one_line_and_status_2(self, error: Exception, line: str) -> None:
        result = run(failing(error))
        assert (result.exit_code, result.stdout) == (2, "")
        [said] = result.stderr.splitlines()
        assert said.startswith(f"vit-hybrid: {line}")

    def test_where_there_is_no_batch_a_device_has_too_little_memory_and_no_advice(self) -> None:
        error, name = torch.OutOfMemoryError("CUDA ..."), {"batch_size": "--batch-size"}
        assert session._sentence(error, {}, {}) == "the device has too little memory"
        said = session._sentence(error, name, {"batch_size": None})
        assert said == "the device has too little memory; try a smaller --batch-size"

    def test_a_fault_of_the_program_shows_where_it_is(self) -> None:
        fault = KeyError("name")
        assert run(failing(fault)).exception is fault

    def test_a_job_that_stops_has_status_1(self) -> None:
        result = run(failing(JobStopped("the disk is full; what is there is kept")))
        assert (result.exit_code, result.stderr) == (1, "vit-hybrid: the disk is full; what is there is kept\n")

    @pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
    def test_a_job_that_a_signal_stops_has_its_status(self, number: int, status: int) -> None:
        stopped = JobStopped("stopped at step 3, with a checkpoint")
        stopped.signal = number
        result = run(failing(stopped))
        assert (result.exit_code, result.stderr) == (status, "vit-hybrid: stopped at step 3, with a checkpoint\n")

    @pytest.mark.parametrize(("concerns_all", "number"), [(True, 0), (False, 1)])
    def test_of_several_processes_one_says_what_all_find(
        self, concerns_all: bool, number: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        error = JobStopped("why")
        error.concerns_all = concerns_all
        monkeypatch.setenv("LOCAL_RANK", "1")
        result = run(failing(error))
        assert (result.exit_code, len(result.stderr.splitlines())) == (1, number)
        assert run(failing(ValueError("what all find"))).stderr == ""

    @pytest.mark.parametrize(
        ("error", "status"), [(typer.Exit(3), 3), (KeyboardInterrupt(), 130), (BrokenPipeError(), 141)]
    )
    def test_other_ends_are_without_a_word(self, error: BaseException, status: int) -> None:
        result = run(failing(error))
        assert (result.exit_code, result.output) == (status, "")

    def test_messages_name_options(self) -> None:
        def body() -> None:
            raise ValueError(f"{argument('label_column')} is for tables")

        assert run(body).stderr == "vit-hybrid: --label-column is for tables\n"
        with pytest.raises(ValueError, match=r"^label_column is for tables"):
            body()
        of_the_model = ValueError("Give a larger `batch_size` or a smaller `patch_size`.")
        assert run(failing(of_the_model)).stderr == "vit-hybrid: Give a larger --batch-size or a smaller patch_size.\n"

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (
                ["export", BUILT_IN_MODEL, "out", "--dynamic", "--token-merging", "2"],
                "--token-merging needs to know how many tokens there are, so it does not go with dynamic sizes.",
            ),
            (["probe", "{data}", "--label-column", "b"], "--image-column and --label-column are for tables"),
            (
                ["evaluate", BUILT_IN_MODEL, "{data}", "--image-column", "b"],
                "--image-column and --label-column are for",
            ),
            (
                ["train", "{data}", "--output", "out", "--label-column", "b"],
                "--image-column and --label-column are for",
            ),
        ],
    )
    def test_every_command_names_options(
        self, arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        for label in ("a", "b"):
            (tmp_path / "data" / label).mkdir(parents=True)
            for name in ("1.jpg", "2.jpg"):
                (tmp_path / "data" / label / name).write_bytes(CAT.read_bytes())
        result = CliRunner().invoke(app, [word.format(data=tmp_path / "data") for word in arguments])
        assert (result.exit_code, result.stdout) == (2, "")
        assert said in result.stderr.splitlines()[-1]

    @pytest.mark.parametrize("name", ["open", "PermissionError"])
    @pytest.mark.parametrize("command", [["classify", str(CAT), "--model"], ["evaluate"]])
    def test_weights_that_may_not_be_read(
        self, name: str, command: list[str], tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refusing(path: Any, *_: Any, **__: Any) -> Any:
            if name == "open":  # as safetensors says it
                raise SafetensorError(f"Error while opening {path}: Permission denied (os error 13)")
            raise PermissionError(13, "Permission denied", os.fspath(path))

        for label in ("a", "b"):
            (tmp_path / label).mkdir()
            (tmp_path / label / "1.jpg").write_bytes(CAT.read_bytes())
        monkeypatch.setattr("transformers.modeling_utils.safe_open", refusing)
        monkeypatch.setattr(safetensors, "safe_open", refusing)
        data = [str(tmp_path)] if len(command) == 1 else []
        # torch, which reads the weights itself: another engine may have them converted in its cache.
        result = CliRunner().invoke(app, [*command, str(tiny_folder), *data, "--engine", "torch"])
        assert (result.exit_code, result.stdout) == (2, "")
        [line] = result.stderr.splitlines()
        assert "Permission denied" in line
        assert str(tiny_folder) in line


class TestQuiet:
    def test_what_this_package_warns_of_is_told_once_and_nothing_else(self) -> None:
        def body() -> None:
            for _ in range(2):
                warnings.warn(EngineWarning("made pictures"), stacklevel=1)
                warnings.warn("another library's", stacklevel=1)
                logging.getLogger("vit_hybrid.checkpoints.opening").warning("no preprocessing")
                logging.getLogger("vit_hybrid.checkpoints.opening").info("a detail")
                logging.getLogger("torch._inductor").error("a line of torch's")
                logging.getLogger("torchao").warning("a line of torchao's")
                logging.getLogger("vit_hybrid_of_another").warning("a line of a package of a like name")
            print("a library's bar", file=sys.stderr)
            print("a library's line")

        before = logging.Logger.callHandlers
        assert run(failing(ValueError("why"))).exit_code == 2
        assert logging.Logger.callHandlers is before
        result = run(body)
        assert (result.exit_code, result.stdout) == (0, "")
        assert result.stderr.splitlines() == ["vit-hybrid: made pictures", "vit-hybrid: no preprocessing"]
        assert logging.Logger.callHandlers is before

    def test_a_warning_that_is_expected_is_not_told(self) -> None:
        def body() -> None:
            with session.expecting("The classifier "):
                with suppress(KeyError), session.expecting("Its head "):
                    raise KeyError
                logging.getLogger("vit_hybrid.model").warning("The classifier is new.")
                logging.getLogger("vit_hybrid.model").warning("Its head is gone.")
            logging.getLogger("vit_hybrid.model").warning("The classifier is old.")

        assert run(body).stderr == "vit-hybrid: Its head is gone.\nvit-hybrid: The classifier is old.\n"

    @pytest.mark.parametrize(
        "arguments",
        [
            ["classify", CAT, "--engine", "torch", "--json", "--model", "{model}"],
            ["convert", "{model}", "{out}", "--json"],
        ],
    )
    def test_libraries_that_load_say_nothing(self, arguments: list[Any], tiny_folder: Path, tmp_path: Path) -> None:
        words = [str(word).format(model=tiny_folder, out=tmp_path / "out") for word in arguments]
        done = subprocess.run(
            [sys.executable, "-m", "vit_hybrid", *words],
            env=fresh_process.environment(),
            capture_output=True,
            text=True,
            check=True,
        )
        assert len(done.stdout.splitlines()) == 1
        own = [f"Reading {tiny_folder}", f"Writing {tmp_path / 'out'}"] if words[0] == "convert" else []
        assert done.stderr.splitlines() == own


def test_compiling_without_a_compiler(tiny_folder: Path, tmp_path: Path) -> None:
    environment = fresh_process.environment(PATH=str(tmp_path), TORCHINDUCTOR_CACHE_DIR=str(tmp_path))
    environment.pop("CXX", None)
    arguments = ["classify", str(CAT), "--model", str(tiny_folder), "--engine", "torch", "--compile"]
    done = subprocess.run(
        [sys.executable, "-m", "vit_hybrid", *arguments], env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "vit-hybrid: torch.compile needs a C++ compiler such as g++, and there is none here; install one, or run it "
        "without --compile.\n"
    )


def test_no_command_catches_what_the_session_tells() -> None:
    """Which errors are one line for the person is said once, in session.py."""
    for path in FOLDER.glob("*.py"):
        caught = [
            ast.unparse(node.type)
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.ExceptHandler) and node.type is not None
        ]
        if path.stem not in ("session", "streams", "main"):
            assert set(caught) <= {"ValueError"}, path  # of an option's value


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.stem)
def test_files_of_the_command_are_short_and_load_nothing_heavy(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) < 300
    heavy = {"torch", "transformers", "numpy", "PIL", "rich"}
    for node in ast.parse(text).body:
        if isinstance(node, ast.Import):
            assert not {alias.name.partition(".")[0] for alias in node.names} & heavy
        elif isinstance(node, ast.ImportFrom):
            assert (node.module or "").partition(".")[0] not in heavy


class TestLoadingMessage:
    @pytest.mark.parametrize(
        ("model", "message"), [(BUILT_IN_MODEL, f"Loading {BUILT_IN_MODEL}"), ("a/b", "Getting a/b from the hub")]
    )
    def test_is_shown_on_a_terminal(
        self, model: str, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
        monkeypatch.setenv("TERM", "xterm")
        with own_streams():
            nowhere = sys.stderr
            with session.loading(model) as tell:
                for stream in (sys.stdout, sys.stderr):
                    print("weights: 100%", file=stream)  # as libraries do
                time.sleep(0.2)
                tell("Converting")
                time.sleep(0.2)
            assert sys.stderr is nowhere
        shown = capsys.readouterr().err
        assert message in shown
        assert ("Converting" in shown) == message.startswith("Loading")
        assert ("weights" in shown) != message.startswith("Loading")  # else bars of downloads are to be seen

    @pytest.mark.parametrize("model", [BUILT_IN_MODEL, "a/b"])
    @pytest.mark.parametrize("is_shown", [True, False])
    def test_bars_of_libraries_are_afterwards_as_before(
        self, model: str, is_shown: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
        before = transformers_logging.is_progress_bar_enabled()
        switch = {True: transformers_logging.enable_progress_bar, False: transformers_logging.disable_progress_bar}
        try:
            switch[is_shown]()
            with suppress(KeyError), session.loading(model):
                assert not transformers_logging.is_progress_bar_enabled()
                assert are_progress_bars_disabled() == (model == BUILT_IN_MODEL)  # which nobody downloads
                raise KeyError
            assert transformers_logging.is_progress_bar_enabled() is is_shown
            assert are_progress_bars_disabled() is not is_shown
        finally:
            switch[before]()

    def test_is_not_shown_elsewhere(self, capsys: pytest.CaptureFixture[str]) -> None:
        with session.loading(BUILT_IN_MODEL):
            pass
        assert capsys.readouterr().err == ""


def test_behind_a_command_ctrl_c_ends_at_once_as_before_it() -> None:
    def own(*_: object) -> None:
        """What a program of somebody's own does."""

    before = signal.signal(signal.SIGINT, own)
    try:
        with session.ending_quietly():
            assert signal.getsignal(signal.SIGINT) is own
        assert signal.getsignal(signal.SIGINT) is own
        signal.signal(signal.SIGINT, leave_at_once)
        with session.ending_quietly():
            assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        assert signal.getsignal(signal.SIGINT) is leave_at_once
    finally:
        signal.signal(signal.SIGINT, before)

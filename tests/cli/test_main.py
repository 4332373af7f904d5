"""`vit-hybrid classify` as a person and as a script meet it."""

from __future__ import annotations

import json
import logging
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import threading
import zlib
from pathlib import Path
from typing import Any

import fresh_process
import pytest
import tiny_hybrid
import torch
from locked_folders import lock_folder
from PIL import Image
from typer.testing import CliRunner, Result

from vit_hybrid import Predictor, ViTHybridForImageClassification, __version__
from vit_hybrid.cli.main import COMMANDS, app, main
from vit_hybrid.inference.streaming import Streaming

REPOSITORY = Path(__file__).parents[2]
CAT = REPOSITORY / "examples" / "cat.jpg"
HELP_SHARE = 0.35  # of what `import torch` takes, in processor time
ESCAPE = "\x1b"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of four pictures, in order, the second and third of them broken."""
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.new("RGB", (40, 30), "orange").save(folder / "1.png")
    (folder / "2.jpg").write_bytes(b"")
    (folder / "3.jpg").write_bytes(CAT.read_bytes()[:4000])
    Image.new("L", (64, 64), 90).save(folder / "4.jpg")
    return folder


@pytest.fixture
def run(tiny_folder: Path) -> Any:
    def invoke(*arguments: str | Path, model: str | Path | None = tiny_folder, stdin: bytes | None = None) -> Result:
        options = [] if model is None else ["--model", str(model)]
        return CliRunner().invoke(app, ["classify", *map(str, arguments), *options], input=stdin)

    return invoke


def records(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


class TestJson:
    def test_one_object_a_line_in_order(self, run: Any, photos: Path, tiny_folder: Path) -> None:
        result = run(photos, CAT, "missing.jpg", "--json", "--batch-size", "2")
        assert result.exit_code == 1
        assert result.stderr == ""
        found = records(result)
        names = [str(photos / name) for name in ("1.png", "2.jpg", "3.jpg", "4.jpg")]
        assert [record["path"] for record in found] == [*names, str(CAT), "missing.jpg"]
        good, bad = [found[0], found[3], found[4]], [found[1], found[2], found[5]]
        predictor = Predictor.from_pretrained(tiny_folder, device="cpu")
        for record in good:
            assert list(record) == ["path", "predictions"]
            expected = predictor(record["path"])
            assert [list(one) for one in record["predictions"]] == [["label", "probability"]] * 3
            assert [one["label"] for one in record["predictions"]] == [one["label"] for one in expected]
            assert record["predictions"][0]["probability"] == pytest.approx(expected[0]["probability"], abs=1e-5)
        assert all(list(record) == ["path", "error"] for record in bad)
        assert bad[0]["error"] == f"{photos / '2.jpg'}: is empty"
        assert bad[1]["error"].startswith(f"{photos / '3.jpg'}: is truncated")
        assert bad[2]["error"] == "missing.jpg: no such file"

    def test_all_well_is_status_0(self, run: Any) -> None:
        result = run(CAT, CAT, "--json", "--top-k", "1")
        assert result.exit_code == 0
        assert [len(record["predictions"]) for record in records(result)] == [1, 1]

    def test_standard_input(self, run: Any) -> None:
        result = run(CAT, "-", "--json", stdin=CAT.read_bytes())
        assert result.exit_code == 0
        file, stdin = records(result)
        assert stdin == {"path": "-", "predictions": file["predictions"]}

    def test_empty_standard_input(self, run: Any) -> None:
        result = run("-", CAT, "--json", stdin=b"")
        assert result.exit_code == 1
        first, second = records(result)
        assert first == {"path": "-", "error": "-: is empty"}
        assert "predictions" in second

    @pytest.mark.skipif(sys.platform != "linux", reason="other systems allow only Unicode file names")
    def test_names_that_are_not_text(self, run: Any, tmp_path: Path) -> None:
        name = os.fsencode(tmp_path) + b"/caf\xe9\n.jpg"
        Path(os.fsdecode(name)).write_bytes(CAT.read_bytes())
        [record] = records(run(tmp_path, "--json"))
        assert os.fsencode(record["path"]) == name


class TestTable:
    def test_labels_and_probabilities_best_first(self, run: Any) -> None:
        result = run(CAT)
        assert result.exit_code == 0
        assert result.stderr == ""
        lines = result.stdout.splitlines()
        assert lines[0] == str(CAT)
        assert lines[1].split() == ["label", "probability"]
        rows = [re.fullmatch(r" (LABEL_\d) +(\d+\.\d\d)%", line) for line in lines[3:6]]
        shares = [float(row[2]) for row in rows if row]
        assert len(shares) == 3
        assert shares == sorted(shares, reverse=True)
        assert sum(shares) == pytest.approx(100, abs=0.05)
        assert ESCAPE not in result.stdout

    def test_errors_go_to_standard_error_and_the_rest_goes_on(self, run: Any, photos: Path) -> None:
        result = run(photos)
        assert result.exit_code == 1
        titles = [line for line in result.stdout.splitlines() if line.startswith("/")]
        assert titles == [str(photos / "1.png"), str(photos / "4.jpg")]
        first, second, passed = result.stderr.splitlines()
        assert first == f"vit-hybrid: {photos / '2.jpg'}: is empty"
        assert second.startswith(f"vit-hybrid: {photos / '3.jpg'}: is truncated")
        assert passed == f"vit-hybrid: passed over: 2 pictures that cannot be read ({photos.name}/2.jpg, ...)"

    def test_what_was_named_itself_is_not_passed_over(self, run: Any, photos: Path) -> None:
        result = run(photos, photos / "2.jpg")
        assert result.exit_code == 1
        assert result.stderr.splitlines()[-1].endswith(f": 1 picture that cannot be read ({photos.name}/3.jpg)")
        alone = run(photos / "2.jpg", photos / "3.jpg")
        assert alone.exit_code == 1
        assert "passed over" not in alone.stderr

    def test_top_k_may_exceed_the_labels(self, run: Any) -> None:
        result = run(CAT, "--top-k", "1000")
        assert result.exit_code == 0
        assert result.stdout.count("%") == 3

    def test_long_wide_and_strange_labels_and_names(self, run: Any, tmp_path: Path, tiny_folder: Path) -> None:
        model = ViTHybridForImageClassification.from_pretrained(tiny_folder)
        labels = ["[bold]a[/bold] " + "long " * 40 + "end", "猫", "a\x1b[31mred\nline"]
        model.config.id2label = dict(enumerate(labels))
        model.save_pretrained(tmp_path / "model")
        (tmp_path / "model" / "preprocessor_config.json").write_bytes(
            (tiny_folder / "preprocessor_config.json").read_bytes()
        )
        strange = tmp_path / "[red]\x1b[2J\n.png"
        Image.new("RGB", (40, 40)).save(strange)
        result = run(strange, tmp_path / "[no]\r.png", model=tmp_path / "model")
        lines = result.stdout.splitlines()
        assert lines[0] == f"{tmp_path}/[red]\\x1b[2J\\n.png"
        assert {line.rsplit(maxsplit=1)[0].strip() for line in lines[3:6]} == {
            *(labels[0], "猫", r"a\x1b[31mred\nline"),
        }
        assert len({len(line) + line.count("猫") for line in lines[3:6]}) == 1
        assert result.stderr == f"vit-hybrid: {tmp_path}/[no]\\r.png: no such file\n"

    def test_every_table_is_as_wide(self, run: Any, photos: Path) -> None:
        rules = {line for line in run(photos, "--top-k", "1").stdout.splitlines() if line.startswith("──")}
        assert len(rules) == 1


def png_header(side: int) -> bytes:
    """The beginning of a black square PNG, up to its pixels."""

    def chunk(content: bytes) -> bytes:
        return (len(content) - 4).to_bytes(4, "big") + content + zlib.crc32(content).to_bytes(4, "big")

    size = side.to_bytes(4, "big")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR" + size + size + bytes([8, 2, 0, 0, 0])) + chunk(b"IDAT")


@pytest.mark.parametrize("word", ["clasify", "main"])
def test_a_command_that_is_none(word: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["/somewhere/__main__.py", word])
    with pytest.raises(SystemExit, match=r"^2$"):
        main()
    said = capsys.readouterr().err
    assert f"No such command '{word}'" in said
    assert "Usage: vit-hybrid [OPTIONS] COMMAND" in said


class TestFolders:
    def test_a_folder_with_no_pictures(self, run: Any, tmp_path: Path) -> None:
        result = run(tmp_path, CAT)
        assert result.exit_code == 1
        assert result.stderr.startswith(f"vit-hybrid: {tmp_path}: no pictures in this folder")
        assert str(CAT) in result.stdout

    def test_what_is_passed_over_is_counted_in_one_line(self, run: Any, tmp_path: Path) -> None:
        folder = tmp_path / "photos"
        for name in ("notes.txt", ".hidden", "out/mistakes.png", "out/written-by-vit-hybrid.txt"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).touch()
        os.mkfifo(folder / "pipe.jpg")
        shutil.copy(CAT, folder)
        for form in ([], ["--json"]):
            result = run(folder, *form)
            assert result.exit_code == 0
            assert result.stderr == (
                "vit-hybrid: passed over: 1 pipe, socket or device (photos/pipe.jpg), 1 result of vit-hybrid "
                "(photos/out), 1 hidden file or folder, 1 file of another kind (1 .txt)\n"
            )

    def test_a_folder_that_cannot_be_read_is_counted_once(
        self, run: Any, photos: Path, tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (photos / "locked").mkdir()
        lock_folder("locked", monkeypatch)
        explained = ["explain", photos, "--output", tmp_path / "out", "--model", tiny_folder, "--device", "cpu"]
        for result in (run(photos), CliRunner().invoke(app, [*map(str, explained)])):
            assert result.exit_code == 1
            assert f"vit-hybrid: {photos}/locked: cannot read the folder: Permission denied\n" in result.stderr
            assert result.stderr.splitlines()[-1] == (
                "vit-hybrid: passed over: 2 pictures that cannot be read (photos/2.jpg, ...), 1 folder that cannot be "
                "read (photos/locked)"
            )

    @pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs a file that even root cannot read")
    def test_unreadable_and_oversized_files(self, run: Any, tmp_path: Path) -> None:
        bomb = tmp_path / "bomb.png"
        bomb.write_bytes(png_header(side=100_000))
        result = run("/proc/self/mem", bomb, tmp_path / "a" / "b.jpg", CAT)
        assert result.exit_code == 1
        unreadable, oversized, missing = result.stderr.splitlines()
        assert unreadable == "vit-hybrid: /proc/self/mem: cannot be opened (Input/output error)"
        assert oversized.startswith(f"vit-hybrid: {bomb}: has more pixels than")
        assert missing == f"vit-hybrid: {tmp_path}/a/b.jpg: no such file"
        assert str(CAT) in result.stdout

    def test_subfolders_are_searched(self, run: Any, photos: Path) -> None:
        (photos / "0" / "deep").mkdir(parents=True)
        (photos / "0" / "deep" / "cat.jpg").write_bytes(CAT.read_bytes())
        first = records(run(photos, "--json"))[0]
        assert first["path"] == str(photos / "0" / "deep" / "cat.jpg")


class TestRefusals:
    @pytest.mark.parametrize(
        ("arguments", "reason"),
        [
            ([], "Missing argument"),
            ([CAT, "--top-k", "0"], "--top-k"),
            ([CAT, "--top-k", "many"], "--top-k"),
            ([CAT, "--batch-size", "0"], "--batch-size"),
            ([CAT, "--dtype", "int8"], "--dtype"),
            ([CAT, "--device", "nowhere"], "Device 'nowhere' cannot be used here"),
            ([CAT, "--nonsense"], "--nonsense"),
        ],
    )
    def test_wrong_usage_is_status_2(self, arguments: list[Any], reason: str, run: Any) -> None:
        result = run(*arguments)
        assert result.exit_code == 2
        assert result.stdout == ""
        assert reason in result.stderr
        assert "Traceback" not in result.stderr

    @pytest.mark.parametrize("model", ["/no/such/folder", "a/b/c", str(CAT), str(REPOSITORY / "examples")])
    def test_a_wrong_model_is_one_line_and_status_2(self, model: str, run: Any) -> None:
        result = run(CAT, model=model)
        assert result.exit_code == 2
        assert result.stdout == ""
        [line] = result.stderr.splitlines()
        assert line.startswith(f"vit-hybrid: {model}: ")

    def test_a_model_that_ranks_nothing(self, run: Any, tmp_path: Path) -> None:
        ViTHybridForImageClassification(tiny_hybrid.tiny_config(num_labels=1)).save_pretrained(tmp_path)
        tiny_hybrid.tiny_processor().save_pretrained(tmp_path)
        result = run(CAT, model=tmp_path)
        assert result.exit_code == 2
        assert "problem_type is 'regression'" in result.stderr

    def test_too_little_memory_is_one_line(self, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        def failing(*_: object) -> None:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate ...")

        monkeypatch.setattr(Streaming, "forward", failing)
        result = run(CAT, "--batch-size", "7")
        assert result.exit_code == 2
        expected = "the device has too little memory for 7 images at once; try a smaller --batch-size"
        assert result.stderr == f"vit-hybrid: {expected}\n"

    def test_what_the_libraries_say_is_left_out(
        self, run: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        import warnings

        from transformers.utils import logging as transformers_logging

        before = Predictor.from_pretrained

        def noisy(*arguments: Any, **options: Any) -> Predictor:
            warnings.warn("a warning", UserWarning, stacklevel=1)
            transformers_logging.get_logger("transformers.modeling_utils").warning("a log line")
            logging.getLogger("PIL.TiffImagePlugin").error("another log line")
            assert not transformers_logging.is_progress_bar_enabled()
            return before(*arguments, **options)

        monkeypatch.setattr(Predictor, "from_pretrained", noisy)
        bars = transformers_logging.is_progress_bar_enabled()
        result = run(CAT)
        assert (result.exit_code, result.stderr) == (0, "")
        assert capfd.readouterr().err == ""
        assert transformers_logging.is_progress_bar_enabled() == bars
        assert logging.root.manager.disable == logging.NOTSET


class TestOptions:
    def test_version(self) -> None:
        result = CliRunner().invoke(app, ["--version"])
        assert (result.exit_code, result.stdout) == (0, f"vit-hybrid {__version__}\n")

    @pytest.mark.parametrize("words", [["-h"], ["--help"], []])
    def test_help_lists_the_commands_in_their_order(self, words: list[str]) -> None:
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 0 or not words  # to ask for nothing is wrong usage for some releases of click
        first = [word for line in result.output.splitlines() for word in line.strip(" \u2502").split()[:1]]
        assert [word for word in first if word in COMMANDS] == [*COMMANDS]
        assert "completion" not in result.output

    def test_device_dtype_and_batch_size_reach_the_predictor(self, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        seen: list[Predictor] = []
        stream = Predictor.stream
        monkeypatch.setattr(
            Predictor, "stream", lambda self, *rest, **options: seen.append(self) or stream(self, *rest, **options)
        )
        assert run(CAT, "--device", "cpu", "--dtype", "bfloat16", "--batch-size", "3").exit_code == 0
        [predictor] = seen
        assert (predictor.model.device.type, predictor.model.dtype, predictor.batch_size) == ("cpu", torch.bfloat16, 3)

    @pytest.mark.alone
    def test_help_answers_at_once_and_loads_nothing_heavy(self) -> None:
        code = (
            "import sys\n"
            "from vit_hybrid.cli.main import main\n"
            "sys.argv = ['vit-hybrid', '--help']\n"
            "try: main()\n"
            "except SystemExit as end: assert not end.code\n"
            "heavy = {'torch', 'transformers', 'numpy', 'PIL', 'huggingface_hub'} & set(sys.modules)\n"
            "print(sorted(heavy))"
        )
        lines = fresh_process.run(code).splitlines()
        assert any("classify" in line for line in lines)
        assert lines[-1] == "[]"
        assert fresh_process.share_of_importing_torch(code) < HELP_SHARE


def heed_ctrl_c() -> None:
    """Shells have what they start in the background ignore Ctrl-C, and the tests may be such a program."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def start(*arguments: str | Path, **options: Any) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "vit_hybrid", *map(str, arguments)]
    pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    return subprocess.Popen(command, env=fresh_process.environment(), preexec_fn=heed_ctrl_c, **{**pipes, **options})


class TestProcess:
    def test_ctrl_c_ends_it_without_a_word(self, tiny_folder: Path, tmp_path: Path) -> None:
        damaged = tmp_path / "damaged.tif"
        Image.open(CAT).save(damaged, compression="tiff_lzw")
        content = bytearray(damaged.read_bytes())
        content[1000:1200] = b"\xff" * 200  # about which libtiff itself complains on standard error
        damaged.write_bytes(content)
        options = ["--model", tiny_folder, "--json", "--batch-size", "1"]
        with start("classify", damaged, CAT, "-", *options) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            assert json.loads(process.stdout.readline())["error"].startswith(f"{damaged}: is truncated")
            assert json.loads(process.stdout.readline())["path"] == str(CAT)
            process.send_signal(signal.SIGINT)  # now it waits for standard input
            assert process.wait(fresh_process.TIME_LIMIT) == 128 + signal.SIGINT
            assert process.stdout.read() == b""
            assert process.stderr.read() == b""

    def test_a_reader_that_goes_away_ends_it_without_a_word(self, tiny_folder: Path) -> None:
        with start("classify", *[CAT] * 300, "--model", tiny_folder, "--json", "--batch-size", "1") as process:
            assert process.stdout is not None
            assert process.stderr is not None
            assert json.loads(process.stdout.readline())["path"] == str(CAT)
            process.stdout.close()
            assert process.wait(fresh_process.TIME_LIMIT) == 128 + signal.SIGPIPE
            assert process.stderr.read() == b""

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
    def test_a_full_disk_is_one_line(self, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        code = (
            "import sys, typer\n"
            "from vit_hybrid.cli.output import RecordPrinter\n"
            "from vit_hybrid.cli.session import ending_quietly\n"
            "try:\n"
            "    with ending_quietly(), RecordPrinter(True, ['a'], 1) as printer:\n"
            "        printer.print({'path': 'a', 'predictions': []})\n"
            "except typer.Exit as end: sys.exit(end.exit_code)"
        )
        with open("/dev/full", "w") as full:
            done = subprocess.run([sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, check=False)
        assert done.returncode == 2
        assert done.stderr == b"vit-hybrid: cannot write to standard output: No space left on device\n"


class Terminal:
    """A terminal that a process can be given; `text` is what was written to it."""

    def __enter__(self) -> Terminal:
        self._ours, self.theirs = pty.openpty()
        self._chunks: list[bytes] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.theirs)
        self._reader.join()
        os.close(self._ours)

    def _read(self) -> None:
        while True:
            try:
                chunk = os.read(self._ours, 4096)
            except OSError:  # how Linux says that nobody has the other end any more
                return
            if not chunk:
                return
            self._chunks.append(chunk)

    @property
    def text(self) -> str:
        return b"".join(self._chunks).decode()


PRINTING = """
import time
from vit_hybrid.cli import output
output.PATIENCE_SECONDS = {patience}
records = [dict(path=f"{{i}}.jpg", predictions=[dict(label="cat", probability=0.9)]) for i in range(3)]
records[1] = dict(path="1.jpg", error="1.jpg: is empty")
with output.RecordPrinter(as_json={as_json}, labels=["cat"], total=3) as printer:
    for record in records:
        time.sleep(0.3)
        printer.print(record)
"""


class TestProgress:
    @staticmethod
    def show(as_json: bool, patience: float, stdout: Any = subprocess.PIPE) -> tuple[str, str]:
        with Terminal() as terminal:
            done = subprocess.run(
                [sys.executable, "-c", PRINTING.format(patience=patience, as_json=as_json)],
                stdout=terminal.theirs if stdout is None else stdout,
                stderr=terminal.theirs,
                env=fresh_process.environment(TERM="xterm-256color", COLUMNS="80"),
                check=True,
            )
        return (done.stdout or b"").decode(), terminal.text

    def test_a_long_run_shows_a_bar_on_the_terminal_and_none_in_the_output(self) -> None:
        stdout, shown = self.show(as_json=True, patience=0.5)
        assert "Classifying" in shown
        assert "2/3" in shown
        assert [json.loads(line)["path"] for line in stdout.splitlines()] == ["0.jpg", "1.jpg", "2.jpg"]
        assert ESCAPE not in stdout

    def test_a_short_run_shows_none(self) -> None:
        stdout, shown = self.show(as_json=True, patience=5.0)
        assert shown == ""
        assert len(stdout.splitlines()) == 3

    def test_results_and_bar_share_a_terminal(self) -> None:
        _, shown = self.show(as_json=False, patience=0.5, stdout=None)
        assert "Classifying" in shown
        # What is left once the terminal has carried out "up a line and erase it".
        left = re.sub(r"[^\n]*\r\n\x1b\[\?25h\r\x1b\[1A\x1b\[2K", "", shown)
        left = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", left).replace("\r", "")
        table = [" label   probability", "─" * 21, " cat          90.00%", ""]
        lines = [line.rstrip() for line in left.splitlines()]
        assert lines == ["0.jpg", *table, "vit-hybrid: 1.jpg: is empty", "2.jpg", *table]
        assert shown.count("\x1b[?25l") == shown.count("\x1b[?25h")  # the cursor is there again

    def test_no_terminal_no_bar(self) -> None:
        done = subprocess.run(
            [sys.executable, "-c", PRINTING.format(patience=0.0, as_json=True)], capture_output=True, check=True
        )
        assert done.stderr == b""


@pytest.fixture(scope="module")
def ranking() -> list[dict[str, Any]]:
    """What the model in the package makes of the photo that ships with the project."""
    result = CliRunner().invoke(app, ["classify", str(CAT), "--json", "--top-k", "180"])
    assert result.exit_code == 0, result.output
    return records(result)[0]["predictions"]


class TestBuiltInModel:
    def test_knows_the_cat(self, ranking: list[dict[str, Any]]) -> None:
        assert "cat" in ranking[0]["label"].split()

    def test_knows_everyday_things(self, ranking: list[dict[str, Any]]) -> None:
        labels = {one["label"] for one in ranking}
        assert len(labels) == len(ranking) == 180
        assert labels >= {"tabby cat", "golden retriever", "espresso", "backpack", "tractor", "lighthouse", "seashore"}


def test_the_command_is_installed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from importlib.metadata import entry_points

    [command] = entry_points(group="console_scripts", name="vit-hybrid")
    assert command.load() is main
    monkeypatch.setattr(sys, "argv", ["vit-hybrid", "--version"])
    with pytest.raises(SystemExit, match=r"^0$"):
        main()
    assert capsys.readouterr().out == f"vit-hybrid {__version__}\n"

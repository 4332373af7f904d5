"""Where answers go: standard streams that are closed or full, what others write there, and what a line says."""

from __future__ import annotations

import io
import json
import math
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import fresh_process
import pytest

from vit_hybrid import __version__
from vit_hybrid.cli import streams
from vit_hybrid.cli.main import main
from vit_hybrid.cli.output import new_table, rendered

CAT = Path(__file__).parents[2] / "examples" / "cat.jpg"
CLOSED = "vit-hybrid: cannot write to standard output: it is closed\n"
FULL = "vit-hybrid: cannot write to standard output: No space left on device\n"
VERSION = f"vit-hybrid {__version__}\n"


def shell(arguments: str, redirection: str) -> tuple[int, str, str]:
    """Status, standard output and standard error of the command as a shell starts it."""
    done = subprocess.run(
        ["sh", "-c", f"exec {sys.executable} -m vit_hybrid {arguments} {redirection}"],
        env=fresh_process.environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=fresh_process.TIME_LIMIT,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize(
    ("arguments", "redirection", "expected"),
    [
        ("--version", ">&-", (2, "", CLOSED)),
        ("--version", ">/dev/full", (2, "", FULL)),
        ("--version", "2>&-", (0, VERSION, "")),
        ("--version", "2>/dev/full", (0, VERSION, "")),
        ("--version", "<&-", (0, VERSION, "")),
        ("--help", ">/dev/full", (2, "", FULL)),
        ("info R50+B/16", ">&-", (2, "", CLOSED)),
        ("info R50+B/16", ">/dev/full", (2, "", FULL)),
        ("info R50+B/16 --nonsense", "2>/dev/full", (2, "", "")),
        ("info R50+B/16 --nonsense", "2>&-", (2, "", "")),
        ("info nowhere.npz", "2>/dev/full", (2, "", "")),
        ("info nowhere.npz", "<&- >&- 2>&-", (2, "", "")),
    ],
)
def test_closed_and_full_streams(arguments: str, redirection: str, expected: tuple[int, str, str]) -> None:
    assert shell(arguments, redirection) == expected


@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full"])
def test_the_answer_is_given_where_nothing_can_be_said_beside_it(redirection: str, tiny_folder: Path) -> None:
    status, stdout, _ = shell(f"classify missing.jpg {CAT} --model {tiny_folder}", redirection)
    assert status == 1
    assert stdout.splitlines()[0] == str(CAT)


def test_a_descriptor_that_was_closed_is_not_given_to_a_file(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import os; from vit_hybrid.cli.streams import take_the_place_of_closed_streams as take\n"
        "take()\n"
        f"opened = os.open({str(tmp_path / 'file')!r}, os.O_CREAT | os.O_WRONLY)\n"
        "os.write(opened, str([opened, *map(os.get_inheritable, range(3))]).encode())"
    )
    command = f"exec {sys.executable} {script} <&- >&- 2>&-"
    subprocess.run(["sh", "-c", command], env=fresh_process.environment(), check=True)
    opened, *are_for_children = json.loads((tmp_path / "file").read_text().lower())
    assert opened > 2
    assert are_for_children == [True] * 3


OTHERS = """
import os, sys
from vit_hybrid.cli import streams

with streams.own_streams():
    print("a library's line")
    print("a library's line", file=sys.stderr)
    os.write(1, b"a C library's line")
    os.write(2, b"a C library's line")
    streams.write("the answer\\n")
    streams.complain("what is said beside it")
print("after it")
os.write(2, b"after it\\n")
"""


def test_what_others_write_is_dropped() -> None:
    done = subprocess.run([sys.executable, "-c", OTHERS], capture_output=True, text=True, check=True)
    assert done.stdout == "the answer\nafter it\n"
    assert done.stderr == "vit-hybrid: what is said beside it\nafter it\n"


def descriptors() -> set[str]:
    """Those that are open, where the system tells."""
    return {*os.listdir("/proc/self/fd")} if Path("/proc/self/fd").exists() else set()


def test_one_place_for_both_streams(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open(tmp_path / "both", "w", encoding="latin-1", errors="backslashreplace") as both:
        monkeypatch.setattr(sys, "stdout", both)
        monkeypatch.setattr(sys, "stderr", both)
        print("before", file=both)
        opened = descriptors()
        with streams.own_streams():
            streams.write("one caf\N{LATIN SMALL LETTER E WITH ACUTE} \u732b\n")
            streams.complain("two")
            os.write(both.fileno(), b"not shown")
        assert descriptors() == opened
    # In the encoding that both have, and after what was there before them.
    assert (tmp_path / "both").read_bytes() == b"before\none caf\xe9 \\u732b\nvit-hybrid: two\n"


def test_what_was_there_before_a_failure_is_there_behind_it(monkeypatch: pytest.MonkeyPatch) -> None:
    shared = sys.stdout, sys.stderr
    with suppress(KeyError), streams.own_streams():
        raise KeyError
    assert (sys.stdout, sys.stderr) == shared == (streams.standard_output(), streams.standard_error())
    with suppress(KeyError), streams.files_first():
        raise KeyError
    monkeypatch.setattr(streams, "standard_output", lambda: None)
    with pytest.raises(streams.OutputError, match="it is closed"):
        streams.write("not to be lost without a word")


def test_a_file_that_cannot_be_finished_is_told_of_first(monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    monkeypatch.setattr(streams, "standard_output", lambda: None)

    def print_and_finish(error: Exception | None) -> None:
        with streams.files_first():
            streams.write("one")
            streams.write("another")
            steps.append("finished")
            if error is not None:
                raise error

    with pytest.raises(streams.OutputError, match="it is closed"):
        print_and_finish(None)
    with pytest.raises(KeyError):
        print_and_finish(KeyError())
    assert steps == ["finished"] * 2


def test_no_line_is_longer_than_500_characters(capsys: pytest.CaptureFixture[str]) -> None:
    streams.complain("beginning " + "x" * 9000 + "\n\x1b end")
    line = capsys.readouterr().err
    assert len(line) < 500
    assert line.startswith("vit-hybrid: beginning x")
    assert line.endswith("x\\n\\x1b end\n")


def test_lines_wait_for_a_spinner(capsys: pytest.CaptureFixture[str]) -> None:
    with streams.holding_back():
        streams.complain("later")
        streams.complain("and last")
        assert capsys.readouterr().err == ""
    assert capsys.readouterr().err == "vit-hybrid: later\nvit-hybrid: and last\n"
    with suppress(ValueError), streams.holding_back():
        streams.complain("before it")
        raise ValueError("why")
    assert capsys.readouterr().err == "vit-hybrid: before it\n"
    streams.complain("behind it")
    assert capsys.readouterr().err == "vit-hybrid: behind it\n"


def test_a_record_is_one_line_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    long = "x" * 9000
    within = [{"error": long, "label": long}, long]
    numbers = [1.5, math.nan, (math.inf, {"b": -math.inf})]
    streams.write_json({"a": numbers, "error": long, "path": Path("p\n"), "within": within})
    [line] = capsys.readouterr().out.splitlines()
    record = json.loads(line)
    assert (record["a"], record["path"]) == ([1.5, None, [None, {"b": None}]], "p\n")
    assert record["within"] == [{"error": record["error"], "label": long}, long]  # names are whole
    assert len(record["error"]) < 500


def test_whether_all_was_heard_that_was_said_beside_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    for stream, is_heard in ((io.StringIO(), True), (None, False)):
        monkeypatch.setattr(sys, "stderr", stream)
        streams.say("beside it")
        assert streams.is_heard() is is_heard


class Narrow(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("columns", [5, 16, 24, 40, 80])
def test_numbers_are_whole_in_any_terminal(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", Narrow())
    monkeypatch.setenv("COLUMNS", str(columns))
    rows = [("a label that is rather long", "89.54%", "1,234,567"), ("b", "0.01%", "2")]
    text = rendered(new_table(("label", ">probability", ">pictures"), rows, text_width=60))
    for number in ("89.54%", "0.01%", "1,234,567"):
        assert number in text.split()
    words = "".join(line[: line.find("%") if "%" in line else None] for line in text.splitlines())
    assert all(letter in words for letter in "label that is rather long")


def test_tables_outside_of_terminals_are_as_wide_as_they_need_to_be(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    text = rendered(new_table(("name", ">count"), [("word " * 30, "7")]))
    assert ("word " * 30).strip() in text


def test_what_a_terminal_cannot_show_is_written_as_an_escape(monkeypatch: pytest.MonkeyPatch) -> None:
    both = [io.BytesIO(), io.BytesIO()]
    for name, written in zip(("stdout", "stderr"), both, strict=True):
        monkeypatch.setattr(sys, name, io.TextIOWrapper(written, encoding="ascii"))
    monkeypatch.setattr(sys, "argv", ["vit-hybrid", "--version"])
    with pytest.raises(SystemExit):
        main()
    for stream, written in zip((sys.stdout, sys.stderr), both, strict=True):
        stream.write("\u732b")
        stream.flush()
        assert written.getvalue().endswith(b"\\u732b")


def test_odd_bytes_of_a_name_are_shown_as_in_messages() -> None:
    assert streams.printable("caf\udce9 \x1b[31m\n\ud83d.jpg") == r"caf\xe9 \x1b[31m\n\ud83d.jpg"


def test_what_the_terminals_encoding_lacks_is_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    from vit_hybrid.cli.main import main

    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    monkeypatch.setattr(sys, "argv", ["vit-hybrid", "classify", "/nowhere/caf\N{LATIN SMALL LETTER E WITH ACUTE}.jpg"])
    with pytest.raises(SystemExit):
        main()
    error: Any = sys.stderr
    error.flush()
    assert b"/nowhere/caf\\xe9.jpg" in error.buffer.getvalue()

"""The benchmark: contenders take turns, failures are rows, nothing is left behind, and figures are those measured."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fresh_process
import numpy as np
import pytest
import torch
from fake_contenders import FAKE, Fakes, in_place, is_alive
from PIL import Image

from vit_hybrid import ViTHybridForImageClassification
from vit_hybrid.benchmark import contenders as line
from vit_hybrid.benchmark import job, machine, models, peer, race, report, tables, worker
from vit_hybrid.benchmark.contenders import Contender, Peer, find_peer, line_up
from vit_hybrid.benchmark.processes import TurnFailed, Worker, WorkerFailed, busy, environment
from vit_hybrid.benchmark.settings import Settings
from vit_hybrid.checkpoints import opening
from vit_hybrid.errors import EngineWarning
from vit_hybrid.model.complexity import complexity

LEGACY_PYTHON, TIMM_PYTHON = "VIT_HYBRID_LEGACY_PYTHON", "VIT_HYBRID_TIMM_PYTHON"


@pytest.fixture
def fakes(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fakes:
    return in_place(tiny_folder, tmp_path / "log.txt", monkeypatch)


@pytest.fixture(scope="module")
def measured(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> report.Report:
    """Two sizes and two precisions, one of which fails at the larger batch; not to be changed."""
    with pytest.MonkeyPatch.context() as patch:
        fakes = in_place(tiny_folder, tmp_path_factory.mktemp("fakes") / "log.txt", patch)
        fakes.acts = {"bf16": "refuse two"}
        steps: list[tuple[int, int]] = []
        settings = fakes.settings(precisions=("f32", "bf16"), image_sizes=((32, 32), (64, 64)))
        found = job.run(settings, lambda *at: steps.append(at))
        assert steps == [(done, len(steps)) for done in range(1, len(steps) + 1)]
        return found


def by_name(rows: list[dict[str, Any]], batch_size: int) -> dict[str, dict[str, Any]]:
    return {row["contender"]: row for row in rows if row["batch_size"] == batch_size}


class TestBusy:
    def test_keeps_cores_busy_until_the_end(self) -> None:
        with busy(2) as numbers:
            until = time.monotonic() + 20
            while any(spent(number) < 0.1 for number in numbers):
                assert time.monotonic() < until
                time.sleep(0.02)
            # Linux may divide cores by sessions: with one each they would leave less than half of two cores.
            assert {os.getsid(number) for number in numbers} == {os.getsid(0)}
        assert not any(map(is_alive, numbers))

    def test_a_run_says_so(self, fakes: Fakes) -> None:
        settings = fakes.settings(batch_sizes=(1,), attentions=("sdpa",), busy=1)
        found = job.run(settings)
        assert found["settings"]["busy"] == 1
        assert found["command"].endswith("--busy 1")
        assert dict(tables.about(found))["measured"].endswith("in turns, beside 1 busy process")
        assert "busy" not in fakes.settings().command()
        with pytest.raises(ValueError, match="busy: expected 0 or more processes, found -1"):
            fakes.settings(busy=-1)


def spent(number: int) -> float:
    """Seconds of processor time of a process: see proc(5)."""
    words = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize("precision", ["f32", "bf16", "int8", "f32 convolution", "bf16 convolution"])
def test_rates_of_products_and_convolutions(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _, answer = worker.matrix_product({"device": "cpu", "threads": 1, "hidden": 32, "inner": 64, "maps": (8, 6, 5)})
    request = {"rows": 48, "batch": 2, "precision": precision, "least_seconds": 0.0}
    assert 1e4 < answer(request)["rate"] < 1e14
    least: list[float] = []
    monkeypatch.setattr(worker, "timed", lambda run, seconds: (run(), least.append(seconds), ([0.5, 0.25], None))[2])
    multiply_adds = 2 * 6 * 5 * 8 * 8 * 9 if "convolution" in precision else 48 * 32 * 64
    assert answer({**request, "least_seconds": 0.125})["rate"] == 2 * multiply_adds / 0.25
    assert least == [0.125]


class TestTurns:
    def test_all_take_turns_in_every_round(self, fakes: Fakes, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(race, "STARTS", 2)
        steps: list[tuple[int, int]] = []
        settings = fakes.settings(batch_sizes=(2, 1, 2), precisions=("f32", "bf16"), attentions=("sdpa",))
        found = job.run(settings, lambda *at: steps.append(at))
        noted = fakes.noted()
        turns = [(words[2], words[3]) for words in noted if words[1] == "turn"]
        once, twice = ([("f32", count)] * 2 + [("bf16", count)] * 2 for count in "12")  # a pass to warm up, and one
        # Two starts of each, with a picture each, then three rounds of each batch.
        assert turns == once + once * 3 + twice * 3
        assert len({words[0] for words in noted}) == 4
        total = race.turns(2, 2, 3)
        assert steps == [(done, total) for done in range(1, total + 1)]
        assert [row["passes"] for row in found["rows"]] == [2] * 4

    def test_figures_are_those_measured(self, fakes: Fakes) -> None:
        fakes.acts = {"bf16": "slow"}
        found = job.run(fakes.settings(precisions=("f32", "bf16"), repetitions=3))
        rows = by_name(found["rows"], 2)
        assert list(rows) == ["torch f32 eager", "torch f32 sdpa", "torch bf16 eager", "torch bf16 sdpa"]
        fast, slow = rows["torch f32 sdpa"], rows["torch bf16 sdpa"]
        assert 0.01 <= fast["min"] <= fast["median"]
        assert slow["min"] >= 0.02
        assert fast["pictures_per_second"] == pytest.approx(2 / fast["median"])
        # Against eager in float32, as no peer is here.
        assert {row["baseline"] for row in rows.values()} == {"torch f32 eager"}
        assert rows["torch f32 eager"]["ratio"] == 1.0
        assert slow["ratio"] == pytest.approx(slow["min"] / rows["torch f32 eager"]["min"])
        assert slow["ratio_median"] == pytest.approx(slow["median"] / rows["torch f32 eager"]["median"])
        # The fake gives two of four logits another value, and one of two pictures another label.
        assert {row["reference"] for row in rows.values()} == {"torch f32 sdpa"}
        assert (fast["difference"], fast["agreement"]) == (0.0, 1.0)
        assert (slow["difference"], slow["agreement"]) == (2.0, 0.5)
        [size] = found["sizes"]
        assert size["rates"] == size["convolution_rates"] == {"f32": 1e9, "bf16": 1e9}
        assert fast["share_of_rate"] == pytest.approx(size["flops"] * 2 / fast["min"] / 1e9)
        assert size["preprocessing"] == {"decode_per_second": 16.0, "decode_and_preprocess_per_second": 10.0}
        assert fast["peak_bytes"] > 10**7

    def test_a_single_slow_pass_moves_no_figure_but_the_number_of_passes(self) -> None:
        cell, baseline = race.Cell(seconds=[2.0, 1.0, 90.0]), race.Cell(seconds=[4.0, 80.0, 5.0])
        assert report._times(cell, baseline, 6) == {
            **{"min": 1.0, "median": 2.0, "min_from_numpy": None, "passes": 3, "pictures_per_second": 3.0},
            **{"ratio": 0.25, "ratio_median": 0.4},
        }

    def test_the_best_rate_of_all_rounds_is_the_machines(self, monkeypatch: pytest.MonkeyPatch) -> None:
        measured = iter([2e9, 3e9, 1e9])
        monkeypatch.setattr(race._Machine, "_ask", lambda self, name, request: {"rate": next(measured)})
        its = race._Machine.__new__(race._Machine)
        rates: dict[str, float] = {}
        for _ in range(3):
            its._rate(rates, "f32", {})
        assert rates == {"f32": 3e9}

    def test_rounds_to_warm_up_are_not_counted(self, fakes: Fakes) -> None:
        found = job.run(fakes.settings(batch_sizes=(1,), attentions=("sdpa",), warm_up=2, repetitions=3))
        assert [row["passes"] for row in found["rows"]] == [3]

    def test_what_merges_tokens_has_no_share_of_the_rate(self, fakes: Fakes) -> None:
        """It leaves out some of the operations that the share is of."""
        found = job.run(fakes.settings(batch_sizes=(1,), attentions=("sdpa",), token_merging=(2,)))
        merging = {one["name"] for one in found["contenders"] if one["token_merging"]}
        assert len(merging) == 1
        for row in found["rows"]:
            assert (row["share_of_rate"] is None) == (row["contender"] in merging)

    def test_the_documentations_table(self, fakes: Fakes) -> None:
        found = job.run(fakes.settings())
        assert [entry["batch_size"] for entry in found["table"]] == [1, 2]
        rows = by_name(found["rows"], 2)
        least = found["table"][1]["min"]
        assert least["eager_ms"] == 1000 * rows["torch f32 eager"]["min"]
        assert least["speed_up"] == pytest.approx(rows["torch f32 eager"]["min"] / rows["torch f32 sdpa"]["min"])

    def test_each_image_size(self, fakes: Fakes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "temporary").mkdir()
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
        there: list[list[str]] = []

        def preparing() -> Any:
            there.append([path.name for path in (tmp_path / "temporary").glob(f"{job.TEMPORARY_PREFIX}*/*")])
            return nullcontext()

        sizes = ((32, 32), (32, 64), (32, 32))
        settings = fakes.settings(image_sizes=sizes, batch_sizes=(1,), attentions=("sdpa",))
        found = job.run(settings, preparing=preparing)
        assert there == [["0"], ["1"]]  # the model of a size is gone when the next one is saved
        assert [size["image_size"] for size in found["sizes"]] == [[32, 32], [32, 64]]
        assert [row["image_size"] for row in found["rows"]] == [[32, 32], [32, 64]]
        assert found["sizes"][1]["flops"] > found["sizes"][0]["flops"]

    def test_starts_are_told_apart(self, fakes: Fakes, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(race, "STARTS", 3)
        [first] = job.run(fakes.settings(batch_sizes=(1,), attentions=("sdpa",)))["contenders"]
        assert len(first["start_seconds"]) == len(first["start_peak_bytes"]) == 3
        assert min(first["start_seconds"]) > 0.01
        assert first["device"] == "fake"


class TestFailures:
    @pytest.mark.parametrize(
        ("act", "words"),
        [
            ("refuse", "this precision is not to be had"),
            ("crash", "ended with status 3: about to fall"),
            ("hang", "no answer within 0.5 seconds"),
        ],
    )
    def test_one_that_does_not_start_is_a_row_and_the_others_go_on(
        self, act: str, words: str, fakes: Fakes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if act == "hang":
            monkeypatch.setattr(race, "START_LIMIT", 0.5)
        if act == "refuse":
            monkeypatch.setattr(race, "STARTS", 2)
        fakes.acts = {"bf16": act}
        steps: list[int] = []
        settings = fakes.settings(precisions=("bf16",) if act == "hang" else ("bf16", "f32"), attentions=("sdpa",))
        found = job.run(settings, lambda done, total: steps.append(total - done))
        assert steps[-1] == 0
        rows = by_name(found["rows"], 1)
        assert words in rows["torch bf16 sdpa"]["error"]
        assert "\n" not in rows["torch bf16 sdpa"]["error"]
        if act != "hang":
            assert rows["torch f32 sdpa"]["min"] > 0
        [failure] = found["failures"]
        assert [place["batch_size"] for place in failure["at"]] == [1, 2]
        if act == "refuse":
            assert [words[1:3] for words in fakes.noted()].count(["start", "bf16"]) == 1  # it is not asked again
        assert not any(is_alive(int(words[0])) for words in fakes.noted())

    def test_a_turn_that_is_refused_leaves_the_others(self, fakes: Fakes) -> None:
        fakes.acts = {"f32": "refuse two"}
        found = job.run(fakes.settings(batch_sizes=(1, 2, 3), precisions=("f32", "bf16"), attentions=("sdpa",)))
        assert [row.get("error") for row in found["rows"] if row["contender"] == "torch f32 sdpa"] == [
            None,
            "MemoryError: no room for two",
            None,
        ]
        noted = [words for words in fakes.noted() if words[1:] == ["turn", "f32", "2"]]
        assert len(noted) == 1  # it is not asked again
        # The reference and the baseline are others where the first choice failed.
        assert by_name(found["rows"], 2)["torch bf16 sdpa"]["reference"] == "torch bf16 sdpa"
        assert by_name(found["rows"], 3)["torch bf16 sdpa"]["reference"] == "torch f32 sdpa"

    @pytest.mark.parametrize(("act", "words"), [("die at two", "SIGKILL"), ("hang at two", "within 5 seconds")])
    def test_one_that_ends_in_the_middle(
        self, act: str, words: str, fakes: Fakes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if act == "hang at two":
            monkeypatch.setattr(race, "TURN_LIMIT", 5.0)  # more than a busy machine needs for the others' turns
        fakes.acts = {"f32": act}
        found = job.run(fakes.settings(batch_sizes=(1, 2, 3), precisions=("f32", "bf16"), attentions=("sdpa",)))
        of_it = [row.get("error") for row in found["rows"] if row["contender"] == "torch f32 sdpa"]
        assert of_it[0] is None
        assert words in of_it[1]
        assert words in of_it[2]
        assert not any(row.get("error") for row in found["rows"] if row["contender"] == "torch bf16 sdpa")
        assert not any(is_alive(int(words[0])) for words in fakes.noted())

    def test_the_machine_itself_is_a_remark(self, fakes: Fakes, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(line, "worker_command", lambda: [str(fakes.model / "no-such-program")])
        found = job.run(fakes.settings(batch_sizes=(1,), attentions=("sdpa",)))
        assert found["rows"][0]["share_of_rate"] is None
        assert found["remarks"][0].startswith("matrix products: ")
        assert found["remarks"][1].startswith("preprocessing: ")
        assert "No such file" in found["remarks"][0]


class TestNothingIsLeft:
    def test_an_interrupted_run_ends_its_processes_and_its_folder(
        self, fakes: Fakes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

        def interrupt(done: int, total: int) -> None:
            if done == total // 2:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            job.run(fakes.settings(), interrupt)
        assert not any(is_alive(int(words[0])) for words in fakes.noted())
        assert [path.name for path in tmp_path.iterdir()] == ["log.txt"]

    def test_a_worker_whose_owner_is_gone_ends(self, tmp_path: Path) -> None:
        pixels = tmp_path / "pixels.npy"
        np.save(pixels, np.zeros((1, 3, 8, 8), np.float32))
        code = f"""
        import os, sys
        from vit_hybrid.benchmark.processes import Worker, environment
        worker = Worker([sys.executable, {str(FAKE)!r}, "{{}}", {str(tmp_path / "log.txt")!r}], environment(1, False))
        options = {{"precision": "f32", "attention": None}}
        worker.start({{"kind": "engine", "options": options, "pixels": {str(pixels)!r}}}, 60)
        os._exit(0)  # as if it were killed
        """
        fresh_process.run("\n".join(text[8:] for text in code.splitlines()))
        pid = int((tmp_path / "log.txt").read_text().split()[0])
        deadline = time.monotonic() + 20
        while is_alive(pid) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not is_alive(pid)

    def test_what_a_worker_started_ends_with_it(self) -> None:
        code = (
            "import json, subprocess, sys\n"
            "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
            "sys.stdin.readline()\n"
            "print('no JSON'); print(json.dumps({'ready': {'child': child.pid}}), flush=True)\n"
            "sys.stdin.readline()\n"
        )
        with Worker([sys.executable, "-c", code], os.environ) as worker:
            worker.start({}, 30.0)
            child = worker.ready["child"]
            assert is_alive(child)
        deadline = time.monotonic() + 20
        while _state(child) not in ("", "Z") and time.monotonic() < deadline:
            time.sleep(0.05)
        assert _state(child) in ("", "Z")  # whoever adopted it may not have looked yet

    def test_sigterm_ends_like_an_exit(self, fakes: Fakes) -> None:
        before = signal.getsignal(signal.SIGTERM)

        def ask(done: int, total: int) -> None:
            os.kill(os.getpid(), signal.SIGTERM)

        with pytest.raises(SystemExit) as found:
            job.run(fakes.settings(), ask)
        assert found.value.code == 128 + signal.SIGTERM
        assert signal.getsignal(signal.SIGTERM) == before
        assert not any(is_alive(int(words[0])) for words in fakes.noted())


def _state(pid: int) -> str:
    """Of a process, in a letter (Z: ended, but not yet waited for); nothing where there is none."""
    done = subprocess.run(["ps", "-o", "state=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return done.stdout.strip()[:1]


class TestProtocol:
    def start(self, tmp_path: Path, acts: dict[str, str] | None = None) -> Worker:
        pixels = tmp_path / "pixels.npy"
        np.save(pixels, np.zeros((4, 3, 8, 8), np.float32))
        command = [sys.executable, str(FAKE), json.dumps(acts or {}), str(tmp_path / "log.txt")]
        worker = Worker(command, environment(1, foreign=False))
        task = {"kind": "engine", "options": {"precision": "f32", "attention": None}, "pixels": str(pixels)}
        worker.start(task, 60.0)
        return worker

    def test_short_passes_are_repeated_until_a_turn_is_long_enough(self, tmp_path: Path) -> None:
        with self.start(tmp_path) as worker:
            logits = tmp_path / "logits.npy"
            answer = worker.ask({"batch": 3, "least_seconds": 0.05, "logits": str(logits)}, 60.0)
            # Five, or fewer where a busy machine sleeps longer than it is told to.
            assert sum(answer["seconds"][:-1]) < 0.05 <= sum(answer["seconds"])
            assert min(answer["seconds"]) >= 0.01
            assert np.load(logits).shape == (3, 3)
            [only] = worker.ask({"batch": 3, "least_seconds": 0.0}, 20.0)["seconds"]
            assert only >= 0.01

    def test_what_is_on_the_device_and_what_is_copied_there(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        now = [0.0]
        monkeypatch.setattr(peer.time, "perf_counter", lambda: now[0])
        pixels = tmp_path / "pixels.npy"
        np.save(pixels, np.arange(6, dtype=np.float32).reshape(6, 1))
        given: list[Any] = []

        def run(values: Any) -> np.ndarray:
            given.append(values)
            now[0] += 0.5 if isinstance(values, np.ndarray) else 0.25
            return np.asarray(values)

        answer = peer.passes_over(run, str(pixels), lambda values: values.tolist())
        found = answer({"batch": 2, "least_seconds": 0.0})
        assert given[0] == given[1] == [[0.0], [1.0]]
        assert given[2].tolist() == given[3].tolist() == given[0]
        assert (found["seconds"][0], found["copied_seconds"][0]) == (0.25, 0.5)
        forgotten: list[int] = []
        monkeypatch.setattr(peer, "forget_peak", lambda: forgotten.append(len(given)))
        answer({"batch": 3, "least_seconds": 0.0, "fresh": False})
        assert len(given[4]) == 3
        answer({"batch": 3, "least_seconds": 0.0, "fresh": True})
        assert forgotten == [8]  # before the first of these passes
        answer({"batch": 1, "least_seconds": 0.0})
        assert len(given[-1]) == 1

    @pytest.mark.parametrize(
        ("seconds", "least", "runs", "timed"), [(2.0, 0.1, 1, 1), (0.5, 0.1, 2, 1), (0.2, 0.5, 4, 3)]
    )
    def test_what_is_shorter_than_a_second_warms_up_first(
        self, seconds: float, least: float, runs: int, timed: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        now = [0.0]
        monkeypatch.setattr(peer.time, "perf_counter", lambda: now[0])
        ran: list[float] = []

        def run() -> int:
            now[0] += seconds
            ran.append(seconds)
            return len(ran)

        passes, result = peer.timed(run, least)
        assert result == len(ran) == runs
        assert passes == pytest.approx([seconds] * timed)

    def test_a_refused_request_and_the_next(self, tmp_path: Path) -> None:
        with self.start(tmp_path, {"f32": "refuse two"}) as worker:
            with pytest.raises(TurnFailed, match=r"^MemoryError: no room for two$"):
                worker.ask({"batch": 2, "least_seconds": 0.0}, 20.0)
            assert worker.ask({"batch": 1, "least_seconds": 0.0}, 20.0)["seconds"]

    def test_after_closing_nothing_is_answered(self, tmp_path: Path) -> None:
        worker = self.start(tmp_path)
        worker.close()
        worker.close()
        with pytest.raises(WorkerFailed, match="status 0"):
            worker.ask({"batch": 1, "least_seconds": 0.0}, 20.0)

    @pytest.mark.parametrize(
        ("end", "said"),
        [
            (
                "os.kill(os.getpid(), 9)",
                "its process was ended by SIGKILL, as is done when memory runs out: last \ufffd words",
            ),
            ("os.kill(os.getpid(), 15)", "its process was ended by SIGTERM: last \ufffd words"),
            ("os._exit(7)", "its process ended with status 7: last \ufffd words"),
        ],
    )
    def test_how_a_process_ended_is_told_with_its_last_words(self, end: str, said: str) -> None:
        code = f"import os, sys; sys.stdin.readline(); os.write(2, b'first\\n  last \\xff words\\n\\n'); {end}"
        worker = Worker([sys.executable, "-S", "-c", code], os.environ)
        with pytest.raises(WorkerFailed, match=f"^{said}$"):
            worker.start({}, 60.0)

    def test_memory_is_that_since_the_peak_was_forgotten(self) -> None:
        code = (
            "from vit_hybrid.benchmark import peer\n"
            "block = bytearray(b'x') * 200_000_000\n"
            "high = peer.peak_bytes()\n"
            "del block\n"
            "peer.forget_peak()\n"
            "print(high, peer.peak_bytes())\n"
        )
        high, low = map(int, fresh_process.run(code).split())
        assert high > 200_000_000
        if Path(peer.CLEAR_REFERENCES).exists():
            assert low < high - 150_000_000

    def test_a_pass_as_long_as_a_turn_is_alone(self) -> None:
        passes, result = peer.timed(lambda: time.sleep(0.02) or "done", 0.02)
        assert len(passes) == 1
        assert result == "done"
        passes, _ = peer.timed(lambda: None, 10.0)
        assert len(passes) == peer.MOST_PASSES

    def test_the_file_of_peers_imports_the_standard_library_alone(self) -> None:
        found = subprocess.run(
            [sys.executable, "-S", "-E", peer.__file__, "--versions"], capture_output=True, text=True, check=True
        )
        assert json.loads(found.stdout) == {"python": ".".join(map(str, sys.version_info[:3]))}
        assert "vit_hybrid" not in Path(peer.__file__).read_text()

    def test_foreign_pythons_get_none_of_our_settings(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("PYTHONPATH", "somewhere")
        assert environment(3, foreign=False)["PYTHONPATH"] == "somewhere"
        foreign = environment(3, foreign=True, cache=tmp_path)
        assert "PYTHONPATH" not in foreign
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
            assert foreign[name] == "3"
        for name in ("VIT_HYBRID_CACHE", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"):
            assert Path(foreign[name]).parent == tmp_path
        assert foreign["HF_HUB_OFFLINE"] == "1"
        monkeypatch.setenv("VIT_HYBRID_CACHE", "theirs")
        assert environment(3, foreign=False)["VIT_HYBRID_CACHE"] == "theirs"


class TestContenders:
    def test_line_up(self) -> None:
        legacy = Peer("legacy", "python", {"transformers": "4.49.0"})
        found = line_up(["torch", "openvino"], ["f32", "int8"], ["eager", "sdpa"], True, [8], [legacy])
        assert [one.name for one in found] == [
            "torch f32 eager",
            "torch f32 sdpa",
            "torch f32, compiled",
            "torch f32, merging 8",
            "torch int8",
            "openvino f32",
            "openvino f32, merging 8",
            "openvino int8",
            "openvino int8, merging 8",
            "transformers 4.49.0 f32 sdpa",
        ]
        assert len(set(found)) == len(found)
        names = [one.name for one in line_up(["onnx"], ["int8", "bf16"], ["sdpa"], False, [], [legacy])]
        assert names[2:] == ["transformers 4.49.0 f32 sdpa", "transformers 4.49.0 bf16 sdpa"]
        twice = line_up(["onnx", "onnx"], ["f32", "f32"], ["sdpa"], True, [2, 2], [])
        assert [one.name for one in twice] == ["onnx f32", "onnx f32, merging 2"]

    def test_who_is_the_baseline_and_who_the_reference(self) -> None:
        legacy, timm = Peer("legacy", "p", {"transformers": "4.49.0"}), Peer("timm", "p", {"timm": "1.0"})
        everyone = line_up(["openvino", "torch"], ["bf16", "f32"], ["sdpa", "eager"], True, [4], [timm, legacy])

        def first(order: Any, without: tuple[str, ...] = ()) -> str:
            return min((one for one in everyone if not one.name.startswith(without)), key=order).name

        assert first(report.baseline_order) == "transformers 4.49.0 f32 sdpa"
        assert first(report.baseline_order, ("transformers",)) == "torch f32 eager"
        assert first(report.baseline_order, ("transformers", "torch")) == "openvino f32"
        assert first(report.reference_order) == "torch f32 sdpa"
        assert first(report.reference_order, ("torch",)) == "timm 1.0 f32 sdpa"
        sdpa, eager = (Contender("torch", "f32", attention) for attention in ("sdpa", "eager"))
        assert report.reference_order(sdpa) < report.reference_order(eager)  # wherever they stand
        assert report.baseline_order(eager) < report.baseline_order(sdpa)
        for order in (report.baseline_order, report.reference_order):
            last = max(order(one) for one in everyone)
            for engine in ("torch", "openvino"):
                changed = [Contender(engine, "f32", compiled=True), Contender(engine, "f32", token_merging=4)]
                assert {order(one) for one in (*changed, Contender(engine, "bf16", "sdpa"))} == {last}
            plain = [
                Contender(engine, "f32", attention) for engine in ("torch", "onnx") for attention in ("eager", "sdpa")
            ]
            assert all(order(one) < last for one in plain)

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("legacy", "expected legacy=PYTHON or timm=PYTHON"),
            ("new=python", "expected legacy=PYTHON or timm=PYTHON"),
            ("timm=", "expected legacy=PYTHON or timm=PYTHON"),
            ("timm=/no/such/python", "/no/such/python cannot be started: No such file"),
            ("timm=/bin/false", "no Python 3.9 or newer that answers"),
            ("timm=/bin/true", "no Python 3.9 or newer that answers"),
        ],
    )
    def test_no_peer(self, text: str, words: str) -> None:
        with pytest.raises(ValueError, match="--peers") as found:
            find_peer(text)
        assert str(found.value).startswith(f"--peers {text}: ")
        assert words in str(found.value)
        assert "\n" not in str(found.value)

    def test_a_python_with_other_releases_is_no_peer(self) -> None:
        with pytest.raises(ValueError, match=r"has transformers 5\..*; expected transformers 4\.49"):
            find_peer(f"legacy={sys.executable}")

    def test_a_python_without_the_library_is_no_peer(self, tmp_path: Path) -> None:
        bare = tmp_path / "python"
        bare.write_text(f'#!/bin/sh\nexec {sys.executable} -S -E "$@"\n')
        bare.chmod(0o755)
        with pytest.raises(ValueError, match=r"has no timm; expected timm 1\.x"):
            find_peer(f"timm={bare}")

    @pytest.mark.parametrize(
        ("has", "words"),
        [({"timm": "1.0"}, "has timm, but no torch, which it needs"), ({"timm": "1.0", "torch": "2"}, "")],
    )
    def test_a_peer_is_asked_in_its_own_environment(
        self, has: dict[str, str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("PYTHONPATH", "ours")
        python = tmp_path / "python"
        said = json.dumps({**has, "path": "[$PYTHONPATH]", "asked": "$*"}).replace('"', '\\"')
        python.write_text(f'#!/bin/sh\necho "{said}"\n')
        python.chmod(0o755)
        if words:
            with pytest.raises(ValueError, match=words):
                find_peer("timm=~/python")
        else:
            found = find_peer("timm=~/python")
            assert (found.kind, found.python, found.title) == ("timm", str(python), "timm 1.0")
            assert found.versions == {**has, "path": "[]", "asked": f"{peer.__file__} --versions"}


class TestSettings:
    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"engines": ("torch", "tensorrt")}, "engines: expected some of torch, openvino, onnx; found tensorrt"),
            ({"precisions": ("fp32",)}, "precision: expected some of f32, bf16, f16, int8; found fp32"),
            ({"attentions": ()}, "attention: expected some of eager, sdpa; found none"),
            ({"batch_sizes": (1, 0)}, "batch sizes: expected numbers from 1 on, found 1, 0"),
            ({"batch_sizes": ()}, "no batch size"),
            ({"token_merging": (-1,)}, "token merging"),
            ({"repetitions": 0}, "1 or more repetitions"),
            ({"engines": ("onnx",), "compiled": True}, "compile is for the engine torch"),
        ],
    )
    def test_what_cannot_be_measured(self, changes: dict[str, Any], words: str) -> None:
        with pytest.raises(ValueError, match=r"\w") as found:
            Settings(**changes)
        assert words in str(found.value)

    def test_the_command_says_the_same_again_without_places(self, tmp_path: Path) -> None:
        model = tmp_path / "mine"
        model.mkdir()
        settings = Settings(
            model=str(model),
            engines=("torch",),
            image_sizes=((384, 384), (224, 448)),
            compiled=True,
            token_merging=(8,),
            peers=(Peer("timm", str(tmp_path / "python"), {"timm": "1.0"}),),
            device="cpu",
            threads=2,
        )
        assert settings.command() == (
            "vit-hybrid benchmark mine --image-sizes 384,224x448 --batch-sizes 1,2,4,8 --engines torch --attention "
            "eager,sdpa --precision f32 --compile --token-merging 8 --peers timm=PYTHON --device cpu --threads 2 "
            "--repetitions 9 --warm-up 2"
        )

    def test_defaults_are_what_is_installed(self) -> None:
        settings = Settings()
        assert "torch" in settings.engines
        assert settings.threads == machine.usable_cores()
        assert settings.batch_sizes == (1, 2, 4, 8)  # those of the documentation's table


class TestModels:
    def test_presets_are_not_what_is_there(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        assert opening.is_preset("R50+B/16")
        assert opening.is_preset("vit_base_r50_s16_384")
        assert not opening.is_preset("timm/vit_base_r50_s16_384.orig_in21k_ft_in1k")  # which is on the hub
        assert not opening.is_preset("vit-hybrid-tiny-imagenet")
        assert not opening.is_preset("somebody/model")
        monkeypatch.chdir(tmp_path)
        Path("R26+S").mkdir()
        Path("R26+S/32").mkdir()
        assert not opening.is_preset("R26+S/32")

    def test_random_weights_are_always_the_same(self, tmp_path: Path) -> None:
        from safetensors.numpy import load_file

        found = []
        for number, name in enumerate(("one", "two")):
            (tmp_path / name).mkdir()
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(number)  # whatever was drawn before
                state = torch.get_rng_state()
                with pytest.warns(EngineWarning, match=r"R\+Ti/16: .* the weights are random"):
                    prepared = models.prepare("R+Ti/16", (64, 64), 2, tmp_path / name, for_timm=True, for_int8=True)
                assert torch.equal(torch.get_rng_state(), state)
            found.append(load_file(prepared.folder / "model.safetensors"))
            assert isinstance(prepared.timm, Path)
        assert all((found[0][name] == found[1][name]).all() for name in found[0])
        pixels = np.load(prepared.pixels)
        assert pixels.shape == (2, 3, 64, 64)
        assert (pixels[0] != pixels[1]).any()
        assert prepared.calibration is not None
        assert len(np.load(prepared.calibration)) == 32
        assert not any((pixels == one).all((1, 2, 3)).any() for one in np.load(prepared.calibration))
        assert prepared.about["image_size"] == [64, 64]

    def test_large_batches_repeat_pictures(
        self, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(models, "MOST_PICTURES", 2)
        prepared = models.prepare(str(tiny_folder), None, 3, tmp_path)
        assert prepared.timm is prepared.calibration is None
        pixels = np.load(prepared.pixels, mmap_mode="r")
        assert len(pixels) == 3
        assert (pixels[2] == pixels[0]).all()
        assert (pixels[1] != pixels[0]).any()

    def test_pictures_are_made_up_for_one_channel_and_three(
        self, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(models, "MODES", {1: "L"})
        said = f"^{tiny_folder}: it takes images of 3 channels; pictures can be made up for 1 and 3"
        with pytest.raises(ValueError, match=said):
            models.prepare(str(tiny_folder), None, 1, tmp_path)

    @pytest.mark.parametrize(
        ("widths", "size", "maps"),
        [
            ([256, 512, 1024], (384, 320), [128, 48, 40]),
            ([256], (384, 320), [64, 96, 80]),  # of the only stage, whose sides are a fourth
            ([], (384, 320), [12, 96, 80]),
            ([2, 2], (4, 64), [1, 1, 8]),
        ],
    )
    def test_convolutions_are_timed_over_maps_as_large_as_the_backbones(
        self, widths: list[int], size: tuple[int, int], maps: list[int]
    ) -> None:
        backbone = SimpleNamespace(hidden_sizes=widths, embedding_size=48)
        assert models._maps(SimpleNamespace(backbone_config=backbone, image_size=size)) == maps

    def test_what_is_told_of_a_model_is_of_the_size_that_it_is_timed_at(
        self, tiny_folder: Path, tmp_path: Path
    ) -> None:
        about = models.prepare(str(tiny_folder), (32, 48), 1, tmp_path).about
        model = ViTHybridForImageClassification.from_pretrained(tmp_path / "model")
        assert about == {
            **{"image_size": [32, 48], "num_labels": 3, "tokens": 1 + 4 * 6, "maps": [8, 4, 6]},
            **{"hidden_size": model.config.hidden_size, "intermediate_size": model.config.intermediate_size},
            "parameters": sum(one.numel() for one in model.parameters()),
            "flops": complexity(model.config).total_flops,
        }

    @pytest.mark.parametrize(
        ("kinds", "precisions", "for_timm", "for_int8"),
        [
            (("legacy", "timm"), ("f32", "int8"), True, True),
            (("legacy",), ("bf16",), False, False),
            ((), ("int8",), False, True),
        ],
    )
    def test_a_model_is_saved_for_those_who_take_part(
        self,
        kinds: tuple[str, ...],
        precisions: tuple[str, ...],
        for_timm: bool,
        for_int8: bool,
        fakes: Fakes,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        asked: list[Any] = []

        def prepare(*given: Any, **how: Any) -> Any:
            asked.append((*given, how))
            raise ValueError("seen")

        monkeypatch.setattr(job, "prepare", prepare)
        peers = tuple(Peer(kind, "python", {"timm": "1.0", "transformers": "4.49.0"}) for kind in kinds)
        settings = fakes.settings(peers=peers, precisions=precisions, batch_sizes=(4, 2), image_sizes=((32, 48),))
        with pytest.raises(ValueError, match="seen"):
            job.run(settings)
        [(model, size, how)] = asked
        assert how.pop("folder").name == "0"
        assert (model, size) == (str(fakes.model), (32, 48))
        assert how == {"most_pictures": 4, "for_timm": for_timm, "for_int8": for_int8}

    @pytest.mark.parametrize(
        ("said", "told"),
        [
            ("timm has no such model, so x was not written: a\nb. (Weights of other numerics are not.)", "a b"),
            ("no room (write a file)", "no room (write a file)"),
        ],
    )
    def test_of_timms_reason_the_advice_is_for_others(
        self, said: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_: Any, **__: Any) -> None:
            raise ValueError(said)

        monkeypatch.setattr("vit_hybrid.checkpoints.timm.save", refuse)
        assert str(models._save_for_timm(None, None, tmp_path)) == f"timm has no such model: {told}"

    def test_what_timm_cannot_hold_is_a_reason(self, tiny_folder: Path, tmp_path: Path) -> None:
        prepared = models.prepare(str(tiny_folder), None, 1, tmp_path, for_timm=True)
        assert isinstance(prepared.timm, ValueError)
        assert str(tmp_path) not in str(prepared.timm)
        assert str(prepared.timm).endswith("none of timm's has this ResNet")

    def test_names_do_not_say_where_a_model_lies(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "mine").mkdir()
        assert models.base_name(f"{tmp_path}/mine/") == "mine"
        monkeypatch.chdir(tmp_path / "mine")
        assert models.base_name(".") == "mine"
        assert models.base_name("R50+B/16") == "R50+B/16"


class TestBundles:
    @pytest.fixture
    def bundle(self, tiny_folder: Path, tmp_path: Path) -> Path:
        from vit_hybrid.bundles.manifest import Bundle, write_manifest

        folder = tmp_path / "exported"
        shutil.copytree(tiny_folder, folder)
        (folder / "program.xml").write_text("<program/>")
        write_manifest(
            Bundle("openvino", "int8", "program.xml", ("a", "b", "c"), "single_label_classification", 3, (32, 32)),
            folder,
        )
        return folder

    def test_its_engine_is_the_only_contender(self, fakes: Fakes, bundle: Path) -> None:
        settings = replace(fakes.settings(), model=str(bundle))
        found = job.run(settings)
        assert [row["contender"] for row in found["rows"]] == ["openvino int8"] * 2
        assert found["model"] == {"name": "exported", "weights": "as saved"}
        assert found["sizes"][0]["flops"] > 0
        assert "--engines" not in found["command"]

    def test_what_is_settled_cannot_be_changed(self, fakes: Fakes, bundle: Path) -> None:
        for changes in ({"image_sizes": ((64, 64),)}, {"peers": (Peer("timm", "python", {"timm": "1.0"}),)}):
            with pytest.raises(ValueError, match=f"^{bundle}: a bundle is for one engine and one image size"):
                Settings(model=str(bundle), **changes)

    def test_it_is_read_where_it_lies(self, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", str(bundle.parent))
        (tmp_path / "saved").mkdir()
        prepared = models.prepare("~/exported", None, 1, tmp_path / "saved")
        assert (prepared.folder, prepared.is_bundle, models.base_name("~/exported")) == (bundle, True, "exported")
        assert [path.name for path in (tmp_path / "saved").iterdir()] == ["pixels.npy"]

    def test_one_that_runs_elsewhere_is_refused(self, bundle: Path) -> None:
        manifest = json.loads((bundle / "bundle.json").read_text())
        (bundle / "bundle.json").write_text(json.dumps({**manifest, "engine": "executorch"}))
        with pytest.raises(ValueError, match=f"^{bundle}: this bundle is for executorch, which runs elsewhere"):
            Settings(model=str(bundle))

    def test_a_damaged_one_is_refused(self, bundle: Path) -> None:
        (bundle / "program.xml").write_text("<another/>")
        with pytest.raises(ValueError, match=r"program\.xml"):
            Settings(model=str(bundle))


class TestMachine:
    def test_says_what_it_is_and_not_whose(self) -> None:
        found = machine.describe()
        assert found["usable_cores"] >= 1
        assert found["libraries"]["numpy"] == np.__version__
        text = json.dumps(found)
        assert os.uname().nodename not in text or len(os.uname().nodename) < 4
        assert str(Path.home()) not in text

    def test_abilities(self) -> None:
        info = "model name\t: Some CPU\nflags\t\t: fpu avx2 avx512f avx512_bf16 amx_tile amx_bf16 hypervisor\n\n"
        assert machine.abilities(info) == ["avx2", "avx512f", "avx512_bf16", "amx_tile", "amx_bf16"]
        assert machine.abilities("Features\t: fp asimd bf16 i8mm\n") == ["asimd", "bf16", "i8mm"]
        assert machine.abilities("") == []


@pytest.fixture(scope="module")
def real(tiny_folder: Path) -> report.Report:
    """The tiny model with the engines themselves."""
    settings = Settings(
        model=str(tiny_folder),
        batch_sizes=(1, 2),
        engines=tuple(name for name in ("torch", "openvino") if name in line.installed_engines()),
        attentions=("sdpa",),
        device="cpu",
        threads=1,
        repetitions=1,
        warm_up=0,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(race, "STARTS", 1)
        return job.run(settings)


class TestRealContenders:
    def test_engines_give_the_same_logits(self, real: report.Report) -> None:
        assert not real["failures"]
        assert not real["remarks"]
        for row in real["rows"]:
            assert row["reference"] == "torch f32 sdpa"
            assert row["difference"] < 1e-4
            assert row["agreement"] == 1.0
            assert row["share_of_rate"] > 0
        assert real["sizes"][0]["preprocessing"]["decode_and_preprocess_per_second"] > 5
        assert real["sizes"][0]["preprocessing"].keys() == {"decode_per_second", "decode_and_preprocess_per_second"}

    def test_starts_and_memory(self, real: report.Report) -> None:
        for one in real["contenders"]:
            assert 0.1 < one["start_seconds"][0] < 300
            assert one["start_peak_bytes"][0] > 50e6
            assert one["device"] == "cpu"

    def test_a_worker_imports_what_its_engine_needs(self) -> None:
        code = "import sys, vit_hybrid.benchmark.worker; print(*{'torch', 'transformers', 'numpy'} & set(sys.modules))"
        assert not fresh_process.run(code).strip()


class TestRealPeers:
    @pytest.mark.parametrize(
        ("kind", "variable", "name"), [("legacy", LEGACY_PYTHON, "transformers 4."), ("timm", TIMM_PYTHON, "timm 1.")]
    )
    def test_peers_compute_the_same(
        self, kind: str, variable: str, name: str, fakes: Fakes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if variable not in os.environ:
            pytest.skip(f"{variable} names no interpreter with that library")
        peer_of_it = find_peer(f"{kind}={os.environ[variable]}")
        commands = {
            True: [peer_of_it.python, peer.__file__],
            False: [sys.executable, "-m", "vit_hybrid.benchmark.worker"],
        }
        monkeypatch.setattr(line, "command", lambda contender: commands[contender.peer is not None])
        settings = fakes.settings(precisions=("f32", "bf16"), attentions=("sdpa",), peers=(peer_of_it,))
        with pytest.warns(EngineWarning, match="the weights are random"):
            report = job.run(replace(settings, model="R+Ti/16", image_sizes=((64, 64),)))
        rows = by_name(report["rows"], 2)
        of_peer = [row for contender, row in rows.items() if contender.startswith(name)]
        assert len(of_peer) == 2
        assert of_peer[0]["reference"] == "torch f32 sdpa"
        assert of_peer[0]["difference"] < 1e-3
        assert 0 < of_peer[1]["difference"] < 0.1


class TestFiles:
    def test_all_three_are_written_whole(self, measured: report.Report, tiny_folder: Path, tmp_path: Path) -> None:
        place = tmp_path / "deep" / "results"
        paths = job.write_files(measured, place)
        assert paths == [place / name for name in ("results.json", "results.md", "chart.png")]
        assert sorted(place.iterdir()) == sorted(paths)
        assert json.loads((place / "results.json").read_text()) == measured
        assert (place / "results.json").read_text().startswith('{\n "format": "vit-hybrid benchmark 1",\n')
        page = (place / "results.md").read_text()
        assert "| batch size | eager ms | sdpa ms | speed-up |\n| ---: | ---: | ---: | ---: |\n| 1 | " in page
        assert page.count("| batch size |") == 2
        assert "torch bf16 sdpa | 32 x 32, 64 x 64 | 2 | MemoryError: no room for two |" in page
        assert "chart.png" in page
        for text in (page, (place / "results.json").read_text()):
            assert str(tiny_folder) not in text
            assert str(tiny_folder.parent) not in text
        with Image.open(place / "chart.png") as image:
            pixels = np.asarray(image.convert("RGB")).astype(int)
        assert (pixels.max(-1) - pixels.min(-1) > 60).any()

    def test_what_is_no_number_is_no_json(self) -> None:
        assert job.as_json({"a": 1}) == '{"a": 1}\n'
        with pytest.raises(ValueError, match="not JSON compliant"):
            job.as_json({"a": float("nan")})

    def test_files_that_cannot_be_written_leave_the_old_ones_whole(
        self, measured: report.Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("vit_hybrid.benchmark.chart.chart", lambda *_: None)
        for name in ("results.json", "results.md"):
            (tmp_path / name).write_text("the old one")
        write = Path.write_text

        def fill_the_disk(path: Path, text: str, **how: Any) -> int:
            write(path, text[:10], **how)
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(Path, "write_text", fill_the_disk)
        with pytest.raises(OSError, match="No space left"):
            job.write_files(measured, tmp_path)
        assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
            "results.json": "the old one",
            "results.md": "the old one",
        }

    def test_the_chart_has_a_panel_for_each_size_and_one_for_all(self, measured: report.Report, tmp_path: Path) -> None:
        from vit_hybrid.benchmark.chart import chart

        one = {**measured, "sizes": measured["sizes"][:1]}
        chart(measured, tmp_path / "three.png")
        chart(one, tmp_path / "one.png")
        with Image.open(tmp_path / "three.png") as wide, Image.open(tmp_path / "one.png") as narrow:
            assert wide.width > 2 * narrow.width
            first = [row for row in measured["rows"] if row["batch_size"] == 1]
            chart(
                {**measured, "settings": {**measured["settings"], "batch_sizes": [1]}, "rows": first},
                tmp_path / "1.png",
            )
            with Image.open(tmp_path / "1.png") as sizes_alone:
                assert sizes_alone.width == narrow.width
        less = {**measured, "rows": [row for row in measured["rows"] if row["contender"] != "torch f32 sdpa"]}
        chart(less, tmp_path / "less.png")
        assert (tmp_path / "less.png").read_bytes() != (tmp_path / "three.png").read_bytes()
        chart({**one, "rows": []}, tmp_path / "empty.png")

    def test_starts_have_the_first_and_the_shortest_of_the_others(self, measured: report.Report) -> None:
        about = {"image_size": (32, 48), "device": "cpu"}
        started = {"name": "a", "start_seconds": [3.0, 1.75, 1.25], "start_peak_bytes": [9 * 10**6, 10**6, 5 * 10**6]}
        once = {"name": "b", "start_seconds": [2.0], "start_peak_bytes": [10**6]}
        never = {"name": "c", "start_seconds": [], "start_peak_bytes": []}
        contenders = [{**about, **one} for one in (started, once, never)]
        found = {table.title: table for table in tables.tables({**measured, "contenders": contenders})}["Start-up"]
        assert found.rows == [
            ("a", "32 x 48", "cpu", "3.00", "1.25", "5"),
            ("b", "32 x 48", "cpu", "2.00", "-", "1"),
        ]

    def test_the_chart_of_one_batch_has_a_bar_for_each_contender(
        self, measured: report.Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from matplotlib.figure import Figure

        from vit_hybrid.benchmark.chart import chart

        figures: list[Any] = []
        save = Figure.savefig
        monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (figures.append(self), save(self, *a, **k)))
        rows = [row for row in measured["rows"] if row["batch_size"] == 1 and row["image_size"] == [32, 32]]
        settings = {**measured["settings"], "batch_sizes": [1]}
        chart({**measured, "sizes": measured["sizes"][:1], "settings": settings, "rows": rows}, tmp_path / "bars.png")
        [axes] = figures[0].axes
        names = [label.get_text() for label in axes.get_yticklabels()]
        assert names == [row["contender"] for row in rows]
        lengths = [patch.get_width() for patch in axes.patches]
        assert lengths == pytest.approx([1000 * row["min"] for row in rows])
        assert not axes.get_lines()

    @pytest.mark.parametrize("name", ["R50+B/16", "a model with a name as long as names of models can be, and longer"])
    def test_the_title_of_the_chart_is_beside_the_legend(
        self, name: str, measured: report.Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from matplotlib.figure import Figure

        from vit_hybrid.benchmark.chart import chart

        figures: list[Any] = []
        save = Figure.savefig
        monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (save(self, *a, **k), figures.append(self)))
        chart({**measured, "model": {**measured["model"], "name": name}}, tmp_path / "lines.png")
        left, right = figures[0].subfigs
        [legend] = right.legends
        renderer = figures[0].canvas.get_renderer()
        title = left._suptitle.get_window_extent(renderer)
        box = legend.get_window_extent(renderer)
        assert title.x1 <= box.x0
        assert box.x1 <= figures[0].bbox.x1

    def test_tables_leave_out_what_there_is_not(self, measured: report.Report) -> None:
        titles = [table.title for table in tables.tables({**measured, "table": [], "failures": []})]
        assert titles == ["All contenders", "Start-up", "The machine"]
        for table in tables.tables(measured):
            assert all(len(cells) == len(table.heads) for cells in table.rows)

    def test_a_gpu_has_its_columns(self, measured: report.Report) -> None:
        on_gpu = {"device_peak_bytes": 5 * 10**6, "min_from_numpy": 0.25}
        rows = [{**row, **on_gpu} for row in measured["rows"] if "error" not in row]
        found = {table.title: table for table in tables.tables({**measured, "rows": rows})}["All contenders"]
        cells = dict(zip(found.heads, found.rows[0], strict=True))
        assert (cells[">GPU MB"], cells[">from NumPy ms"]) == ("5", "250.00")
        assert "with the copy" in found.note

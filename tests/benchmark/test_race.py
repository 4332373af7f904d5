"""What contenders are asked for, and what becomes of their answers, without a race."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from vit_hybrid.benchmark import peer as peers
from vit_hybrid.benchmark import race
from vit_hybrid.benchmark.contenders import Contender, Peer
from vit_hybrid.benchmark.models import Prepared
from vit_hybrid.benchmark.processes import TurnFailed, WorkerFailed
from vit_hybrid.benchmark.race import MACHINE, PREPROCESSING, Cell, Entry, Heat


class Answering:
    def __init__(self, *answers: Any) -> None:
        self.answers = iter(answers)
        self.asked: list[dict[str, Any]] = []

    def ask(self, request: dict[str, Any], limit: float) -> Any:
        assert limit == race.TURN_LIMIT
        self.asked.append(request)
        answer = next(self.answers)
        if isinstance(answer, Exception):
            raise answer
        if request["logits"] is not None:
            np.save(request["logits"], np.ones((2, 3)))
        return answer


@pytest.fixture(autouse=True)
def without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(race, "PAUSE", 0.0)


def test_each_is_started_twice_before_its_rounds() -> None:
    assert race.turns(2, 3, 4) == 2 * (2 + 3 * 4)


def turns(tmp_path: Path, worker: Any, count: int, timed_from: int = 1) -> tuple[Entry, Cell]:
    entry, cell = Entry(Contender("torch", "f32")), Cell()
    for turn in range(count):
        logits = tmp_path / "0.npy" if turn == 0 else None
        race._take_turn(worker, entry, cell, 2, logits, is_timed=turn >= timed_from)
    return entry, cell


def test_times_are_of_timed_turns_and_memory_is_the_most_of_all(tmp_path: Path) -> None:
    peaks = [(5, None), (9, 2), (7, 4), (None, 3)]
    answers = [
        {"seconds": [0.1 * turn], "peak_bytes": peak, "device_peak_bytes": device, "copied_seconds": [turn]}
        for turn, (peak, device) in enumerate(peaks)
    ]
    worker = Answering(*answers)
    entry, cell = turns(tmp_path, worker, 4, timed_from=2)
    assert (cell.seconds, cell.copied_seconds) == ([0.2, pytest.approx(0.3)], [2, 3])
    assert (cell.peak_bytes, cell.device_peak_bytes) == (9, 4)
    assert cell.logits is not None
    assert cell.logits.shape == (2, 3)
    assert [(one["batch"], one["fresh"]) for one in worker.asked] == [(2, True), (2, False), (2, False), (2, False)]
    assert {one["least_seconds"] for one in worker.asked} == {race.TURN}
    assert entry.error is cell.error is None


@pytest.mark.parametrize(("error", "is_out"), [(TurnFailed("too large"), False), (WorkerFailed("it ended"), True)])
def test_a_turn_that_fails_ends_its_cell_and_a_process_that_ends_all_of_them(
    error: Exception, is_out: bool, tmp_path: Path
) -> None:
    entry, cell = turns(tmp_path, Answering({"seconds": [0.1]}, error), 2)
    assert (cell.error, entry.error) == (str(error), str(error) if is_out else None)
    assert cell.seconds == []


def test_logits_that_were_not_written_are_an_error_of_their_cell(tmp_path: Path) -> None:
    worker: Any = SimpleNamespace(ask=lambda request, limit: {"seconds": [0.1]})
    entry, cell = turns(tmp_path, worker, 1)
    assert (entry.error, cell.seconds) == (None, [])
    assert cell.error is not None
    assert "0.npy" in cell.error


ABOUT = {"hidden_size": 16, "intermediate_size": 24, "maps": [4, 5, 6], "tokens": 10}


def prepared(**changes: Any) -> Prepared:
    fields: dict[str, Any] = {
        **{"folder": Path("folder"), "pixels": Path("pixels.npy"), "calibration": Path("others.npy")},
        **{"timm": Path("timm"), "mode": "RGB", "is_bundle": False, "about": ABOUT},
    }
    return Prepared(**{**fields, **changes})


class TestTask:
    """What a process is told to load."""

    @pytest.mark.parametrize(
        ("contender", "options"),
        [
            (
                Contender("torch", "f32", "eager"),
                {"device": "cuda:1", "compile": False, "token_merging": None, "attention": "eager"},
            ),
            (
                Contender("torch", "bf16", compiled=True),
                {"device": "cuda:1", "compile": True, "token_merging": None, "attention": None},
            ),
            (
                Contender("openvino", "int8", token_merging=3),
                {"device": None, "compile": False, "token_merging": 3, "attention": None, "calibration": "others.npy"},
            ),
        ],
    )
    def test_of_our_own_engines(self, contender: Contender, options: dict[str, Any]) -> None:
        settled = {"engine": contender.engine, "precision": contender.precision, "threads": 7}
        assert race._task(contender, prepared(), "cuda:1", 7) == {
            "kind": "engine",
            "model": "folder",
            "pixels": "pixels.npy",
            "options": {**settled, "calibration": None, **options},
        }
        of_a_bundle = race._task(contender, prepared(is_bundle=True), "cuda:1", 7)
        assert of_a_bundle["options"] == settled

    @pytest.mark.parametrize(("kind", "model"), [("legacy", "folder"), ("timm", "timm")])
    def test_of_a_peer(self, kind: str, model: str) -> None:
        contender = Contender(None, "bf16", "sdpa", peer=Peer(kind, "python", {}))
        assert race._task(contender, prepared(), "cpu", 7) == {
            **{"kind": kind, "model": model, "dtype": "bfloat16", "attention": "sdpa"},
            **{"device": "cpu", "threads": 7, "pixels": "pixels.npy"},
        }

    def test_of_a_peer_that_has_no_such_model(self) -> None:
        contender = Contender(None, "f32", "sdpa", peer=Peer("timm", "python", {}))
        with pytest.raises(ValueError, match="timm has no such model"):
            race._task(contender, prepared(timm=ValueError("timm has no such model")), "cpu", 7)


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Those that were started, in place of processes."""
    started: list[Any] = []

    class Worker:
        def __init__(self, command: list[str], environment: dict[str, str]) -> None:
            self.command, self.environment = command, environment
            self.threads, self.closed = environment["OMP_NUM_THREADS"], False
            self.ready, self.start_seconds = {"device_name": "Abacus", "peak_bytes": 9}, 2.5
            self.asked: list[dict[str, Any]] = []
            self.answer: Any = {}
            started.append(self)

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *_: object) -> None:
            self.closed = True

        def close(self) -> None:
            self.closed = True

        def start(self, task: dict[str, Any], limit: float) -> None:
            self.task = task
            assert limit == race.START_LIMIT

        def ask(self, request: dict[str, Any], limit: float) -> dict[str, Any]:
            self.asked.append(request)
            if isinstance(self.answer, Exception):
                raise self.answer
            if request.get("logits"):
                np.save(request["logits"], np.full((request["batch"], 2), len(self.asked)))
            return self.answer

    monkeypatch.setattr(race, "Worker", Worker)
    return started


class TestStarted:
    @pytest.mark.parametrize("peer", [None, Peer("legacy", "/there/python", {"transformers": "4.49.0"})])
    def test_in_its_environment_with_its_task(
        self, peer: Peer | None, workers: list[Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PYTHONPATH", "ours")
        entry = Entry(Contender("torch" if peer is None else None, "f32", "sdpa", peer=peer))
        for _ in range(2):
            assert race._started(entry, prepared(), "cpu", 7, Path("cache")) is workers[-1]
        worker = workers[-1]
        ours = [sys.executable, "-P", "-m", "vit_hybrid.benchmark.worker"]
        assert worker.command == (ours if peer is None else ["/there/python", peers.__file__])
        assert worker.environment.get("PYTHONPATH") == ("ours" if peer is None else None)
        assert (worker.threads, worker.environment["VIT_HYBRID_CACHE"]) == ("7", str(Path("cache", "vit_hybrid_cache")))
        assert worker.task == race._task(entry.contender, prepared(), "cpu", 7)
        assert (entry.start_seconds, entry.start_peak_bytes, entry.error) == ([2.5, 2.5], [9, 9], None)
        assert entry.ready["device_name"] == "Abacus"

    def test_once_the_threads_of_the_one_before_have_stopped(
        self, workers: list[Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        slept: list[tuple[float, int]] = []
        monkeypatch.setattr(race, "PAUSE", 0.25)
        monkeypatch.setattr(race.time, "sleep", lambda seconds: slept.append((seconds, len(workers))))
        race._started(Entry(Contender("torch", "f32")), prepared(), "cpu", 7, Path("cache"))
        assert slept == [(0.25, 0)]
        worker = Answering({"seconds": [0.1]})
        race._take_turn(worker, Entry(Contender("torch", "f32")), Cell(), 2, None, is_timed=True)  # type: ignore[arg-type]
        with ExitStack() as stack:
            TestMachine.machine("f32", stack=stack)[0]._ask(MACHINE, {"precision": "f32"})
        assert [seconds for seconds, _ in slept] == [0.25] * 3

    def test_or_why_it_is_not(self, workers: list[Any]) -> None:
        entry = Entry(Contender(None, "f32", "sdpa", peer=Peer("timm", "python", {"timm": "1.0"})))
        nothing = prepared(timm=ValueError("timm has no such model"))
        assert race._started(entry, nothing, "cpu", 7, Path("cache")) is None
        assert (entry.error, entry.start_seconds, workers) == ("timm has no such model", [], [])


def test_rounds_to_warm_up_come_first_and_logits_are_those_of_the_first(
    workers: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        race,
        "_Machine",
        lambda *_: SimpleNamespace(turn=lambda batch, is_first_batch: rounds.append((batch, is_first_batch))),
    )
    monkeypatch.setattr(race, "STARTS", 3)
    started, rounds, advanced = race._started, list[Any](), list[int]()

    def answering(*how: Any) -> Any:
        worker: Any = started(*how)
        worker.answer = {"seconds": [0.5]}
        return worker

    monkeypatch.setattr(race, "_started", answering)
    heat = race.race(
        [Contender("torch", "f32"), Contender("onnx", "f32")],
        *(prepared(), [1, 4], "cpu", 7, 2, 3, tmp_path, lambda: advanced.append(1)),
    )
    assert [worker.closed for worker in workers] == [True] * 6  # the last of each at the end
    assert [len(worker.asked) for worker in workers] == [0, 0, 10, 0, 0, 10]
    assert [request["batch"] for request in workers[2].asked] == [1] * 5 + [4] * 5
    assert {Path(worker.environment["VIT_HYBRID_CACHE"]).parent for worker in workers} == {tmp_path}
    assert [request["fresh"] for request in workers[5].asked] == 2 * [True, *[False] * 4]
    assert [request["logits"] is not None for request in workers[5].asked] == 2 * [True, *[False] * 4]
    assert rounds == [(1, True)] * 5 + [(4, False)] * 5
    assert len(advanced) == race.turns(2, 2, 5) == 2 * (3 + 10)
    for entry in heat.entries:
        assert {batch: len(cell.seconds) for batch, cell in entry.cells.items()} == {1: 3, 4: 3}
        assert [cell.logits.tolist()[0][0] for cell in entry.cells.values() if cell.logits is not None] == [1, 6]
        assert len(entry.start_seconds) == 3


class TestMachine:
    @staticmethod
    def machine(*precisions: str, stack: ExitStack) -> tuple[race._Machine, Heat]:
        heat = Heat(ABOUT, [Entry(Contender("openvino", precision)) for precision in precisions])
        return race._Machine(heat, prepared(), "cpu", 7, stack), heat

    def test_products_have_the_threads_of_contenders_and_preprocessing_one(self, workers: list[Any]) -> None:
        with ExitStack() as stack:
            _, heat = self.machine("f32", stack=stack)
            products, preprocessing = workers
            assert (products.threads, preprocessing.threads, heat.device_name) == ("7", "1", "Abacus")
            assert products.task == {
                **{"kind": "matrix-product", "device": "cpu", "threads": 7},
                **{"hidden": 16, "inner": 24, "maps": [4, 5, 6]},
            }
            assert preprocessing.task == {
                **{"kind": "preprocessing", "preprocessing": "folder/preprocessor_config.json"},
                **{"pictures": race.PICTURES, "mode": "RGB"},
            }
            assert not products.closed
        assert products.closed
        assert preprocessing.closed

    def test_a_round_measures_each_rate_and_preprocessing_with_the_first_batch(self, workers: list[Any]) -> None:
        with ExitStack() as stack:
            machine, heat = self.machine("f32", "f16", "int8", "bf16", stack=stack)
            products, preprocessing = workers
            products.answer, preprocessing.answer = {"rate": 5.0}, {"seconds": [3.0, 2.0], "pictures": 4}
            machine.turn(2, is_first_batch=True)
            machine.turn(100, is_first_batch=False)
            asked = list(preprocessing.asked)
            for seconds in ([1.0, 9.0], [6.0]):  # of all rounds the least counts
                preprocessing.answer = {"seconds": seconds, "pictures": 4}
                machine.turn(0, is_first_batch=True)
        least = {"least_seconds": race.TURN}
        # Ten tokens a picture, of sixteen at most; what is narrower than float32 is held against bfloat16.
        assert products.asked[:10] == [
            {**asked, **least}
            for pictures in (2, 16)
            for asked in (
                *({"rows": 10 * pictures, "precision": one} for one in ("bf16", "f32", "int8")),
                *({"batch": pictures, "precision": f"{one} convolution"} for one in ("bf16", "f32")),
            )
        ]
        assert asked == [{"decode_only": only, **least} for only in (True, False)]
        assert heat.rates == {"bf16": 5.0, "f32": 5.0, "int8": 5.0}
        assert heat.convolutions == {"bf16": 5.0, "f32": 5.0}
        assert heat.preprocessing == {"decode": 0.25, "decode_and_preprocess": 0.25}

    def test_what_is_refused_is_told_once_and_not_asked_again(self, workers: list[Any]) -> None:
        with ExitStack() as stack:
            machine, heat = self.machine("f32", stack=stack)
            products, preprocessing = workers
            products.answer, preprocessing.answer = TurnFailed("no kernel"), WorkerFailed("it ended")
            for _ in range(2):
                machine.turn(1, is_first_batch=True)
        assert heat.remarks == [
            f"{MACHINE}, f32: no kernel",
            f"{MACHINE}, f32 convolution: no kernel",
            f"{PREPROCESSING}: it ended",
        ]
        assert (len(products.asked), len(preprocessing.asked)) == (2, 1)
        assert preprocessing.closed
        assert (heat.rates, heat.preprocessing) == ({}, {})

    def test_decoding_that_is_refused_is_told_and_so_is_all_that_follows(self, workers: list[Any]) -> None:
        with ExitStack() as stack:
            machine, heat = self.machine("f32", stack=stack)
            workers[0].answer, workers[1].answer = {"rate": 5.0}, TurnFailed("no decoder")
            for _ in range(2):
                machine.turn(1, is_first_batch=True)
        assert heat.remarks == [f"{PREPROCESSING}: no decoder"] * 2
        assert [request["decode_only"] for request in workers[1].asked] == [True, False]

"""What a run hands on to the race, and how it ends."""

from __future__ import annotations

import os
import shutil
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from fake_contenders import Fakes

from vit_hybrid.benchmark import contenders, job, models, processes
from vit_hybrid.benchmark.contenders import Contender, Peer, find_peer
from vit_hybrid.benchmark.processes import Worker, WorkerFailed
from vit_hybrid.benchmark.settings import Settings
from vit_hybrid.bundles.manifest import Bundle, write_manifest
from vit_hybrid.checkpoints import published
from vit_hybrid.data.made import photo_sized_picture


def test_a_race_is_run_as_was_asked_beside_what_keeps_cores_busy(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Any] = []

    def noted(name: str) -> Any:
        @contextmanager
        def around(*what: Any) -> Any:
            told.append((name, *what))
            yield
            told.append(f"end of {name}")

        return around

    def race(*what: Any) -> Any:
        told.append("race")
        *given, folder, _ = what
        raced.append((*given, folder.name, folder.is_dir()))
        return SimpleNamespace()

    raced: list[Any] = []
    prepared = [object(), object()]
    monkeypatch.setattr(job, "prepare", lambda model, size, **how: told.append(size) or prepared[size == (32, 48)])
    monkeypatch.setattr(job, "busy", noted("busy"))
    monkeypatch.setattr(job, "race", race)
    monkeypatch.setattr("vit_hybrid.engines.devices.usable_device", lambda device: torch.device(f"{device}:1"))
    monkeypatch.setattr(job.reports, "make", lambda *what: {"made": what})
    settings = Settings(
        model=str(tiny_folder),
        batch_sizes=(4, 1, 4),
        image_sizes=(None, (32, 48)),
        engines=("torch",),
        device="cuda",
        threads=3,
        repetitions=5,
        warm_up=7,
        busy=2,
    )
    found = job.run(settings, preparing=noted("preparing"))
    around = [("busy", 2), "race", "end of busy"]
    assert told == [
        *(("preparing",), None, "end of preparing", *around),
        *(("preparing",), (32, 48), "end of preparing", *around),
    ]
    contenders = settings.contenders()
    assert raced == [
        (contenders, prepared[number], [1, 4], "cuda:1", 3, 7, 5, str(number), True) for number in range(2)
    ]
    made, heats, device = found["made"]
    assert (made, len(heats), device) == (settings, 2, "cuda:1")


def test_outside_the_main_thread_signals_are_left_to_it() -> None:
    done: list[int] = []

    def run() -> None:
        with job._ending_on_request():
            done.append(1)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert done == [1]


def test_a_process_that_is_no_longer_wanted_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[bool] = []

    class Noting(Worker):
        def close(self, at_once: bool = False) -> None:
            ended.append(at_once)
            super().close(at_once=True)

    def command(says: str) -> list[str]:
        return ["/bin/sh", "-c", f"read task; echo '{says}'; read request"]

    with Noting(command('5\n[1]\n{"ready": {"device": "cpu"}}'), {}) as worker:
        worker.start({}, 20.0)
        assert worker.ready == {"device": "cpu"}  # whatever was printed before
    with pytest.raises(ZeroDivisionError), Noting(command("{}"), {}):
        raise ZeroDivisionError
    for says, at_once, said in (('{"error": "no room"}', False, "^no room$"), ("{}", False, "^it gave no answer$")):
        with pytest.raises(WorkerFailed, match=said):
            Noting(command(says), {}).start({}, 20.0)
        assert ended.pop() is at_once
    with pytest.raises(WorkerFailed, match=r"^it gave no answer within 0\.01 seconds$"):
        Noting(command("no JSON"), {}).start({}, 0.01)
    assert ended == [False, True, True]
    began = time.monotonic()
    talking = "for word in $(seq 150); do echo $word; sleep 0.02; done"
    with pytest.raises(WorkerFailed, match=r"^it gave no answer within 0\.2 seconds$"):
        Noting(["/bin/sh", "-c", talking], {"PATH": os.defpath}).start({}, 0.2)
    assert time.monotonic() - began < 2.5  # whatever it says that is no answer


def test_a_process_that_says_nothing_more_but_lives_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "GRACE", 0.05)
    worker = Worker(["/bin/sh", "-c", "read task; exec 1>&-; read request"], {})
    with pytest.raises(WorkerFailed, match=r"^its process closed its output$"):
        worker.start({}, 20.0)


@pytest.mark.parametrize("foreign", [False, True])
def test_the_environment_of_a_process_is_ours_but_for_what_means_nothing_there(
    foreign: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "VIRTUAL_ENV", "PYTHONWARNINGS")
    for name in (*ours, "OMP_NUM_THREADS", "TRANSFORMERS_VERBOSITY", "SOMETHING"):
        monkeypatch.setenv(name, "ours")
    found = processes.environment(3, foreign)
    assert {name: found[name] for name in ours if name in found} == ({} if foreign else dict.fromkeys(ours, "ours"))
    assert (found["SOMETHING"], found["OMP_NUM_THREADS"], found["TRANSFORMERS_VERBOSITY"]) == ("ours", "3", "error")


@pytest.mark.parametrize("what", ["echo '[]'", "{}; exit 1", "sleep 2; {}"])
def test_a_python_that_answers_something_else_too_late_or_fails_is_no_peer(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contenders, "PROBE_LIMIT", 0.1 if "sleep" in what else 60.0)
    python = tmp_path / "python"
    versions = """echo '{"timm": "1.0", "torch": "2"}'"""
    python.write_text(f"#!/bin/sh\n{what.replace('{}', versions)}\n")
    python.chmod(0o755)
    with pytest.raises(ValueError, match=f"^--peers timm={python}: {python} is no Python 3.9 or newer that answers$"):
        find_peer(f"timm={python}")


def test_of_a_bundle_what_is_settled_is_neither_varied_nor_in_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    what = (("a", "b"), "single_label_classification", 3, (32, 32))
    bundle = Bundle("openvino", "int8", "program.xml", *what, token_merging=4)
    monkeypatch.setattr("vit_hybrid.benchmark.settings.read_if_bundle", lambda model: bundle)
    settings = Settings(model="exported", engines=("torch",), compiled=True, token_merging=(2,), threads=1)
    assert settings.contenders() == [Contender("openvino", "int8", token_merging=4)]
    assert settings.command() == (
        "vit-hybrid benchmark exported --batch-sizes 1,2,4,8 --threads 1 --repetitions 9 --warm-up 2"
    )


def test_a_bundle_that_does_not_say_how_pictures_are_prepared_has_those_of_the_published(
    tiny_folder: Path, tmp_path: Path
) -> None:
    exported, saved = tmp_path / "exported", tmp_path / "saved"
    shutil.copytree(tiny_folder, exported)
    saved.mkdir()
    (exported / "preprocessor_config.json").unlink()
    (exported / "program.xml").write_text("<program/>")
    what = (("a", "b", "c"), "single_label_classification", 3, (32, 32))
    write_manifest(Bundle("openvino", "int8", "program.xml", *what), exported)
    pixels = np.load(models.prepare(str(exported), None, 1, saved).pixels)
    expected = published.preprocessing((32, 32), 3)([photo_sized_picture(0, "RGB")])
    np.testing.assert_array_equal(pixels, expected)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"warm_up": -1}, "0 or more rounds of warm-up, found 9, 3 and -1"),
        ({"repetitions": 0}, "found 0, 3 and 2"),
        ({"threads": -1}, "found 9, -1 and 2"),
        ({"image_sizes": ()}, "there is no batch size or no image size to measure"),
        ({"precisions": ()}, "precision: expected some of f32, bf16, f16, int8; found none"),
        ({"token_merging": (2, 0)}, "token merging: expected numbers from 1 on, found 2, 0"),
        ({"compiled": True, "engines": ("onnx", "openvino")}, "and the engines are onnx, openvino"),
    ],
)
def test_what_cannot_be_measured_is_said_with_what_was_given(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Settings(**{"threads": 3, **changes})
    peers = (Peer("timm", "python", {"timm": "1.0"}),)
    least = Settings(engines=("onnx",), token_merging=(2,), peers=peers, threads=1, warm_up=0, repetitions=1)
    assert [one.name for one in least.contenders()] == ["onnx f32", "onnx f32, merging 2", "timm 1.0 f32 sdpa"]


def test_the_command_names_what_is_not_as_usual_and_no_more(tiny_folder: Path, tmp_path: Path) -> None:
    fakes = Fakes(tiny_folder, tmp_path / "log.txt")
    said = fakes.settings(image_sizes=((32, 32),), precisions=("bf16", "int8"), warm_up=4, busy=3).command()
    assert said == (
        f"vit-hybrid benchmark {tiny_folder.name} --image-sizes 32 --batch-sizes 1,2 --engines torch --attention "
        "eager,sdpa --precision bf16,int8 --device cpu --threads 1 --repetitions 2 --warm-up 4 --busy 3"
    )

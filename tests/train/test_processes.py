"""What several processes of a run tell each other; how they train together is tried in test_distributed.py."""

from __future__ import annotations

from typing import Any

import pytest
from torch import distributed

from vit_hybrid.train import processes
from vit_hybrid.train.processes import PeerLost, ProcessFailed


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), RuntimeError),
        (RuntimeError("[../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer"), PeerLost),
        (distributed.DistNetworkError("the connection was reset"), PeerLost),
        (ValueError("of another kind"), ValueError),
    ],
)
def test_only_errors_of_the_connection_say_that_another_process_has_ended(
    error: Exception, told: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "count", lambda: 2)
    monkeypatch.setattr("accelerate.PartialState", lambda **how: None)

    def fail() -> Any:
        with processes.joined(True):
            raise error

    with pytest.raises(told) as caught:
        fail()
    assert type(caught.value) is told
    assert (caught.value is error) == (told is not PeerLost)


@pytest.mark.parametrize(("use_cpu", "backend"), [(True, "gloo"), (False, None)])
def test_processes_that_know_each_other_wait_for_the_last(
    use_cpu: bool, backend: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[Any] = []
    monkeypatch.setattr(processes, "count", lambda: 2)
    monkeypatch.setattr("accelerate.PartialState", lambda **how: done.append(how))
    monkeypatch.setattr(distributed, "barrier", lambda: done.append("all wait"))
    monkeypatch.setattr(distributed, "destroy_process_group", lambda: done.append("they part"))
    with processes.joined(use_cpu):
        done.append("they work")
    assert done == [{"cpu": use_cpu, "backend": backend}, "they work", "all wait", "they part"]


@pytest.mark.parametrize(("number", "is_joined"), [(1, False), (1, True), (2, True)])
def test_one_process_and_those_that_have_joined_before_are_left_as_they_are(
    number: int, is_joined: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "count", lambda: number)
    monkeypatch.setattr(distributed, "is_initialized", lambda: is_joined)
    for name in ("accelerate.PartialState", "torch.distributed.barrier", "torch.distributed.destroy_process_group"):
        monkeypatch.setattr(name, lambda *_, **__: pytest.fail("nothing is to be done"))
    with processes.joined(True):
        pass


@pytest.mark.parametrize("kind", [OSError, ValueError, ImportError])
def test_an_error_that_one_process_meets_alone_names_it(kind: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(error: Exception) -> None:
        with processes.apart():
            raise error

    monkeypatch.setattr(distributed, "get_rank", lambda: 1)
    with pytest.raises(kind, match=r"^gone$"):  # where there is one process alone
        fail(kind("gone"))
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(ProcessFailed, match=r"^process 1 of 3: gone$") as caught:
        fail(kind("gone"))
    assert not caught.value.concerns_all
    with pytest.raises(KeyError):
        fail(KeyError("a fault of the program"))


def test_each_process_knows_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert (processes.count(), processes.is_first(), processes.is_first_of_machine()) == (1, True, True)
    monkeypatch.setenv("WORLD_SIZE", "4")
    for rank, local, places in ((0, 0, (True, True)), (2, 0, (False, True)), (3, 1, (False, False))):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("LOCAL_RANK", str(local))
        assert (processes.is_first(), processes.is_first_of_machine()) == places
    assert processes.count() == 4

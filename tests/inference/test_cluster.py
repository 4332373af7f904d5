"""Workers on Ray: every shard is done once, whoever dies; what a cluster gives to each; what is refused."""

from __future__ import annotations

import logging
import os
import pickle
import socket
import sys
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from shard_workers import Slow, Squares, Unstartable

from vit_hybrid.data.streams import Place
from vit_hybrid.errors import JobStopped
from vit_hybrid.inference import cluster as clusters
from vit_hybrid.inference.cluster import Cluster, ClusterError, Sharing, connected, room
from vit_hybrid.inference.shards import Shard
from vit_hybrid.inference.workers import WorkerLost

pytest.importorskip("ray.data", reason="Ray is not installed")

UNIT = "0:0:folder:0:a"


@pytest.fixture(scope="module")
def here() -> Iterator[Cluster]:
    """Ray on this machine, with two workers."""
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(clusters, "cores", lambda: 2)
        with connected(Sharing(2, ray="local")) as cluster:
            yield cluster


def shards(count: int) -> Iterator[Shard]:
    for number in range(count):
        yield Shard(number, Place(UNIT, 4 * number), Place(UNIT, 4 * number + 3), 4)


def run(cluster: Cluster, make: Any, count: int) -> tuple[list[Any], list[Any]]:
    stated: list[Any] = []
    asked: list[int] = []

    def noted() -> Iterator[Shard]:
        for shard in shards(count):
            assert stated, "nothing is settled before a worker has said what it is"
            asked.append(shard.number)
            yield shard

    found = []
    for receipt in cluster.receipts(make, noted(), stated.append):
        found.append(receipt)
        assert len(asked) <= len(found) + cluster.workers, "shards are settled when somebody is about to need them"
    return sorted(found), stated


def test_actors_do_each_shard_once_with_their_threads(here: Cluster, capfd: pytest.CaptureFixture[str]) -> None:
    from ray.data import DataContext

    log = logging.getLogger("ray.data")
    level, before = log.level, DataContext.get_current()
    found, stated = run(here, Squares, 8)
    assert log.level == level
    assert DataContext.get_current() is before
    assert found == [(number, number**2) for number in range(8)]
    assert {facts["threads"] for facts in stated} == {"1"}
    assert not any(capfd.readouterr())


def test_a_worker_that_dies_in_one_shard_is_replaced(
    here: Cluster, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    found, _ = run(here, partial(Squares, dies={7: 1}, notes=str(tmp_path)), 20)
    assert found == [(number, number**2) for number in range(20)]
    assert not any(capfd.readouterr())


def test_a_shard_that_kills_whoever_does_it_is_named(here: Cluster, tmp_path: Path) -> None:
    with pytest.raises(WorkerLost, match=r"the 4 pictures from a \(5\) to a \(8\) .* 3 times"):
        run(here, partial(Squares, dies={1: 99}, notes=str(tmp_path)), 2)
    assert len(list(tmp_path.iterdir())) == 3


def test_what_a_worker_raises_is_raised_here(here: Cluster) -> None:
    with pytest.raises(ValueError, match="shard 2 is bad"):
        run(here, partial(Squares, raises=2), 5)
    with pytest.raises(OSError, match="no such model"):
        run(here, Unstartable, 3)


def test_where_workers_end_while_they_are_made_that_is_said(here: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    def receipts(*said: Any) -> list[Any]:
        def answers(*_: Any) -> Iterator[bytes]:
            for one in (("facts", None, {}), *said):
                yield one and pickle.dumps(one)

        monkeypatch.setattr(Cluster, "_answers", answers)
        return list(here.receipts(Squares, shards(2), lambda _: None))

    with pytest.raises(WorkerLost, match=r"^no worker can run: they end while the model is loaded, as where memory"):
        receipts(("died", None))
    # What another one did is nothing, and what two did counts once, whatever became of the second.
    assert receipts(b"", ("done", 0, "first"), ("done", 0, "again"), ("died", 0), ("done", 1, "other")) == [
        "first",
        "other",
    ]


def test_what_is_wrong_with_the_facts_ends_it(here: Cluster) -> None:
    def refuse(_: Any) -> None:
        raise ValueError("another machine")

    with pytest.raises(ValueError, match="another machine"):
        list(here.receipts(Squares, shards(3), refuse))


def test_a_cluster_that_somebody_started_goes_on_and_so_does_what_it_prints(
    here: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    [said, *others] = clusters.QUIET
    monkeypatch.setenv(said, "as somebody wants it")
    for name in others:
        monkeypatch.delenv(name)
    printing = sys.modules["ray._private.worker"].print_to_stdstream
    with connected(Sharing(2, ray="local")) as again:
        assert again.is_local
        assert os.environ[said] == "as somebody wants it"
        assert {name: os.environ[name] for name in others} == {name: clusters.QUIET[name] for name in others}
        assert sys.modules["ray._private.worker"].print_to_stdstream is not printing
    assert ray.is_initialized()
    assert sys.modules["ray._private.worker"].print_to_stdstream is printing


def test_what_is_written_to_standard_error_is_hidden_for_a_while(capfd: pytest.CaptureFixture[str]) -> None:
    before = len(os.listdir("/dev/fd")) if os.path.isdir("/dev/fd") else 0
    with clusters._without_standard_error():
        os.write(2, b"hidden")
    os.write(2, b"seen")
    assert capfd.readouterr().err == "seen"
    assert (len(os.listdir("/dev/fd")) if before else 0) == before


@pytest.mark.parametrize("address", ["local", "auto", "head:6379"])
def test_only_what_is_started_here_is_told_what_it_may_have(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    asked: list[Any] = []
    monkeypatch.setattr(ray, "init", lambda *where, **how: asked.append((where, how)))
    monkeypatch.setattr(clusters, "cores", lambda: 7)
    clusters._start(address)
    own = {"num_cpus": 7, "object_store_memory": clusters.STORE, "include_dashboard": False}
    quiet = {"logging_level": logging.CRITICAL, "log_to_driver": False}
    assert asked == [((address,), {**quiet, **(own if address == "local" else {})})]

    def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError("no head\nhere")

    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(ClusterError, match=f"^ray={address!r}: no cluster can be had there: no head here$"):
        clusters._start(address)


def test_a_cluster_that_fails_is_one_line_that_says_what_to_do() -> None:
    import ray.exceptions

    said = f"{'x' * 300} at\nlast"
    kept = r"^the cluster cannot go on \(x+ at last\); what is done is kept"
    with pytest.raises(JobStopped, match=kept) as caught, clusters._as_one_line():
        raise ray.exceptions.RayError(said)
    assert str(caught.value).count("x") == 200 - len(" at last")
    assert str(caught.value).endswith("resume=True goes on.")
    with pytest.raises(ZeroDivisionError), clusters._as_one_line():
        raise ZeroDivisionError


def test_nothing_to_do(here: Cluster) -> None:
    assert run(here, Squares, 0)[0] == []


@pytest.mark.parametrize(
    ("nodes", "sharing", "expected"),
    [
        # (cores, GPUs) of each node; workers, cores, GPUs asked for; workers, threads, cores claimed
        ([(2, 0)], (None, None, None), (1, 2, 1.0)),
        ([(2, 0)], (2, None, None), (2, 1, 0.5)),
        ([(1, 0)], (None, None, None), (1, 1, 0.5)),
        ([(16, 0)] * 3, (None, None, None), (3, 16, 15.0)),
        ([(16, 0)] * 3, (None, 4, None), (12, 4, 3.75)),
        ([(16, 0), (32, 0)], (None, None, None), (3, 16, 15.0)),
        ([(16, 0)] * 2, (3, None, None), (3, 8, 7.5)),
        ([(11, 0)], (None, 3, None), (3, 3, 3.3333)),
        ([(16, 2), (4, 2)], (None, None, 1), (4, 2, 1.5)),
        ([(16, 4), (8, 0)], (None, None, 1), (4, 4, 3.75)),
        ([(16, 1)], (None, None, 0.5), (2, 8, 7.5)),
        ([(0, 0), (16, 0)], (None, None, None), (1, 16, 15.0)),
        ([(2, 0)], (5, None, None), (5, 1, 0.2)),  # more than there are cores for
        ([(11, 0), (12, 0)], (None, 3, None), (7, 3, 2.75)),  # four on twelve have less than three on eleven
    ],
)
def test_workers_claim_one_core_less_than_there_are(nodes: Any, sharing: Any, expected: Any) -> None:
    workers, cpus, gpus = sharing
    asked = Sharing(workers, "auto", cpus, gpus)
    found = room([{"CPU": cpu, "GPU": gpu} for cpu, gpu in nodes], asked)
    assert (found.workers, found.threads, found.claimed) == expected
    assert found.gpus == (gpus or 0)


def test_workers_find_their_threads_and_on_this_machine_its_modules() -> None:
    asked = Sharing(2, "auto")
    found = room([{"CPU": 8.0}], asked)
    assert (found.is_local, found._environment()) == (False, dict.fromkeys(clusters.THREAD_VARIABLES, "4"))
    here = room([{"CPU": 8.0}], Sharing(2, "local"))
    assert here.is_local
    assert here._environment()["PYTHONPATH"].split(os.pathsep) == [*filter(None, sys.path)]


def test_a_cluster_without_room_for_a_worker() -> None:
    with pytest.raises(ClusterError, match=r"no node of the cluster has 8 cores and 0 GPUs .* 2 cores, 0 GPUs"):
        room([{"CPU": 2.0}], Sharing(ray="auto", cpus_per_worker=8))
    nodes = [{"CPU": 4.0, "GPU": 1.0}, {"memory": 7.0}, {"CPU": 4.0, "GPU": 1.0}]
    assert room(nodes, Sharing(ray="auto")).workers == 2
    said = r"has 1 cores and 2 GPUs .*; its nodes have: 0 cores, 0 GPUs; 4 cores, 1 GPUs\.$"
    with pytest.raises(ClusterError, match=said):
        room(nodes, Sharing(ray="auto", gpus_per_worker=2))
    with pytest.raises(ClusterError, match="its nodes have: none"):
        room([], Sharing(ray="auto"))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"workers": 0}, "workers is 0; expected 1 or more"),
        ({"ray": "auto", "gpus_per_worker": -0.5}, "gpus_per_worker is -0.5; expected more than 0"),
        ({"ray": "auto", "gpus_per_worker": 0}, "gpus_per_worker is 0; expected more than 0"),
        ({"ray": "auto", "cpus_per_worker": 0}, "cpus_per_worker is 0; expected 1 or more"),
        ({"gpus_per_worker": 1}, "gpus_per_worker is for a cluster; give ray as well"),
        ({"cpus_per_worker": 2}, "cpus_per_worker is for a cluster; give ray as well"),
    ],
)
def test_shares_that_cannot_be(given: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Sharing(**given)


def test_addresses_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        nobody = f"127.0.0.1:{server.getsockname()[1]}"
    for address, said in (
        (nobody, f"{nobody}: nobody answers at this address"),
        ("pictures", "pictures: expected local, auto or an address such as"),
        ("ray://127.0.0.1:10001", "ray job submit"),
    ):
        with pytest.raises(ClusterError, match=said), connected(Sharing(ray=address)):
            pass
    for missing in ("ray", "pyarrow"):
        monkeypatch.setattr(clusters, "find_spec", lambda name, missing=missing: None if name == missing else name)
        with (
            pytest.raises(ClusterError, match=r"ray needs ray\[data\].*pip install 'vit-hybrid\[ray\]'"),
            connected(Sharing(ray="local")),
        ):
            pass


@pytest.mark.parametrize(("address", "place"), [("[::1]:6379", ("::1", 6379)), ("head.local:77", ("head.local", 77))])
def test_an_address_is_asked_before_ray_is(
    address: str, place: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    closed: list[int] = []
    connection: Any = SimpleNamespace(close=lambda: closed.append(1))
    monkeypatch.setattr(clusters.socket, "create_connection", lambda *how: asked.append(how) or connection)
    clusters._check_answers(address)
    assert (asked, closed) == ([(place, clusters.PATIENCE)], [1])


def test_a_node_that_goes_twice_and_a_worker_that_ends_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray
    from ray.cluster_utils import Cluster as Nodes

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    if ray.is_initialized():
        ray.shutdown()
    warnings.simplefilter("ignore")
    nodes = Nodes(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        nodes.add_node(num_cpus=2)
        going = nodes.add_node(num_cpus=2)
        with connected(Sharing(ray=nodes.address)) as cluster:
            assert (cluster.workers, cluster.threads) == (2, 2)
            found = []
            for receipt in cluster.receipts(partial(Slow, str(tmp_path), {11: 1}), shards(20), lambda _: None):
                found.append(receipt)
                if len(found) == 2:  # both are there, and at their next
                    nodes.remove_node(going, allow_graceful=False)
                    (tmp_path / "go").touch()
                if len(found) == 8:
                    nodes.remove_node(nodes.add_node(num_cpus=2), allow_graceful=False)
        assert sorted(found) == [(number, number**2) for number in range(20)]
        assert len(list(tmp_path.glob("11.*"))) == 2
    finally:
        nodes.shutdown()

"""Workers on a Ray cluster: the same shards through Ray Data, an actor for each group of cores or GPU.

Ray Data takes shards one by one, since they are settled while the run goes on: its source is a stream fed by the plan,
a small actor beside the driver. Actors write what comes of a shard themselves and hand back a receipt. Ray starts
actors anew that died, and gives them their shard again; where a node is gone and no other has room for its actors,
nobody would, so the driver gives their shards to those that are left. What a worker raises is an answer, and ends the
run here.
"""

from __future__ import annotations

import logging
import math
import os
import pickle
import re
import socket
import sys
import threading
import warnings
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any, TypeVar

from ..errors import JobStopped, argument, needs, one_line, shown
from ..runtimes import usable_cores as cores
from .actors import COLUMN, Actor, Plan, nodes_alive, stream
from .shards import Shard
from .workers import MOST_TRIES, THREAD_VARIABLES, Facts, Make, WorkerLost, begun_too_often

Given = TypeVar("Given")

# Ray on this machine alone, which ends with the run; the cluster that this machine is a node of.
LOCAL, AUTO = "local", "auto"
ADDRESS = re.compile(r"\S+:\d+")
# How Ray's client is addressed, whose driver is not where the command is.
CLIENT = "ray://"
# Bytes for what goes through Ray here, shards and receipts; it takes no fewer than 80 MB.
STORE = 100_000_000
# Shards that wait beside those that are done, so that whoever is through with one has the next without asking for it.
WAITING = 1
# Seconds: how long an address may take to answer, and between two looks at who is left.
PATIENCE, LOOK = 5.0, 1.0
# What Ray reads of the environment: that it reports to nobody, does not warn of what it will do about GPUs, and does
# not write to the terminal what it does about workers that died.
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
}
# Of a node, the core that workers leave unclaimed for a driver; of a node that has one core, what they claim of it.
DRIVER, OF_ONE = 1.0, 0.5
# Ray's smallest part of a core.
PARTS_OF_A_CORE = 10_000


class ClusterError(ValueError):
    """A cluster that cannot be reached, or has no room for a worker; the message is one line that says what to do."""


@dataclass(frozen=True)
class Sharing:
    """Who shares the work.

    Attributes:
        workers: How many; None for this process alone, or as many as a cluster has room for.
        ray: `LOCAL`, `AUTO` or the address of a cluster; None without Ray.
        cpus_per_worker: The cores that each has; None for all of the smallest node, shared where GPUs or `workers` say.
        gpus_per_worker: The GPUs that each has, a part of 1 where several share one; None for none.

    Raises:
        ValueError: One of these cannot be used.
    """

    workers: int | None = None
    ray: str | None = None
    cpus_per_worker: int | None = None
    gpus_per_worker: float | None = None

    def __post_init__(self) -> None:
        for name in ("workers", "cpus_per_worker"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{argument(name)} is {value}; expected 1 or more.")
        if self.gpus_per_worker is not None and not self.gpus_per_worker > 0:
            raise ValueError(f"{argument('gpus_per_worker')} is {self.gpus_per_worker}; expected more than 0.")
        for name in ("cpus_per_worker", "gpus_per_worker"):
            if self.ray is None and getattr(self, name) is not None:
                raise ValueError(f"{argument(name)} is for a cluster; give {argument('ray')} as well.")


@dataclass(frozen=True)
class Cluster:
    """What workers have on a cluster that is there.

    Attributes:
        workers: How many there are.
        threads: That each computes with.
        claimed: Cores that each claims; together one less than a node has.
        gpus: That each claims.
        is_local: Whether it is this machine alone.
    """

    workers: int
    threads: int
    claimed: float
    gpus: float
    is_local: bool = False

    def receipts(
        self, make: Make[Given], shards: Iterator[Shard], stated: Callable[[Facts], object]
    ) -> Generator[Given, None, None]:
        """Receipts of shards that actors do, each as soon as it is done, in whatever order.

        Args:
            make: Makes a worker; pickled.
            shards: Asked for the next one when a worker is about to need it, one ahead.
            stated: Called with what a worker states before it does anything, and before a shard is asked for, unless
                another one stated the same; may raise.

        Raises:
            WorkerLost: A shard was begun three times, and whoever did it died; or workers died before they could begin.
            JobStopped: The cluster is gone.
            Exception: What a worker raised.
        """
        import ray

        # The plan and what reads from it live and end with the driver's node.
        here = {"ray.io/node-id": ray.get_runtime_context().get_node_id()}
        plan: Any = ray.remote(Plan).options(num_cpus=0, label_selector=here).remote()
        given: dict[int, Shard] = {}
        known: list[Facts] = []

        def give(shard: Shard | None) -> None:
            plan.give.remote(None if shard is None else shard.number, pickle.dumps((shard, known)))

        def watch(is_over: threading.Event) -> None:
            while not is_over.wait(LOOK):
                for number in ray.get(plan.forsaken.remote()):
                    shard = given.get(number)
                    if shard is not None or (number is None and not known):
                        give(shard)

        with ExitStack() as ending, _as_one_line():
            ending.callback(ray.kill, plan)
            is_over = threading.Event()
            watcher = threading.Thread(target=watch, args=(is_over,), daemon=True, name="nodes")
            watcher.start()
            ending.callback(watcher.join)
            ending.callback(is_over.set)
            give(None)  # somebody has to state its facts before anything is settled
            answers = self._answers(plan, pickle.dumps(make), here)
            ending.callback(answers.close)
            for answer in answers:
                if not answer:
                    continue
                kind, *said = pickle.loads(answer)
                if kind == "raised":
                    raise said[0]
                number = said[0]
                if kind == "died" and number is None:
                    raise WorkerLost("no worker can run: they end while the model is loaded, as where memory runs out.")
                if kind == "died" and number in given:
                    raise begun_too_often(given[number], "the worker ended, as is done when memory runs out")
                if kind == "facts":
                    stated(said[1])
                    known.append(said[1])
                    plan.finish.remote(None)
                    if number in given:
                        give(given[number])
                elif kind == "done" and given.pop(number, None) is not None:
                    plan.finish.remote(number)
                    yield said[1]
                while known and len(given) < self.workers + WAITING and (shard := next(shards, None)) is not None:
                    given[shard.number] = shard
                    give(shard)
                if not given:
                    return

    def _answers(self, plan: Any, make: bytes, here: dict[str, str]) -> Generator[bytes, None, None]:
        """What the actors say, as soon as they say it; does not end by itself.

        Ray Data starts actors anew and gives them what they were at as often as it takes; the plan counts.
        """
        import ray
        from ray.data import ActorPoolStrategy, DataContext, from_items

        before = DataContext.get_current()
        context = before.copy()
        # A shard is a block, so that it does not wait for others; and none of the waits here is an error.
        context.target_max_block_size = 1
        context.execution_no_progress_timeout_s = -1
        context.enable_progress_bars = context.print_on_execution_start = False
        DataContext._set_current(context)
        log = logging.getLogger("ray.data")
        level = log.level
        log.setLevel(logging.CRITICAL)
        try:
            table = from_items([0], override_num_blocks=1).map_batches(
                partial(stream, plan), batch_size=1, num_cpus=0, label_selector=here
            )
            answers = table.map_batches(
                Actor,
                fn_constructor_args=(plan, make, MOST_TRIES * self.workers),
                batch_size=1,
                batch_format="pyarrow",
                # One shard at a time, so that no other one waits where a worker died.
                compute=ActorPoolStrategy(size=self.workers, max_tasks_in_flight_per_actor=1),
                num_cpus=self.claimed,
                num_gpus=self.gpus,
                runtime_env={"env_vars": self._environment()},
            )
            for bundle in answers.iter_internal_ref_bundles():
                for block in ray.get(list(bundle.block_refs)):
                    yield from block[COLUMN].to_pylist()
        finally:
            log.setLevel(level)
            DataContext._set_current(before)

    def _environment(self) -> dict[str, str]:
        """What a worker finds in its environment: its threads and, on this machine, the modules that are found here."""
        threads = dict.fromkeys(THREAD_VARIABLES, str(self.threads))
        return threads | ({"PYTHONPATH": os.pathsep.join(filter(None, sys.path))} if self.is_local else {})


@contextmanager
def connected(sharing: Sharing) -> Iterator[Cluster]:
    """The cluster that is asked for, as long as the block lasts; one of this machine alone ends with it.

    Raises:
        ClusterError: Ray is not installed, nobody answers, or no node has room for a worker.
    """
    missing = [name for name in ("ray", "pyarrow") if find_spec(name) is None]
    if missing:
        raise ClusterError(needs(argument("ray"), ["ray[data]"], "ray"))
    address = sharing.ray
    assert address is not None
    if address not in (LOCAL, AUTO):
        _check_answers(address)
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    with ExitStack() as ending:
        ending.enter_context(warnings.catch_warnings())
        # What Ray warns of is of its own working.
        warnings.filterwarnings("ignore", module=r"ray(\..*)?$")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import ray
            import ray.data

            ray.data.DataContext.get_current()
            ending.enter_context(_quiet())
            if not ray.is_initialized():
                ending.callback(ray.shutdown)
                _start(address)
        yield room(list(nodes_alive().values()), sharing)


def _start(address: str) -> None:
    """Connects to a cluster, or starts one here."""
    import ray

    here: dict[str, Any] = {}
    if address == LOCAL:
        here = {"num_cpus": cores(), "object_store_memory": STORE, "include_dashboard": False}
    try:
        with _without_standard_error():
            ray.init(address, logging_level=logging.CRITICAL, log_to_driver=False, **here)
    except (OSError, RuntimeError, ValueError) as error:
        raise ClusterError(
            f"{argument('ray', address)}: no cluster can be had there: {shown(one_line(error))}"
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps Ray from printing what became of workers, which is told here, on standard output, where figures go."""
    private = sys.modules.get("ray._private.worker")
    name = "print_to_stdstream"
    before = getattr(private, name, None)
    if before is not None:
        setattr(private, name, lambda *_, **__: None)
    try:
        yield
    finally:
        if before is not None:
            setattr(private, name, before)


@contextmanager
def _without_standard_error() -> Iterator[None]:
    """Keeps from the terminal what Ray's C++ says at its start, whatever the level of its log."""
    try:
        kept = os.dup(2)
    except OSError:  # there is none
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _check_answers(address: str) -> None:
    """Raises `ClusterError` for what is no address, or where nobody answers, which Ray finds out after a minute."""
    if address.startswith(CLIENT):
        raise ClusterError(
            f"{shown(address)}: a client is not where the run has to be planned; start this on a node of the cluster, "
            f"as `ray job submit` does, with {argument('ray', AUTO)}."
        )
    if not ADDRESS.fullmatch(address):
        raise ClusterError(f"{shown(address)}: expected {LOCAL}, {AUTO} or an address such as 10.0.0.5:6379.")
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), PATIENCE).close()
    except (OSError, OverflowError) as error:
        raise ClusterError(
            f"{shown(address)}: nobody answers at this address ({one_line(error)}); `ray status` on the cluster's head "
            "says whether it runs."
        ) from error


def room(nodes: list[dict[str, float]], sharing: Sharing) -> Cluster:
    """What workers get on nodes that have so many "CPU" and "GPU".

    Raises:
        ClusterError: No node has room for one.
    """
    gpus = sharing.gpus_per_worker or 0.0
    found = [(int(node.get("CPU", 0)), node.get("GPU", 0.0)) for node in nodes]
    fitting = [(cpu, gpu) for cpu, gpu in found if cpu >= (sharing.cpus_per_worker or 1) and gpu >= gpus]
    if not fitting:
        has = "; ".join(sorted({f"{cpu} cores, {gpu:g} GPUs" for cpu, gpu in found})) or "none"
        raise ClusterError(
            f"no node of the cluster has {sharing.cpus_per_worker or 1} cores and {gpus:g} GPUs for a worker "
            f"({argument('cpus_per_worker')}, {argument('gpus_per_worker')}); its nodes have: {shown(has)}."
        )
    # Of a node: as many workers as were asked for in all, or as it has GPUs, or one.
    asked = math.ceil(sharing.workers / len(fitting)) if sharing.workers else 1
    by_gpus = [int(gpu // gpus) if gpus else asked for _, gpu in fitting]
    threads = sharing.cpus_per_worker or max(
        1, min(cpu // number for (cpu, _), number in zip(fitting, by_gpus, strict=True))
    )
    numbers = [
        min(cpu // threads, number) if gpus else cpu // threads
        for (cpu, _), number in zip(fitting, by_gpus, strict=True)
    ]
    least = min(range(len(fitting)), key=lambda place: fitting[place][0] / max(1, numbers[place]))
    cpu = fitting[least][0]
    claimed = (cpu - DRIVER or OF_ONE) / max(numbers[least], asked, 1)
    return Cluster(
        workers=sharing.workers or sum(numbers),
        threads=threads,
        claimed=math.floor(claimed * PARTS_OF_A_CORE) / PARTS_OF_A_CORE,
        gpus=gpus,
        is_local=sharing.ray == LOCAL,
    )


@contextmanager
def _as_one_line() -> Iterator[None]:
    """Says of a cluster that fails what is kept, instead of where in Ray."""
    import ray.exceptions

    try:
        yield
    except ray.exceptions.RayError as error:
        raise JobStopped(
            f"the cluster cannot go on ({one_line(error)[-200:]}); what is done is kept, and "
            f"{argument('resume', True)} goes on."
        ) from error


__all__ = ["ADDRESS", "AUTO", "LOCAL", "Cluster", "ClusterError", "Sharing", "connected", "room"]

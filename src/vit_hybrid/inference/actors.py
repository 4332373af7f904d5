"""What lives in Ray's actors: the plan beside the driver, and workers as Ray Data calls them."""

from __future__ import annotations

import asyncio
import pickle
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

from .workers import MOST_TRIES, raised

# Seconds that a shard may wait to be begun where a node went.
BEGINNING = 60.0
COLUMN = "content"


def nodes_alive() -> dict[str, dict[str, float]]:
    """What each node has that is there, by its id."""
    import ray

    return {node["NodeID"]: node["Resources"] for node in ray.nodes() if node["Alive"]}


class Plan:
    """What is to be done, for whoever asks: an actor beside the driver."""

    def __init__(self) -> None:
        self._items: list[bytes] = []
        self._more = asyncio.Condition()
        # Of the shards that are not done: where in the list they are, when they were given last, which nodes began them
        # since, and how many of those that did so went away.
        self._places: dict[int | None, list[int]] = {}
        self._when: dict[int | None, float] = {}
        self._begun: dict[int | None, list[str]] = {}
        self._gone: Counter[int | None] = Counter()
        self._nodes: set[str] = set()
        self._is_any_gone = False
        self._made = 0

    async def give(self, number: int | None, item: bytes) -> None:
        """Adds a shard to what is to be done, for the first time or again."""
        async with self._more:
            self._places.setdefault(number, []).append(len(self._items))
            self._when[number] = time.monotonic()
            self._begun.setdefault(number, [])
            self._items.append(item)
            self._more.notify_all()

    async def item(self, place: int) -> bytes:
        """What stands at a place, as soon as there is something; nothing where that is done, for who reads it again."""
        async with self._more:
            await self._more.wait_for(lambda: len(self._items) > place)
        return self._items[place]

    async def make(self) -> int:
        """Notes that a worker is about to be made; how many were since one was that could."""
        self._made += 1
        return self._made

    async def made(self) -> None:
        """Notes that a worker was made, or said why not."""
        self._made = 0

    async def begin(self, number: int | None, node: str) -> int:
        """Notes that a shard is begun; how often it was, 0 where it is done."""
        if number not in self._places:
            return 0
        self._begun[number].append(node)
        return len(self._begun[number]) + self._gone[number]

    async def finish(self, number: int | None) -> None:
        """Notes that a shard is done."""
        for place in self._places.pop(number, ()):
            self._items[place] = b""
        self._when.pop(number, None)
        self._begun.pop(number, None)

    async def forsaken(self) -> list[int | None]:
        """The shards that were begun by nodes that are gone since, or that nobody began who may be gone."""
        nodes = nodes_alive()
        self._is_any_gone |= bool(self._nodes - nodes.keys())
        self._nodes = set(nodes)
        found = []
        for number, begun in self._begun.items():
            if begun and begun[-1] not in nodes:
                self._gone[number] += 1
                begun.clear()
                found.append(number)
            elif not begun and self._is_any_gone and time.monotonic() - self._when[number] > BEGINNING:
                found.append(number)
        return found


def stream(plan: Any, _: Any) -> Iterator[Any]:
    """What is to be done, as Ray Data reads it; begun anew, it is the same."""
    import ray

    place = 0
    while True:
        yield table_of(ray.get(plan.item.remote(place)))
        place += 1


def table_of(content: bytes) -> Any:
    import pyarrow as pa

    return pa.table({COLUMN: pa.array([content], pa.binary())})


class Actor:
    """A worker as Ray Data calls it, made when there is something to do."""

    def __init__(self, plan: Any, make: bytes, most_made: int) -> None:
        import ray

        self._plan = plan
        self._make = make
        self._most_made = most_made
        self._node = ray.get_runtime_context().get_node_id()
        self._worker: Any = None

    def __call__(self, table: Any) -> Any:
        return table_of(self._answer(table[COLUMN][0].as_py()))

    def _answer(self, item: bytes) -> bytes:
        import ray

        if not item:
            return b""
        shard, known = pickle.loads(item)
        number = None if shard is None else shard.number
        try:
            if self._worker is None:
                if ray.get(self._plan.make.remote()) > self._most_made:
                    return pickle.dumps(("died", None))
                try:
                    worker = pickle.loads(self._make)()
                    self._facts = dict(worker.facts())
                    self._worker = worker
                finally:
                    ray.get(self._plan.made.remote())
            if self._facts not in known:
                return pickle.dumps(("facts", number, self._facts))
            tries = ray.get(self._plan.begin.remote(number, self._node))
            if not tries:
                return b""  # another one did it
            if tries > MOST_TRIES:
                return pickle.dumps(("died", number))
            return pickle.dumps(("done", number, self._worker.work(shard)))
        except Exception as error:
            return raised(error)


__all__ = ["COLUMN", "Actor", "Plan", "nodes_alive", "stream"]

"""What lives in Ray's actors, without Ray: the plan's books, and what a worker answers."""

from __future__ import annotations

import asyncio
import pickle
import sys
from functools import partial
from itertools import islice
from types import SimpleNamespace
from typing import Any

import pytest
from shard_workers import Squares, Unstartable

from vit_hybrid.data.streams import Place
from vit_hybrid.inference import actors
from vit_hybrid.inference.actors import COLUMN, Actor, Plan
from vit_hybrid.inference.shards import Shard
from vit_hybrid.inference.workers import MOST_TRIES

MAKE = pickle.dumps(Squares)


def shard(number: int) -> Shard:
    return Shard(number, Place("0:0:folder:0:a", number), Place("0:0:folder:0:a", number), 1)


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Those that are there."""
    there = {"a", "b"}
    monkeypatch.setattr(actors, "nodes_alive", lambda: {name: {} for name in there})
    return there


def test_nodes_that_are_there_have_what_ray_says(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [{"NodeID": name, "Alive": name != "b", "Resources": {"CPU": 2.0, "name": name}} for name in "abc"]
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(nodes=lambda: found))
    assert actors.nodes_alive() == {name: {"CPU": 2.0, "name": name} for name in "ac"}


def test_what_is_to_be_done_is_read_in_its_order_and_anew_from_its_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pyarrow")
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(get=lambda found: found))
    plan = SimpleNamespace(item=SimpleNamespace(remote=lambda place: f"item {place}".encode()))
    for _ in range(2):
        tables = [table.to_pydict() for table in islice(actors.stream(plan, {"id": [7]}), 3)]
        assert tables == [{COLUMN: [f"item {place}".encode()]} for place in range(3)]


class TestPlan:
    def test_items_stand_in_their_order_and_what_is_done_is_nothing(self) -> None:
        async def main() -> None:
            plan = Plan()
            waiting = asyncio.ensure_future(plan.item(1))
            await plan.give(4, b"four")
            await asyncio.sleep(0)
            assert not waiting.done()
            await plan.give(5, b"five")
            assert await waiting == b"five"
            await plan.give(4, b"four again")
            assert [await plan.item(place) for place in range(3)] == [b"four", b"five", b"four again"]
            await plan.finish(4)
            assert [await plan.item(place) for place in range(3)] == [b"", b"five", b""]
            assert await plan.begin(4, "a") == 0
            await plan.finish(4)  # which somebody else did, too

        asyncio.run(main())

    def test_a_shard_is_begun_so_often_also_by_nodes_that_went(self, nodes: set[str]) -> None:
        async def main() -> None:
            plan = Plan()
            for number in (0, 1):
                await plan.give(number, b"it")
            assert [await plan.begin(0, "a"), await plan.begin(0, "b"), await plan.begin(1, "a")] == [1, 2, 1]
            assert await plan.forsaken() == []
            nodes.discard("b")
            assert await plan.forsaken() == [0]
            assert await plan.forsaken() == []  # it is told once
            assert await plan.begin(0, "a") == 2  # once since, and once by the node that went
            await plan.finish(0)
            nodes.clear()
            assert await plan.forsaken() == [1]  # not what is done

        asyncio.run(main())

    def test_what_nobody_begins_is_forsaken_only_after_a_while_and_where_a_node_went(
        self, nodes: set[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        now = [100.0]
        monkeypatch.setattr(actors, "time", SimpleNamespace(monotonic=lambda: now[0]))

        async def main() -> None:
            plan = Plan()
            await plan.give(3, b"it")
            now[0] += actors.BEGINNING + 1
            assert await plan.forsaken() == []
            nodes.discard("a")
            assert await plan.forsaken() == [3]
            await plan.give(3, b"it again")
            now[0] += actors.BEGINNING - 1
            assert await plan.forsaken() == []
            now[0] += 2
            assert await plan.forsaken() == [3]

        asyncio.run(main())

    def test_workers_that_are_made_are_counted_until_one_could_be(self) -> None:
        async def main() -> None:
            plan = Plan()
            assert [await plan.make() for _ in range(3)] == [1, 2, 3]
            await plan.made()
            assert await plan.make() == 1

        asyncio.run(main())


class TestActor:
    @pytest.fixture
    def plan(self, monkeypatch: pytest.MonkeyPatch) -> Plan:
        pytest.importorskip("pyarrow")
        context = SimpleNamespace(get_node_id=lambda: "here")
        ray = SimpleNamespace(get=lambda found: found, get_runtime_context=lambda: context)
        monkeypatch.setitem(sys.modules, "ray", ray)
        return Plan()

    @staticmethod
    def actor(plan: Plan, make: bytes = MAKE, most_made: int = 3) -> Actor:
        class Remote:
            def __getattr__(self, name: str) -> Any:
                return SimpleNamespace(remote=lambda *given: asyncio.run(getattr(plan, name)(*given)))

        return Actor(Remote(), make, most_made)

    @staticmethod
    def ask(actor: Actor, one: Shard | None, known: list[Any]) -> Any:
        [answer] = actor(actors.table_of(pickle.dumps((one, known))))[COLUMN].to_pylist()
        return pickle.loads(answer) if answer else None

    def test_it_states_its_facts_before_it_does_anything(self, plan: Plan) -> None:
        actor = self.actor(plan)
        asyncio.run(plan.give(3, b"it"))
        kind, number, facts = self.ask(actor, None, [])
        assert (kind, number, set(facts)) == ("facts", None, {"threads", "process"})
        assert self.ask(actor, shard(3), [{}]) == ("facts", 3, facts)
        assert self.ask(actor, shard(3), [{}, facts]) == ("done", 3, (3, 9))
        assert plan._begun[3] == ["here"]

    def test_it_makes_its_worker_once(self, plan: Plan) -> None:
        actor = self.actor(plan)
        *_, facts = self.ask(actor, None, [])
        worker = actor._worker
        for number in (3, 4):
            asyncio.run(plan.give(number, b"it"))
            assert self.ask(actor, shard(number), [facts])[0] == "done"
            assert actor._worker is worker

    def test_what_is_done_or_begun_too_often_it_leaves(self, plan: Plan) -> None:
        actor = self.actor(plan)
        assert actor(actors.table_of(b""))[COLUMN].to_pylist() == [b""]
        *_, facts = self.ask(actor, None, [])
        assert self.ask(actor, shard(3), [facts]) is None  # it is not in the plan
        asyncio.run(plan.give(3, b"it"))
        for _ in range(MOST_TRIES):
            assert self.ask(actor, shard(3), [facts])[0] == "done"
        assert self.ask(actor, shard(3), [facts]) == ("died", 3)

    def test_what_is_raised_is_an_answer(self, plan: Plan) -> None:
        kind, error = self.ask(self.actor(plan, pickle.dumps(Unstartable)), None, [])
        assert (kind, type(error), str(error)) == ("raised", OSError, "no such model")
        assert asyncio.run(plan.make()) == 1  # for it said why
        asyncio.run(plan.give(2, b"it"))
        actor = self.actor(plan, pickle.dumps(partial(Squares, raises=2)))
        *_, facts = self.ask(actor, None, [])
        kind, error = self.ask(actor, shard(2), [facts])
        assert (kind, str(error)) == ("raised", "shard 2 is bad")

    def test_where_workers_end_while_they_are_made_it_is_given_up(self, plan: Plan) -> None:
        for _ in range(2):
            asyncio.run(plan.make())
        assert self.ask(self.actor(plan), None, [])[0] == "facts"  # the third could be made, and none is given up
        for _ in range(3):
            asyncio.run(plan.make())
        assert self.ask(self.actor(plan), None, []) == ("died", None)

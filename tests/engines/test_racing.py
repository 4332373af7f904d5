"""The race, by a clock that nobody but the runners moves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from vit_hybrid.engines.racing import Clock, Race, Runner


class Hand:
    """A clock that stands still unless it is moved."""

    def __init__(self) -> None:
        self.time = 0.0
        self.turns: list[str] = []

    @property
    def clock(self) -> Clock:
        return Clock(lambda: self.time, lambda seconds: None)

    def runner(self, name: str, *seconds: float) -> Runner:
        """Takes so long each time, and the last of these from then on."""
        left = list(seconds)

        def go() -> None:
            self.time += left.pop(0) if len(left) > 1 else left[0]

        return Runner(go, lambda: self.turns.append(name))


def test_all_take_turns_and_the_slow_are_out_early() -> None:
    hand = Hand()
    runners = {name: hand.runner(name, took) for name, took in {"a": 1.0, "b": 1.01, "slow": 9.0}.items()}
    found = Race(runners, 1000.0, hand.clock).run()
    assert hand.turns[:7] == ["a", "b", "slow", "a", "b", "a", "b"]
    assert {name: one.seconds for name, one in found.items()} == pytest.approx({"a": 1.0, "b": 1.01, "slow": 9.0})
    assert [found[name].rounds for name in ("a", "b", "slow")] == [12, 12, 1]


def test_each_round_allows_half_of_the_one_before_and_the_last_ones_a_fiftieth() -> None:
    hand = Hand()
    took = {"best": 1.0, "near": 1.015, "third": 1.025, "fourth": 1.05, "far": 1.9, "out": 3.1}
    found = Race({name: hand.runner(name, seconds) for name, seconds in took.items()}, 1000.0, hand.clock).run()
    # Behind the best by more than 2, 1, 1/2, ... 1/32 of its time, and 1/50 from the eighth round on.
    assert {name: one.rounds for name, one in found.items()} == {
        **{"best": 12, "near": 12},
        **{"third": 8, "fourth": 7, "far": 3, "out": 1},
    }


def test_one_that_is_behind_by_just_as_much_as_is_allowed_stays() -> None:
    hand = Hand()
    took = {"best": 1.0, "edge": 3.0, "third": 2.0}
    found = Race({name: hand.runner(name, seconds) for name, seconds in took.items()}, 1000.0, hand.clock).run()
    assert {name: one.rounds for name, one in found.items()} == {"best": 3, "edge": 2, "third": 3}


@pytest.mark.parametrize(("seconds", "took"), [(0.01, 0.011), (0.12, 0.1)])
def test_short_passes_fill_no_more_than_the_time_that_is_left(seconds: float, took: float) -> None:
    """The first turn takes all of a hundredth of a second; of twelve, two turns leave less than a third one needs."""
    hand = Hand()
    Race({name: hand.runner(name, 0.001) for name in "ab"}, seconds, hand.clock).run()
    assert hand.time == pytest.approx(took, abs=0.0025)


def test_before_each_turn_the_others_threads_have_time_to_stop() -> None:
    slept: list[float] = []
    now = [0.0]

    def go() -> None:
        now[0] += 1.0

    def ready() -> None:
        now[0] += 5.0  # which is no part of a pass

    clock = Clock(lambda: now[0], slept.append)
    found = Race({name: Runner(go, ready) for name in "ab"}, 1000.0, clock, rounds=3).run()
    assert slept == [0.02] * 6
    assert {one.seconds for one in found.values()} == {1.0}


def test_the_least_counts_since_whatever_else_runs_only_adds_to_it() -> None:
    hand = Hand()
    found = Race({"a": hand.runner("a", 1.0), "b": hand.runner("b", 2.5, 0.9)}, 1000.0, hand.clock).run()
    assert min(found, key=lambda name: found[name].seconds) == "b"
    assert found["a"].rounds < 12


def test_what_is_short_makes_several_passes_in_a_turn() -> None:
    hand = Hand()
    passes = []
    runner = hand.runner("a", 0.001)
    counted = Runner(lambda: (passes.append(1), runner.go()), runner.ready)
    Race({"a": counted}, 1000.0, hand.clock).run()
    assert len(passes) >= 3 * 0.05 / 0.001 - 3


@pytest.mark.parametrize("seconds", [0.0, 3.0, 3.5, 10.0, 40.0])
def test_the_time_holds_but_for_a_pass_of_each(seconds: float) -> None:
    hand = Hand()
    runners = {name: hand.runner(name, 1.0) for name in "abc"}
    found = Race(runners, seconds, hand.clock).run()
    assert all(one.rounds for one in found.values())
    assert hand.time <= max(3.0, seconds)


def test_what_fails_is_out_and_the_others_go_on() -> None:
    hand = Hand()

    def fail() -> None:
        raise RuntimeError("no kernel")

    found = Race({"a": hand.runner("a", 1.0), "broken": Runner(fail)}, 1000.0, hand.clock).run()
    assert str(found["broken"].error) == "no kernel"
    assert (found["broken"].seconds, found["broken"].rounds) == (float("inf"), 1)
    assert found["a"].rounds == 3


def test_nobody_at_all() -> None:
    assert Race[str]({}, 1.0, Hand().clock).run() == {}


def test_it_tells_behind_each_turn() -> None:
    hand, told = Hand(), []
    tell: Callable[[], Any] = lambda: told.append(hand.time)  # noqa: E731
    Race({"a": hand.runner("a", 1.0)}, 1000.0, hand.clock, tell=tell).run()
    assert told == [1.0, 2.0, 3.0]


def test_the_least_pass_of_a_turn_counts_not_the_first() -> None:
    times, now = iter([0.03, *[0.01] * 100]), [0.0]

    def go() -> None:
        now[0] += next(times)

    clock = Clock(now=lambda: now[0], sleep=lambda seconds: None)
    assert Race({"one": Runner(go)}, 1.0, clock, rounds=1).run()["one"].seconds == pytest.approx(0.01)


def test_those_that_may_win_have_their_turns_before_the_time_ends() -> None:
    """A first pass that takes longer, of the quickest, is not all that is known of it when slower ones have had two."""
    hand = Hand()
    took = {"slow": (2.0,), "slower": (2.2,), "first": (1.05,), "second": (1.06, 1.0)}
    runners = {name: hand.runner(name, *seconds) for name, seconds in took.items()}
    found = Race(runners, 9.0, hand.clock).run()
    assert hand.turns == ["slow", "slower", "first", "second", "first", "second"]
    assert min(found, key=lambda name: found[name].seconds) == "second"

"""A race between ways to do the same: in turns, the slow ones out early, so that it ends in time. Standard library.

In every round each of those that are left makes its passes while the others wait, so that a busy moment of the machine
strikes all alike. What counts is the minimum, since whatever else the machine does can only add to it. Behind each
round those go whose minimum is further behind the best than the round allows, and each round allows half of the one
before (successive halving, Jamieson and Talwalkar, arXiv 1502.07943, by time instead of by rank).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Name = TypeVar("Name", bound=Hashable)

# How far behind the best one may be in the first round, as a share of its time, and at the end.
FIRST_LAG, LAST_LAG = 2.0, 0.02
# One that is left makes so many rounds, too, since a single time is nothing to keep.
LEAST_ROUNDS, MOST_ROUNDS = 3, 12
# Seconds: a turn lasts so long at least, by more passes where one is shorter; and between two turns, until the threads
# of the one before have stopped spinning.
TURN, PAUSE = 0.05, 0.02


@dataclass
class Runner:
    """One that takes part.

    Attributes:
        go: Makes a pass, which is timed.
        ready: Called before its turn, untimed.
    """

    go: Callable[[], object]
    ready: Callable[[], object] = lambda: None


@dataclass
class Standing:
    """How one came through.

    Attributes:
        seconds: The least that a pass took; infinite where none came to its end.
        rounds: How many it took part in.
        error: What it raised, which took it out.
    """

    seconds: float = math.inf
    rounds: int = 0
    error: Exception | None = None


@dataclass
class Clock:
    """What tells the time, and lets it pass.

    Attributes:
        now: Seconds from some moment on.
        sleep: Waits so many seconds.
        worked: Seconds that the processor worked for this process.
    """

    now: Callable[[], float] = time.perf_counter
    sleep: Callable[[float], object] = time.sleep
    worked: Callable[[], float] = time.process_time


@dataclass
class Race(Generic[Name]):
    """A race.

    Args:
        runners: Who takes part, by name.
        seconds: How long it may take: no turn is begun that would not end in time, going by the one before.
        clock: What tells the time.
        rounds: How many there are at most.
        tell: Called behind each turn.

    Attributes:
        standings: How each came through, by name.
    """

    runners: Mapping[Name, Runner]
    seconds: float
    clock: Clock = field(default_factory=Clock)
    rounds: int = MOST_ROUNDS
    tell: Callable[[], object] = lambda: None
    standings: dict[Name, Standing] = field(default_factory=dict)

    def run(self) -> dict[Name, Standing]:
        """The standings when all rounds are over, the time is up, or one is left that was timed often enough."""
        began = self.clock.now()
        self.standings = {name: Standing() for name in self.runners}
        left, lag = list(self.runners), FIRST_LAG
        for number in range(1, self.rounds + 1):
            for name in left:
                standing = self.standings[name]
                rest = self.seconds - (self.clock.now() - began)
                # In the first round everyone gets a pass, or there would be nothing to choose by.
                if standing.rounds and rest < max(TURN, standing.seconds):
                    return self.standings
                self._turn(name, standing, rest)
                self.tell()
            left = [name for name in left if self.standings[name].error is None]
            best = min((self.standings[name].seconds for name in left), default=0.0)
            left = [name for name in left if self.standings[name].seconds <= best * (1.0 + lag)]
            # The quickest first: where the time ends within a round, those that may win have had their turns.
            left.sort(key=lambda name: self.standings[name].seconds)
            lag = max(LAST_LAG, lag / 2)
            if not left or (len(left) == 1 and number >= LEAST_ROUNDS):
                break
        return self.standings

    def _turn(self, name: Name, standing: Standing, rest: float) -> None:
        runner = self.runners[name]
        try:
            runner.ready()
            self.clock.sleep(PAUSE)
            began = self.clock.now()
            while True:
                start = self.clock.now()
                runner.go()
                end = self.clock.now()
                standing.seconds = min(standing.seconds, end - start)
                if end - began >= min(TURN, rest):
                    break
        except Exception as error:  # of whatever library: it is out, and the others go on
            standing.error = error
        standing.rounds += 1


__all__ = ["Clock", "Race", "Runner", "Standing"]

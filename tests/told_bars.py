"""What a command tells by a bar, in place of a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def bar_into(steps: list[Any]) -> type:
    """In the place of `cli.output.ProgressBar`: adds what it is for and of how many, and all it is then told to do."""

    class Bar:
        def __init__(self, total: int, doing: str) -> None:
            steps.append((doing, total))

        def __getattr__(self, name: str) -> Any:
            return lambda *given: steps.append((name, *given) if given else name)

        @contextmanager
        def out_of_the_way(self) -> Iterator[None]:
            steps.append("away")
            yield
            steps.append("back")

    return Bar

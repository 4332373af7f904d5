"""What a command tells while a model is being loaded, in place of a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager


def loading_into(steps: list[str]) -> Callable[[str], AbstractContextManager[Callable[[str], None]]]:
    """In the place of `cli.session.loading`: adds when it begins, what is told meanwhile, and when it ends."""

    @contextmanager
    def loading(model: str) -> Iterator[Callable[[str], None]]:
        steps.append(f"loads {model}")
        yield steps.append
        steps.append("loaded")

    return loading

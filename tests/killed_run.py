"""A prediction that kills itself at a moment it is told: `killed_run.py EVENT MODEL SOURCE OUT`.

What is counted is all that comes to the disk: before and after each write to a file that is not there yet under its
name, each flush, each renaming, and each line of the manifest, half of it included. At -1 it goes to its end.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import fake_engine

from vit_hybrid.inference.predictor import Predictor
from vit_hybrid.predict.job import predict
from vit_hybrid.predict.places import LocalFolder

BATCH, ROWS = 4, 3


def main(last: int, model: str, source: str, output: str) -> int:
    """Runs it; returns how many moments there were."""
    count = 0

    def moment() -> None:
        nonlocal count
        if count == last:
            os.kill(os.getpid(), signal.SIGKILL)
        count += 1

    def around(function: Any) -> Any:
        def counted(*given: Any, **named: Any) -> Any:
            moment()
            result = function(*given, **named)
            moment()
            return result

        return counted

    append = LocalFolder.append

    def half(self: LocalFolder, name: str, content: bytes) -> None:
        moment()
        if count == last:
            with open(self.path / name, "ab") as file:
                file.write(content[: len(content) // 2])
        moment()
        append(self, name, content)
        moment()

    os.fsync = around(os.fsync)
    Path.replace = around(Path.replace)  # type: ignore[method-assign]
    LocalFolder.append = half  # type: ignore[method-assign]
    Predictor.from_pretrained = fake_engine.opening()  # type: ignore[method-assign]
    predict(source, output, model=model, resume=True, batch_size=BATCH, rows_per_part=ROWS, top_k=2)
    return count


if __name__ == "__main__":
    print(main(int(sys.argv[1]), *sys.argv[2:]))

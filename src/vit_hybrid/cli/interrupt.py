"""Ctrl-C while no command runs: before one has been loaded, and once it is done.

Imports next to nothing, so that hardly any time passes before it counts.
"""

import os
import signal
import sys
from types import FrameType

# What a shell reports for a program that Ctrl-C ended.
EXIT_INTERRUPTED = 128 + signal.SIGINT


def leave_at_once(_number: int, _frame: FrameType | None) -> None:
    """Ends the process without a word: an exception could come up anywhere, also where it cannot be caught."""
    os._exit(EXIT_INTERRUPTED)


def is_this_command() -> bool:
    """Whether the process is the command, and no program of somebody's own that uses the package."""
    folder, name = os.path.split(sys.argv[0])
    return os.path.splitext(name)[0] == "vit-hybrid" or (os.path.basename(folder), name) == (
        "vit_hybrid",
        "__main__.py",
    )


def end_quietly() -> None:
    """Has Ctrl-C end the process without a word from here on, unless it is ignored, as in a shell's background job."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, leave_at_once)


__all__ = ["EXIT_INTERRUPTED", "end_quietly", "is_this_command", "leave_at_once"]

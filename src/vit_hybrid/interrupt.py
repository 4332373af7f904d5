"""Ctrl-C in the command while there is nothing to put in order: before all of it is loaded, and at its end.

The package imports this first of all, and it imports next to nothing, so that hardly any time passes before it counts.
In a program of somebody's own it changes nothing.
"""

import _signal  # type: ignore[import-not-found]  # `signal` makes enumerations of it, which takes longer than all here
import os
import sys

# What a shell reports for a program that Ctrl-C ended.
EXIT_INTERRUPTED = 128 + int(_signal.SIGINT)


def leave_at_once(_number: int, _frame: object) -> None:
    """Ends the process without a word: an exception could come up anywhere, also where it cannot be caught."""
    os._exit(EXIT_INTERRUPTED)


def is_command() -> bool:
    """Whether the process is the command `vit-hybrid`, and no program of somebody's own that uses the package."""
    started = sys.argv[0] if sys.argv else ""
    if started == "-m":  # Python is still looking for the module
        return sys.orig_argv[sys.orig_argv.index("-m") + 1 :][:1] == [__package__]
    return os.path.splitext(os.path.basename(started))[0] == "vit-hybrid"


def end_quietly() -> None:
    """Has Ctrl-C end the process without a word from here on, unless it is ignored, as in a shell's background job."""
    if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
        _signal.signal(_signal.SIGINT, leave_at_once)


if is_command():
    end_quietly()

__all__ = ["EXIT_INTERRUPTED", "end_quietly", "is_command", "leave_at_once"]

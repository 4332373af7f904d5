"""The command `vit-hybrid`."""

from .interrupt import end_quietly, is_this_command

if is_this_command():  # first of all: loading the rest takes a moment, in which a person may press Ctrl-C
    end_quietly()

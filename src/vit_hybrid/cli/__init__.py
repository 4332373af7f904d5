"""The command `vit-hybrid`."""

"""`python -m vit_hybrid` is the command `vit-hybrid`."""

from .cli.main import main

if __name__ == "__main__":
    main()

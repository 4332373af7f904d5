"""Starts a server of one's own, asks it what is in some photos, and ends it.

python examples/serve_and_ask.py PHOTO... [--model NAME] [--port 8000]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

PATIENCE_SECONDS = 300  # the first time a model is converted


def wait_until_ready(server: subprocess.Popen[bytes], address: str) -> None:
    """Returns once `/readyz` says that the model is loaded and warmed."""
    end = time.monotonic() + PATIENCE_SECONDS
    while server.poll() is None and time.monotonic() < end:
        try:
            with urllib.request.urlopen(f"{address}/readyz", timeout=5):
                return
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.2)
    raise SystemExit("the server did not become ready")


def ask(address: str, photo: str) -> dict[str, object]:
    """What the server says of a photo, which is the body as it is."""
    request = urllib.request.Request(
        f"{address}/v1/classify?top_k=3",
        data=Path(photo).read_bytes(),
        headers={"Content-Type": "application/octet-stream"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)["pictures"][0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", nargs="+", metavar="PHOTO")
    parser.add_argument("--model", default="vit-hybrid-tiny-imagenet")
    parser.add_argument("--port", type=int, default=8000)
    arguments = parser.parse_args()

    command = [sys.executable, "-m", "vit_hybrid", "serve", arguments.model, "--port", str(arguments.port)]
    server = subprocess.Popen(command)
    try:
        address = f"http://127.0.0.1:{arguments.port}"
        wait_until_ready(server, address)
        for photo in arguments.photos:
            print(photo, json.dumps(ask(address, photo)["predictions"]))
    finally:
        server.terminate()  # it finishes what it has accepted
        server.wait()


if __name__ == "__main__":
    main()

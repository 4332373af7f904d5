"""Builds what is uploaded and tries it as a stranger would: `make release`, or `python scripts/release.py`.

The sdist and the wheel go to dist/, once both have been looked through (nothing of tests, no path of this machine,
license and card inside) and each has been installed into an empty environment, for every Python given: without extras
it classifies, explains and names the extra of what is missing; with `train` it trains for ten steps. Any fault ends it
with a line and status 1.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
PHOTO = REPOSITORY / "examples" / "cat.jpg"
# What has to be in both, and beginnings of what must not be.
NEEDED = ("vit_hybrid/assets/README.md", "vit_hybrid/assets/model.safetensors", "vit_hybrid/py.typed", "LICENSE")
UNWANTED = ("tests/", "benchmarks/", "docs/", "examples/", "scripts/", ".ci/")
TEXTS = (
    ".py",
    ".md",
    ".json",
    ".toml",
    ".yaml",
    ".txt",
    ".cfg",
    ".html",
    ".js",
    ".css",
    ".csv",
    "PKG-INFO",
    "METADATA",
)

# Parts of the photo in two classes, for a training of a few steps.
MAKE_PICTURES = """
from pathlib import Path
from PIL import Image

with Image.open("cat.jpg") as photo:
    for label, (left, top) in {"face": (60, 40), "fur": (0, 150)}.items():
        folder = Path("pictures", label)
        folder.mkdir(parents=True)
        for shift in range(12):
            box = (left + shift, top + shift, left + shift + 90, top + shift + 90)
            photo.crop(box).save(folder / f"{shift}.png")
"""


class Fault(Exception):
    """What keeps it from being released."""


def contents(path: Path) -> Iterator[tuple[str, bytes]]:
    """Name and content of each file in a wheel or an sdist; in an sdist without its outer folder."""
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as wheel:
            yield from ((name, wheel.read(name)) for name in wheel.namelist() if not name.endswith("/"))
        return
    with tarfile.open(path) as archive:
        for member in archive:
            if file := archive.extractfile(member):
                yield member.name.partition("/")[2], file.read()


def look_through(path: Path, private: tuple[str, ...]) -> None:
    """Raises `Fault` for what is missing in an archive, and for what must not be in it.

    Args:
        path: A wheel or an sdist.
        private: Texts that no file in it may hold, such as this machine's paths.
    """
    found = dict(contents(path))
    missing = [needed for needed in NEEDED if not any(name.endswith(needed) for name in found)]
    if missing:
        raise Fault(f"{path.name} lacks {', '.join(missing)}")
    unwanted = [name for name in found if name.startswith(UNWANTED)]
    if unwanted:
        raise Fault(f"{path.name} holds {unwanted[0]} ({len(unwanted)} such files), which stays in the repository")
    for name, content in found.items():
        if name.endswith(TEXTS):
            for text in private:
                if text.encode() in content:
                    raise Fault(f"{path.name}: {name} has a path of this machine in it ({text})")


def run(*command: object, cwd: Path, status: int = 0) -> str:
    """What a command prints on both streams, once it has ended with `status`; in an environment without our sources."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode != status:
        raise Fault(f"{' '.join(map(str, command))} ended with {done.returncode}, not {status}:\n{done.stdout[-3000:]}")
    return done.stdout


def build(folder: Path) -> list[Path]:
    """The sdist and the wheel, built from a copy in an environment of its own."""
    source = folder / "source"
    kept = shutil.ignore_patterns(".venv", ".git", "dist", "build", "*.egg-info", "__pycache__", "_build", ".*_cache")
    shutil.copytree(REPOSITORY, source, ignore=kept)
    tool = folder / "tool"
    venv.create(tool, with_pip=True)
    run(tool / "bin/python", "-m", "pip", "install", "-q", "build", cwd=folder)
    run(tool / "bin/python", "-m", "build", "--outdir", folder / "dist", source, cwd=folder)
    return sorted((folder / "dist").iterdir())


def try_out(archive: Path, python: str, folder: Path) -> None:
    """Installs an archive into an empty environment and uses it."""
    place = Path(tempfile.mkdtemp(dir=folder))
    run(python, "-m", "venv", place / "venv", cwd=place)
    programs = place / "venv" / "bin"
    install = (programs / "python", "-m", "pip", "install", "-q", "-c", REPOSITORY / "constraints.txt")
    command = programs / "vit-hybrid"
    shutil.copy(PHOTO, place / "cat.jpg")

    run(*install, archive, cwd=place)
    [line] = run(command, "classify", "cat.jpg", "--json", "--top-k", "1", cwd=place).splitlines()[-1:]
    label = json.loads(line)["predictions"][0]["label"]
    if "cat" not in label:
        raise Fault(f"{archive.name}: the cat is called {label}")
    run(command, "explain", "cat.jpg", "--output", "explained", cwd=place)
    if not (place / "explained").is_dir() or not any((place / "explained").glob("*-overlay.png")):
        raise Fault(f"{archive.name}: explain has drawn nothing")
    refused = run(command, "serve", cwd=place, status=2)
    if "vit-hybrid[serve]" not in refused:
        raise Fault(f"{archive.name}: without its extra, serve says: {refused.strip()[:300]}")

    run(*install, f"vit-hybrid[train] @ {archive.as_uri()}", cwd=place)
    run(programs / "python", "-c", MAKE_PICTURES, cwd=place)
    run(command, "train", "pictures", "--output", "model", "--max-steps", "10", cwd=place)
    run(command, "classify", "cat.jpg", "--model", "model", cwd=place)
    shutil.rmtree(place)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", action="append", metavar="PYTHON", help="an interpreter to try it with; repeatable")
    arguments = parser.parse_args()

    private = (f"{REPOSITORY}/", f"{Path.home()}/") if Path.home() != Path("/") else (f"{REPOSITORY}/",)
    with tempfile.TemporaryDirectory(prefix="vit-hybrid-release-") as name:
        folder = Path(name)
        try:
            archives = build(folder)
            for archive in archives:
                look_through(archive, private)
                print(f"{archive.name}: looked through", flush=True)
            for python in arguments.python or [sys.executable]:
                for archive in archives:
                    try_out(archive, python, folder)
                    print(f"{archive.name}: works with {python}", flush=True)
        except Fault as fault:
            raise SystemExit(f"not released: {fault}") from None
        target = REPOSITORY / "dist"
        target.mkdir(exist_ok=True)
        for archive in archives:
            shutil.copy(archive, target)
            print(target / archive.name)


if __name__ == "__main__":
    main()

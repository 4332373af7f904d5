"""What is installed with the package, and what is in it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from email import message_from_bytes
from email.message import Message
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from repository import REPOSITORY, loaded

import vit_hybrid

PACKAGE = REPOSITORY / "src" / "vit_hybrid"
# With a CPU-only torch its import fails, and transformers' vision classes fail with it.
UNWANTED = "torchvision"


def resolved(root: Requirement) -> dict[str, str]:
    """The installed distributions that `root` needs, directly or not, each with one that needs it."""
    found: dict[str, str] = {}
    seen: set[tuple[str, frozenset[str]]] = set()
    waiting = [("the project", root)]
    while waiting:
        needed_by, requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        key = (name, frozenset(requirement.extras))
        if key in seen:
            continue
        seen.add(key)
        found.setdefault(name, needed_by)
        try:
            requirements = distribution(name).requires or []
        except PackageNotFoundError:
            continue
        for line in requirements:
            further = Requirement(line)
            if further.marker is None or any(
                further.marker.evaluate({"extra": extra}) for extra in {"", *requirement.extras}
            ):
                waiting.append((name, further))
    return found


def test_nothing_that_is_installed_with_the_package_needs_torchvision() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    needed = resolved(Requirement(f"vit-hybrid[{','.join(project['optional-dependencies'])}]"))
    assert {"torch", "transformers", "pytest", "accelerate", "ruff"} <= needed.keys()  # it did look
    assert UNWANTED not in needed, f"{needed[UNWANTED]} needs {UNWANTED}"


def test_the_environment_has_no_torchvision() -> None:
    with pytest.raises(PackageNotFoundError):
        distribution(UNWANTED)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The package as it would be uploaded, built from a copy because building writes beside the sources."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source)
    shutil.copytree(PACKAGE, source / "src" / "vit_hybrid", ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index"]
    done = subprocess.run([*command, "-w", target, source], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    [path] = target.iterdir()
    return zipfile.ZipFile(path)


def test_the_wheel_holds_all_of_the_package(wheel: zipfile.ZipFile) -> None:
    sources = {path.relative_to(REPOSITORY / "src").as_posix() for path in PACKAGE.rglob("*.py")}
    data = {f"vit_hybrid/assets/{path.name}" for path in (PACKAGE / "assets").iterdir() if path.is_file()}
    data |= {
        f"vit_hybrid/train/recipes/{path.name}"
        for path in (PACKAGE / "train" / "recipes").iterdir()
        if path.suffix in (".yaml", ".txt")
    }
    data |= {f"vit_hybrid/serve/page/{path.name}" for path in (PACKAGE / "serve" / "page").iterdir()}
    data |= {f"vit_hybrid/data/{path.name}" for path in (PACKAGE / "data").glob("*.csv")}
    packed = {name for name in wheel.namelist() if not name.startswith("vit_hybrid-")}
    assert packed == {*sources, *data, "vit_hybrid/py.typed"}
    assert any(name.endswith("/LICENSE") for name in wheel.namelist())


@pytest.fixture(scope="module")
def release() -> ModuleType:
    return loaded("scripts/release.py")


def test_what_is_released_is_looked_through(wheel: zipfile.ZipFile, release: ModuleType, tmp_path: Path) -> None:
    assert wheel.filename is not None
    original = Path(wheel.filename)
    release.look_through(original, (f"{REPOSITORY}/",))
    for name, content, complaint in (
        ("tests/test_model.py", b"", "holds tests/test_model.py"),
        ("vit_hybrid/notes.md", f"see {REPOSITORY}/notes".encode(), "notes.md has a path of this machine"),
    ):
        spoiled = tmp_path / original.name
        shutil.copy(original, spoiled)
        with zipfile.ZipFile(spoiled, "a") as archive:
            archive.writestr(name, content)
        with pytest.raises(release.Fault, match=complaint):
            release.look_through(spoiled, (f"{REPOSITORY}/",))
    poorer = tmp_path / "poorer.whl"
    with zipfile.ZipFile(poorer, "w") as archive:
        for name in wheel.namelist():
            if not name.endswith("assets/README.md"):
                archive.writestr(name, wheel.read(name))
    with pytest.raises(release.Fault, match=r"lacks vit_hybrid/assets/README\.md"):
        release.look_through(poorer, ())


def test_the_version_is_the_same_wherever_it_stands() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())
    latest = re.search(r"^## (\S+) \((\S+)\)$", (REPOSITORY / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert latest is not None
    assert {project["version"], citation["version"], latest[1]} == {vit_hybrid.__version__}
    assert str(citation["date-released"]) == latest[2]


def test_the_wheel_says_what_it_is(wheel: zipfile.ZipFile) -> None:
    [path] = [name for name in wheel.namelist() if name.endswith("/METADATA")]
    metadata: Message = message_from_bytes(wheel.read(path))
    assert metadata["Name"] == "vit-hybrid"
    assert metadata["Version"] == vit_hybrid.__version__
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.11"

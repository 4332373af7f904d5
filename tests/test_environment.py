"""No torchvision: beside a CPU-only torch its import fails, and takes transformers' vision classes with it."""

import importlib.util
import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

PROJECT = Path(__file__).parent.parent
UNWANTED = "torchvision"


def normalized(name: str) -> str:
    """The one spelling that package indexes hold to be the same (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def requirements(lines: list[str]) -> list[Requirement]:
    return [Requirement(line) for line in lines]


def closure(start: list[Requirement]) -> tuple[set[str], list[str]]:
    """Installed distributions that `start` leads to, and "distribution: requirement" for each that names torchvision.

    Extras and environment markers count as for an installer: a requirement of an extra nobody asked for is none.
    """
    waiting = [("the project", requirement, {""}) for requirement in start]
    seen: set[tuple[str, frozenset[str]]] = set()
    offenders: list[str] = []
    while waiting:
        origin, requirement, extras = waiting.pop()
        if requirement.marker and not any(requirement.marker.evaluate({"extra": extra}) for extra in extras):
            continue
        name = normalized(requirement.name)
        if name == UNWANTED:
            offenders.append(f"{origin}: {requirement}")
        key = (name, frozenset(requirement.extras))
        if key in seen:
            continue
        seen.add(key)
        try:
            lines = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue  # the requirement of another platform, or of an extra that is not installed here
        waiting += [(name, inner, {"", *requirement.extras}) for inner in requirements(lines)]
    return {name for name, _ in seen}, offenders


@pytest.fixture(scope="module")
def project() -> dict:
    return tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]


def test_torchvision_is_not_installed() -> None:
    installed = {normalized(distribution.metadata["Name"]) for distribution in metadata.distributions()}
    assert "transformers" in installed  # the environment is the one that was resolved
    assert UNWANTED not in installed
    assert importlib.util.find_spec(UNWANTED) is None


def test_transformers_sees_none() -> None:
    from transformers.utils import is_torchvision_available, is_vision_available

    assert not is_torchvision_available()
    assert is_vision_available()


def test_no_installed_distribution_requires_it() -> None:
    offenders = [
        f"{distribution.metadata['Name']}: {requirement}"
        for distribution in metadata.distributions()
        for requirement in requirements(distribution.requires or [])
        if normalized(requirement.name) == UNWANTED
        and (requirement.marker is None or requirement.marker.evaluate({"extra": ""}))
    ]
    assert not offenders


def test_neither_the_project_nor_an_extra_leads_to_it(project: dict) -> None:
    extras = project["optional-dependencies"]
    assert "test" in extras
    for name, lines in {"(none)": project["dependencies"], **extras}.items():
        reached, offenders = closure(requirements(lines))
        assert not offenders, f"extra {name}"
        assert reached, f"extra {name}"


def test_the_installed_metadata_says_the_same_as_pyproject(project: dict) -> None:
    assert metadata.version("vit-hybrid") == project["version"]
    reached, offenders = closure([Requirement(f"vit-hybrid[{','.join(project['optional-dependencies'])}]")])
    assert not offenders
    assert {"vit-hybrid", "torch", "transformers", "pillow", "typer", "pytest"} <= reached


def test_constraints_pin_neither_torchvision_nor_a_local_build_of_torch() -> None:
    lines = (PROJECT / "constraints.txt").read_text().splitlines()
    pins = requirements([line for line in lines if line.strip() and not line.startswith("#")])
    by_name = {normalized(pin.name): str(pin.specifier) for pin in pins}
    assert UNWANTED not in by_name
    assert by_name["torch"] == "==2.13.0"
    assert by_name["transformers"] == "==5.23.0"


def test_the_closure_finds_what_it_looks_for() -> None:
    assert closure(requirements(["torchvision>=0.1"]))[1] == ["the project: torchvision>=0.1"]
    assert not closure(requirements(["torchvision; sys_platform == 'nowhere'"]))[1]
    assert not closure(requirements(["torchvision; extra == 'vision'"]))[1]

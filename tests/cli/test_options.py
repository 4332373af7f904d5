"""Options stand once in the code, and mean the same in every command that has them."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer
from typer.testing import CliRunner

import vit_hybrid.cli
from vit_hybrid.cli.grouping import option_names, with_options
from vit_hybrid.cli.main import app
from vit_hybrid.cli.many_pictures import completed
from vit_hybrid.cli.options import EngineOptions

FOLDER = Path(vit_hybrid.cli.__file__).parent
COMMANDS = {command.name: command for command in typer.main.get_command(app).commands.values()}  # type: ignore[attr-defined]

# Options that share a name and have a meaning of the command's own, with the commands where they do.
OWN_MEANING = {
    "--output": {"evaluate", "probe", "train", "benchmark", "predict", "embed", "explain"},  # each writes other files
    "--model": {"probe", "train", "search"},  # each takes other kinds
    "--engine": {"export"},  # what a bundle is written for, of which not all run here
    "--precision": {"export", "train", "tune", "benchmark"},  # of a bundle, of a recipe, one or all, several
    "--dtype": {"info", "embed"},  # what memory is told for; of vectors
    "--strict": {"parts", "predict", "embed"},  # which go on to the end
    "--workers": {"many_pictures", "predict", "embed", "evaluate", "serve"},  # of a run, of a server
    "--batch-size": {"train"},  # of a recipe: pictures of an optimizer step
    "--split": {"calibrate"},  # which prefers the validation pictures
    "--html": {"explain"},  # a page of its own, whose name may be left out
    "--top-k": {"search"},  # pictures
    "--compile": {"benchmark"},  # one more contender
    "--image-size": {"train", "benchmark"},  # of a recipe, several
    "--token-merging": {"benchmark"},  # several
    "--resume": {"train"},  # from a checkpoint
    "--threads": {"serve"},  # which its processes share
    "--max-pixels": {"serve"},  # of strangers
    "--minutes": {"tune"},  # of a race
    "--api-key-file": {"serve"},  # of all keys
    "--device": {"train"},  # which takes the accelerator, or not
}
# Whose defaults a command says for itself, in its signature.
OWN_DEFAULT = {("--engine", "probe"), ("--val-fraction", "probe"), ("--seed", "probe")}


def declared() -> Iterator[tuple[str, str]]:
    """(file, option) for each call of `typer.Option` in the folder's code."""
    for path in sorted(FOLDER.glob("*.py")):
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            target = node.arg if isinstance(node, ast.arg) else getattr(getattr(node, "target", None), "id", None)
            annotation = getattr(node, "annotation", None)
            if isinstance(node, ast.AnnAssign) and isinstance(annotation, ast.Name) and annotation.id == "TypeAlias":
                annotation = node.value
            if target is None or annotation is None:
                continue
            for call in ast.walk(annotation):
                if isinstance(call, ast.Call) and ast.unparse(call.func) == "typer.Option":
                    names = [one.value for one in call.args if isinstance(one, ast.Constant)]
                    yield path.stem, names[0] if names else alias_or_option(target)


def alias_or_option(target: str) -> str:
    """`--batch-size` of a parameter `batch_size`, or of an alias `BatchSize`."""
    words = "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in target)
    return f"--{words.strip('_').replace('_', '-')}"


def test_each_option_is_declared_once() -> None:
    places = defaultdict(list)
    for file, option in declared():
        places[option].append(file)
    assert len(places) > 40
    for option, files in places.items():
        shared = [file for file in files if file not in OWN_MEANING.get(option, ())]
        assert len(shared) <= 1, f"{option} is declared in {', '.join(shared)}: write it once, in options.py"


def test_options_of_a_name_say_the_same_in_every_command() -> None:
    found: dict[str, dict[str, Any]] = defaultdict(dict)
    for name, command in COMMANDS.items():
        for parameter in command.params:
            if parameter.param_type_name == "option":
                found[parameter.opts[0]][name] = parameter
    assert set(OWN_MEANING) <= set(found)
    for option, commands in found.items():
        shared = {name: one for name, one in commands.items() if name not in OWN_MEANING.get(option, ())}
        said = {(one.help, one.metavar, one.min, tuple(one.opts), str(one.show_default)) for one in shared.values()}
        assert len(said) <= 1, (option, said)
        defaults = {one.default for name, one in shared.items() if (option, name) not in OWN_DEFAULT}
        assert len(defaults) <= 1, (option, defaults)


@pytest.mark.parametrize(
    "name", [name for name in COMMANDS if name != "serve"]
)  # which answers in JSON, and logs in it
def test_every_command_prints_json_on_request(name: str) -> None:
    assert "--json" in [option for parameter in COMMANDS[name].params for option in parameter.opts]


@dataclass(frozen=True)
class Group:
    long_name: Annotated[int, typer.Option(min=1, help="One.")] = 7
    flag: Annotated[bool, typer.Option("--yes", help="Two.")] = False


def run(command: Any, *arguments: str) -> Any:
    inner = typer.Typer()
    inner.command()(with_options(command))
    return CliRunner().invoke(inner, arguments)


def test_a_group_is_put_into_the_signature_and_comes_as_one() -> None:
    seen = []

    def command(name: Annotated[str, typer.Argument()], group: Group = Group(), last: int = 3) -> None:
        """What it does."""
        seen.append((name, group, last))

    assert run(command, "a").exit_code == 0
    assert run(command, "b", "--long-name", "9", "--yes", "--last", "4").exit_code == 0
    assert seen == [("a", Group(), 3), ("b", Group(9, True), 4)]
    assert run(command, "b", "--long-name", "0").exit_code == 2
    text = run(command, "--help").stdout
    assert all(word in text for word in ("What it does.", "--long-name", "default: 7", "--yes", "Two."))


def test_a_signature_may_say_other_defaults() -> None:
    seen = []

    def command(group: Group = Group(long_name=5)) -> None:
        seen.append(group)

    assert run(command).exit_code == 0
    assert seen == [Group(5, False)]


def test_names_as_a_person_types_them() -> None:
    def command(data: Annotated[str, typer.Argument()], group: Group, engine: EngineOptions) -> None:
        pass

    names = option_names(with_options(command))
    assert {name: names[name] for name in ("long_name", "flag", "token_merging", "fast_decode")} == {
        "long_name": "--long-name",
        "flag": "--yes",
        "token_merging": "--token-merging",
        "fast_decode": "--fast-decode",
    }
    assert "data" not in names
    assert option_names(COMMANDS["benchmark"].callback)["image_sizes"] == "--image-sizes"  # the first of two


# What options are where nobody types them, and that scripts rely on; those that are not here are then not given.
DEFAULTS = {
    "--model": "vit-hybrid-tiny-imagenet",
    "--top-k": 5,
    "--coverage": 0.9,
    "--false-alarms": 0.05,
    "--engine": "auto",
    "--precision": "auto",
    "--batch-size": 16,
    "--max-batch": 16,
    "--dtype": "float32",
    "--normalization": "none",
    "--method": "relevance",
    "--fusion": "mean",
    "--discard": 0,
    "--sets": "lac",
    "--val-fraction": 0.1,
    "--seed": 0,
    "--trials": 5,
    "--neighbors": 20,
    "--minutes": 10,
    "--max-pixels": 50_000_000,
    "--host": "127.0.0.1",
    "--port": 8000,
    "--workers": 1,
    "--max-wait-ms": 0,
    "--max-body-mb": 20,
    "--max-buffered-mb": 256,
    "--max-files": 16,
    "--deadline": 30,
    "--header-timeout": 10,
    "--body-timeout": 30,
    "--idle-timeout": 60,
    "--max-connections": 1024,
    "--batch-timeout": 120,
    "--cors-origin": (),
    "--drain-delay": 5,
    "--grace": 20,
    "--access-log-rate": 10,
    "--batch-sizes": "1,2,4,8",
    "--attention": "eager,sdpa",
    "--repetitions": 9,
    "--warm-up": 2,
    "--busy": 0,
}
DEFAULTS_OF = {
    ("search", "--top-k"): 10,
    ("export", "--engine"): "openvino",
    ("export", "--precision"): "f32",
    ("benchmark", "--precision"): "f32",
}


def test_what_options_are_where_nobody_types_them() -> None:
    for command, about in COMMANDS.items():
        for parameter in about.params:
            name = parameter.opts[0]
            if parameter.param_type_name == "option" and parameter.is_flag:
                assert not parameter.default, (command, name)
            elif parameter.param_type_name == "option" and parameter.default is not None:
                assert parameter.default == DEFAULTS_OF.get((command, name), DEFAULTS[name]), (command, name)
    given = {(command, one.opts[0]) for command, about in COMMANDS.items() for one in about.params if one.default}
    assert {("serve", "--deadline"), ("predict", "--top-k"), ("explain", "--method"), ("probe", "--model")} <= given
    assert {name for _, name in given} >= {name for name, value in DEFAULTS.items() if value}


# The least that options with numbers take, and less than that; of those that commands have each for itself, which.
LEAST = {
    (
        "1",
        "0",
    ): "top-k batch-size max-batch max-pixels threads token-merging rows-per-part workers cpus-per-worker limit "
    "max-steps train:image-size trials neighbors max-queue max-files max-connections quota repetitions",
    ("0", "-1"): "num-labels seed port max-wait-ms drain-delay grace access-log-rate warm-up busy train:workers",
    ("0.001", "0"): "max-body-mb max-buffered-mb deadline header-timeout body-timeout idle-timeout batch-timeout",
    ("0.1", "0.09"): "export:minutes",
    ("0.01", "0.009"): "tune:minutes",
}


def test_the_least_of_each_option_is_taken_and_less_is_not() -> None:
    limits = {name: values for values, names in LEAST.items() for name in names.split()}
    seen = set()
    for command, about in COMMANDS.items():
        context = typer.Context(about)
        for parameter in about.params:
            if getattr(parameter, "min", None) is None:
                continue
            name = parameter.opts[0].removeprefix("--")
            name = own if (own := f"{command}:{name}") in limits else name
            seen.add(name)
            least, less = limits[name]
            assert float(parameter.process_value(context, least)) == float(least)
            with pytest.raises(typer.BadParameter):
                parameter.process_value(context, less)
    assert seen == {*limits}
    port = next(one for one in COMMANDS["serve"].params if one.name == "port")
    assert port.process_value(typer.Context(COMMANDS["serve"]), "65535") == 65535
    with pytest.raises(typer.BadParameter):
        port.process_value(typer.Context(COMMANDS["serve"]), "65536")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("info", "R50+B/16", "--image-size", "64x"), "'64x' is no size such as 384 or 256x384"),
        (("convert", "a.npz", "b", "--image-size", "0"), "'0' is no size such as 384 or 256x384"),
        (("probe", "data", "--val-fraction", "1"), "1 is no share between 0 and 1"),
        (("train", "data", "--output", "out", "--val-fraction", "0"), "0 is no share between 0 and 1"),
        (("classify", "a.jpg", "--calibration", "b", "--agreement", "1"), "1 is no share between 0 and 1"),
    ],
)
def test_what_a_value_must_be_is_said_once(arguments: tuple[str, ...], said: str) -> None:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert said in " ".join(result.stderr.replace("│", " ").split())


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("a --ray --output b", "a --ray local --output b"),
        ("--ray a", "--ray local a"),
        ("a --ray", "a --ray local"),
        ("--ray auto a", "--ray auto a"),
        ("--ray 10.0.0.5:6379 a", "--ray 10.0.0.5:6379 a"),
        ("--ray=auto a", "--ray=auto a"),
        ("--ray local a", "--ray local a"),
        ("--ray autos", "--ray local autos"),
        ("a --ray -- b:1 --ray", "a --ray local -- b:1 --ray"),
        ("-- --ray", "-- --ray"),
    ],
)
def test_ray_may_stand_without_its_address(typed: str, meant: str) -> None:
    assert completed(typed.split()) == meant.split()

"""What pages of the site say by themselves: public names from their docstrings, the command from its options, recipes.

A line `<!-- generated: WHAT -->` in a page is the place; what stands there is made when the site is built.
"""

from __future__ import annotations

import importlib
import inspect
import json
import re
import sys
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

# Where people import from, and so what the reference is of: all in a module's `__all__`.
MODULES = (
    "vit_hybrid",
    "vit_hybrid.engines",
    "vit_hybrid.inference.features",
    "vit_hybrid.data.streams",
    "vit_hybrid.checkpoints.opening",
    "vit_hybrid.checkpoints.jax",
    "vit_hybrid.checkpoints.timm",
    "vit_hybrid.checkpoints.dpt",
    "vit_hybrid.train",
    "vit_hybrid.evaluate",
    "vit_hybrid.probe",
    "vit_hybrid.predict",
    "vit_hybrid.search",
    "vit_hybrid.explain",
    "vit_hybrid.export",
    "vit_hybrid.assets",
)
# Sections of a docstring, and the field that an entry of theirs is in the site.
FIELDS = {"Args": "param", "Attributes": "ivar", "Raises": "raises", "Yields": "yields", "Returns": "returns"}
REPOSITORY = Path(__file__).parents[1]
# In a page as one reads it in the repository; the site has no file there.
FILE_LINK = re.compile(r"\[([^\]]+)\]\((\.\./[^)#]+)\)")
PLACE = re.compile(r"^<!-- generated: ([\w ]+) -->$", re.MULTILINE)


def fill(app: Any, name: str, source: list[str]) -> None:
    """Puts what is generated into a page's places, and files of the repository that it links to beside the site.

    Called by Sphinx (`source-read`), before it reads the page.
    """
    page = PLACE.sub(lambda place: GENERATED[place[1]](), source[0])
    source[0] = FILE_LINK.sub(r"{download}`\1 <\2>`", page)


# Public names


def public_names() -> Iterator[tuple[str, str, Any]]:
    """Module, name and object of all there is in the reference, each once, where it is met first."""
    seen = set()
    for module_name in MODULES:
        module = importlib.import_module(module_name)
        for name in module.__all__:
            if f"{module_name}.{name}" in MODULES:  # a module that is called: the function has a part of its own
                continue
            value = getattr(module, name)
            if inspect.ismodule(value):
                continue
            mark = id(value) if callable(value) else (module_name, name)
            if mark not in seen:
                seen.add(mark)
                yield module_name, name, value


def public_modules() -> set[str]:
    """Names of `vit_hybrid` that are modules with a part of their own."""
    return {module.rpartition(".")[2] for module in MODULES}


def names() -> str:
    """The reference of all public names, a part for each module."""
    parts: dict[str, list[str]] = {}
    for module, name, value in public_names():
        parts.setdefault(module, []).append(_described(module, name, value))
    return "\n".join(
        f"## {module}\n\n{markdown(inspect.getdoc(importlib.import_module(module)) or '', level=3)}\n\n"
        + "\n".join(parts[module])
        for module in parts
    )


def _described(module: str, name: str, value: Any) -> str:
    if inspect.isclass(value):
        members = "\n".join(_member(name, key, member) for key, member in _members(value))
        kind = "exception" if issubclass(value, BaseException) else "class"
        return _directive(kind, module, f"{name}{_signature(value)}", markdown(inspect.getdoc(value) or ""), members)
    if callable(value):
        return _directive("function", module, f"{name}{_signature(value)}", markdown(inspect.getdoc(value) or ""))
    shown = repr(value)
    return _directive("data", module, name, f"`{shown}`" if len(shown) <= 100 else f"A {type(value).__name__}.")


def _members(cls: type) -> Iterator[tuple[str, Any]]:
    """Public methods and properties with a docstring, this package's own, in the order they are written in."""
    for owner in reversed(cls.__mro__):
        if owner.__module__.startswith("vit_hybrid"):
            for key, member in vars(owner).items():
                is_last = next(other for other in cls.__mro__ if key in vars(other)) is owner
                if not key.startswith("_") and is_last and _is_documented(member):
                    yield key, member


def _is_documented(member: Any) -> bool:
    inner = member.__func__ if isinstance(member, (classmethod, staticmethod)) else member
    return (inspect.isfunction(inner) or isinstance(inner, property)) and bool(inspect.getdoc(inner))


def _member(owner: str, key: str, member: Any) -> str:
    if isinstance(member, property):
        return _directive("property", None, key, markdown(inspect.getdoc(member) or ""))
    option = {classmethod: ":classmethod:\n", staticmethod: ":staticmethod:\n"}.get(type(member), "")
    inner = getattr(member, "__func__", member)
    signature = _signature(inner, bound=not isinstance(member, staticmethod))
    return _directive("method", None, f"{key}{signature}", markdown(inspect.getdoc(inner) or ""), options=option)


def _directive(kind: str, module: str | None, signature: str, *texts: str, options: str = "") -> str:
    fence = ":::::" if module else "::::"
    where = f":module: {module}\n" if module else ""
    body = "\n\n".join(text for text in texts if text)
    return f"{fence}{{py:{kind}}} {signature}\n{where}{options}\n{body}\n{fence}\n"


def _signature(value: Any, bound: bool = False) -> str:
    """The parameters with their defaults, as Python writes them; annotations stand in the docstrings."""
    try:
        parameters = list(inspect.signature(value).parameters.values())
    except (TypeError, ValueError):
        return "()"
    kept = parameters[1:] if bound and parameters else parameters
    shown = [
        parameter.replace(annotation=inspect.Parameter.empty, default=_default(parameter.default))
        for parameter in kept
        if not parameter.name.startswith("_")
    ]
    return str(inspect.Signature(shown))


class _Written:
    """Something that is written as given."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


def _default(value: Any) -> Any:
    if value is inspect.Parameter.empty or isinstance(value, (bool, int, float, str, type(None))):
        return value
    return _Written("..." if not isinstance(value, tuple) or len(repr(value)) > 40 else repr(value))


def errors() -> str:
    """The errors of this package that the reference names."""
    named = set(re.findall(r"^:raises (\w+):", names(), re.MULTILINE))
    described = {name for _, name, _ in public_names()}
    found = {
        value
        for key, module in sorted(sys.modules.items())
        if key.startswith("vit_hybrid.")
        for name, value in vars(module).items()
        if name in named - described and inspect.isclass(value) and value.__module__.startswith("vit_hybrid.")
    }
    return "\n".join(
        _described(error.__module__, error.__name__, error)
        for error in sorted(found, key=lambda error: (error.__module__, error.__name__))
    )


# Docstrings


def markdown(text: str, level: int = 0) -> str:
    """A docstring of this package as the site's Markdown: sections become fields, examples are of Python's prompt.

    Args:
        text: The docstring, without its indentation.
        level: The level from which its headings count; 0 where there can be none.
    """
    lines = text.splitlines()
    out: list[str] = []
    index = 0
    while index < len(lines):
        heading = re.fullmatch(r"(\w+):", lines[index])
        if heading and heading[1] in FIELDS:
            block, index = _block(lines, index + 1)
            out += ["", *_fields(FIELDS[heading[1]], block), ""]
        elif heading and heading[1] == "Example":
            out += ["", "**Example**", ""]
            index += 1
        else:
            out.append(lines[index])
            index += 1
    return re.sub(r"```python\n(?=\s*>>>)", "```pycon\n", "\n".join(out)).strip()


def _block(lines: list[str], start: int) -> tuple[list[str], int]:
    """The indented lines from `start` on, without their indentation, and where they end."""
    end = start
    while end < len(lines) and (not lines[end].strip() or lines[end].startswith(" ")):
        end += 1
    return inspect.cleandoc("\n".join(lines[start:end])).splitlines(), end


def _fields(field: str, block: list[str]) -> Iterator[str]:
    if field in ("returns", "yields"):
        yield from _hanging(f":{field}:", block)
        return
    entries: list[list[str]] = []
    for line in block:
        if line.startswith(" ") or not line.strip():
            if entries:
                entries[-1].append(line)
        else:
            entries.append([line])
    for first, *rest in entries:
        # `name (kind): what`, several names, or a sentence about errors that goes on behind a semicolon.
        match = re.fullmatch(r"([\w`.*, ]+?)(?: \((.+?)\))?:(?: (.*))?", first)
        if match is None:
            yield from _hanging(f":{field}:" if field != "param" else ":param:", [first, *rest])
            continue
        said, kind, what = match[1].replace("`", "").replace("*", ""), match[2], match[3] or ""
        kind = f"({kind}) " if kind else ""
        *others, said = said.split(", ")  # several with one description
        yield from (f":{field} {other}: as `{said}`." for other in others)
        yield from _hanging(
            f":{field} {said}:", [f"{kind}{what}".strip(), *inspect.cleandoc("\n".join(rest)).splitlines()]
        )


def _hanging(head: str, lines: list[str]) -> Iterator[str]:
    first, *rest = lines or [""]
    yield f"{head} {first}"
    yield from (f"    {line}".rstrip() for line in rest)


# The command


def the_app() -> Any:
    """The command as click knows it."""
    import typer

    from vit_hybrid.cli.main import app

    return typer.main.get_command(app)


def commands() -> str:
    """All subcommands, each with what it takes."""
    return "\n\n".join(_command(name, command) for name, command in the_app().commands.items())


def _command(name: str, command: Any) -> str:
    arguments = [each for each in command.params if each.param_type_name == "argument"]
    options = [each for each in command.params if each.param_type_name == "option"]
    usage = " ".join([f"vit-hybrid {name}", *(_metavar(each) for each in arguments), "[OPTIONS]"])
    text = inspect.cleandoc(command.help or "").replace("\f", "")
    parts = [f"## {name}", text, f"```text\n{usage}\n```"]
    if arguments:
        parts.append(_table("argument", [(f"`{_metavar(each)}`", each) for each in arguments]))
    parts.append(_table("option", [(_written(each), each) for each in options]))
    return "\n\n".join(parts)


def _metavar(argument: Any) -> str:
    shown = argument.metavar or argument.name.upper()
    return shown if argument.required else f"[{shown}]"


def _written(option: Any) -> str:
    names = ", ".join(f"`{name}`" for name in [*option.opts, *option.secondary_opts])
    if getattr(option, "is_flag", False):
        return names
    return f"{names} `{option.metavar or _kind(option.type_descriptor.annotation)}`"


def _kind(annotation: Any) -> str:
    """What a value is, by its type: choices where there are some, else the type's name in capitals."""
    if get_origin(annotation) is Literal:
        return "|".join(str(choice) for choice in get_args(annotation))
    parts = [part for part in get_args(annotation) if part is not type(None)]
    if parts:  # of `X | None` or `list[X]`
        return "|".join(dict.fromkeys(_kind(part) for part in parts))
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return "|".join(str(choice.value) for choice in annotation)
    return str(getattr(annotation, "__name__", annotation)).upper()


def _table(title: str, rows: list[tuple[str, Any]]) -> str:
    lines = [f"| {title} | what | default |", "|---|---|---|"]
    for written, parameter in rows:
        said = " ".join((parameter.help or "").split())
        lines.append(f"| {_cell(written)} | {_cell(_escaped(said))} | {_cell(_shown_default(parameter))} |")
    return "\n".join(lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _escaped(text: str) -> str:
    """Text of a help, where `*` and the like mean themselves."""
    return re.sub(r"([*_<>\[\]])", r"\\\1", text)


def _shown_default(parameter: Any) -> str:
    if isinstance(parameter.show_default, str):
        return _escaped(parameter.show_default)
    if parameter.required or parameter.show_default is False or parameter.default in (None, False, (), []):
        return ""
    if callable(parameter.default):
        return ""
    return f"`{getattr(parameter.default, 'value', parameter.default)}`"


# Recipes


def recipes() -> str:
    """A table of the recipes that ship: what each is for, its command, and the result seen."""
    import yaml

    import vit_hybrid.train

    lines = ["| recipe | what for | command | result |", "|---|---|---|---|"]
    folder = Path(vit_hybrid.train.__file__).parent / "recipes"
    for path in sorted(folder.glob("*.yaml")):
        fields = yaml.safe_load(path.read_text(encoding="utf-8"))
        cells = [
            f"`{path.stem}`",
            fields["summary"],
            f"`{fields['command']}`" if "command" in fields else "",
            fields.get("result", ""),
        ]
        lines.append("| " + " | ".join(_cell(" ".join(cell.split())) for cell in cells) + " |")
    return "\n".join(lines)


# Measured


def eager_against_sdpa() -> str:
    """What `vit-hybrid benchmark` measured of both attentions, for each machine whose results are kept."""
    lines = ["| machine | batch | eager | sdpa | times as fast |", "|---|---|---|---|---|"]
    for path in sorted((REPOSITORY / "benchmarks" / "results").glob("*/results.json")):
        results = json.loads(path.read_text(encoding="utf-8"))
        machine = results["machine"]
        name = f"{machine['device_name'] or machine['cpu']}, {results['settings']['threads']} threads"
        for row in results["table"]:
            least = row["min"]
            lines.append(
                f"| {name} | {row['batch_size']} | {least['eager_ms']:.0f} | {least['sdpa_ms']:.0f} "
                f"| {least['speed_up']:.2f} |"
            )
    return "\n".join(lines)


GENERATED: dict[str, Callable[[], str]] = {
    "names": names,
    "errors": errors,
    "commands": commands,
    "recipes": recipes,
    "eager against sdpa": eager_against_sdpa,
}

"""A group of options as a parameter of a command: its fields one by one, as typer reads them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from functools import wraps
from inspect import Parameter, Signature, signature
from typing import Any, get_type_hints

from typer.models import OptionInfo


def with_options(function: Callable[..., None]) -> Callable[..., None]:
    """`function` with the options of its groups in its signature, one by one, as typer reads them."""
    hints = get_type_hints(function, include_extras=True)
    groups: dict[str, Any] = {name: hint for name, hint in hints.items() if is_dataclass(hint)}
    parameters: list[Parameter] = []
    for name, parameter in signature(function).parameters.items():
        if name not in groups:
            parameters.append(parameter.replace(annotation=hints[name], kind=Parameter.KEYWORD_ONLY))
            continue
        defaults = groups[name]() if parameter.default is Parameter.empty else parameter.default
        annotations = get_type_hints(groups[name], include_extras=True)
        parameters += (
            Parameter(
                field.name,
                Parameter.KEYWORD_ONLY,
                default=getattr(defaults, field.name),
                annotation=annotations[field.name],
            )
            for field in fields(groups[name])
        )

    @wraps(function)
    def taking_options(**given: Any) -> None:
        grouped = {
            name: group(**{field.name: given.pop(field.name) for field in fields(group)})
            for name, group in groups.items()
        }
        function(**given, **grouped)

    taking_options.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    taking_options.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return taking_options


def option_names(function: Callable[..., None]) -> Mapping[str, str]:
    """What a person types for each of the arguments that are options: `label_column` is `--label-column`."""
    names = {}
    for name, parameter in signature(function).parameters.items():
        for mark in getattr(parameter.annotation, "__metadata__", ()):
            if isinstance(mark, OptionInfo):
                # typer keeps the first name of an annotation where a default would stand.
                said = [word for word in (mark.default, *(mark.param_decls or ())) if isinstance(word, str)]
                names[name] = said[0] if said else f"--{name.replace('_', '-')}"
    return names


__all__ = ["option_names", "with_options"]

"""The recipe as command-line options: one a field, generated, so that flags and TOML cannot drift apart."""

from __future__ import annotations

import typing
from collections.abc import Callable, Collection, Iterable
from typing import Any

import rich_click as click

from landscape.training.recipe import Recipe

from .checks import finite, int64

_SPECIAL = {"data.source": "--data", "loss.gamma": "--loss-gamma", "optimizer.gamma": "--stage-gamma"}
_TITLES = {
    "data": "Data",
    "model": "Model",
    "loss": "Loss and class weights",
    "optimizer": "Optimiser",
    "schedule": "Schedule",
    "run": "Run",
}


def _fields(sections: Iterable[str]) -> Iterable[tuple[str, str, Any]]:
    for section in sections:
        for name, field in Recipe.model_fields[section].annotation.model_fields.items():  # type: ignore[union-attr]
            yield section, name, field


def _flag(section: str, name: str) -> str:
    special = _SPECIAL.get(f"{section}.{name}")
    return special or ("--" + (section if name == "name" else name).replace("_", "-"))


def _choices(annotation: Any) -> list[str]:
    if typing.get_origin(annotation) is typing.Literal:
        return list(typing.get_args(annotation))
    return [value for inner in typing.get_args(annotation) for value in _choices(inner)]


def recipe_options(
    command: str, *sections: str, show_defaults: bool = True, leave_out: Collection[str] = ()
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Options for the fields of ``sections``; their values arrive as keyword arguments ``section__field``.

    Args:
        command: whose help page lists them under titles.
        sections: of the recipe.
        show_defaults: say the recipe's defaults in the help; not where something else stands in for what is not given.
        leave_out: fields ``section.name`` that mean nothing to this command.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        groups: dict[str, list[str]] = {}
        for section, name, field in reversed(list(_fields(sections))):
            if f"{section}.{name}" in leave_out:
                continue
            flag = _flag(section, name)
            groups.setdefault(_TITLES[section], []).insert(0, flag)
            text = field.description or ""
            if show_defaults and field.default is not None and field.annotation is not bool:
                text += f" [default: {field.default}]"
            choices = _choices(field.annotation)
            kind: dict[str, Any]
            if field.annotation is bool:
                kind = {"is_flag": True, "default": None}
            elif choices:
                kind = {"type": click.Choice(choices)}
            else:
                plain = next(iter({int, float} & {field.annotation, *typing.get_args(field.annotation)}), str)
                kind = {"type": plain, "metavar": "TEXT" if plain is str else "NUMBER"}
                if plain is not str:
                    kind["callback"] = finite if plain is float else int64
            function = click.option(flag, f"{section}__{name}", help=text.strip(), **kind)(function)
        titled: list[Any] = [{"name": title, "options": flags} for title, flags in reversed(groups.items())]
        click.rich_click.OPTION_GROUPS.setdefault(f"* {command}", []).extend(titled)
        return function

    return decorate


def given_values(arguments: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The fields that were said on the command line, nested as in a recipe."""
    values: dict[str, dict[str, Any]] = {}
    for key, value in arguments.items():
        section, separator, name = key.partition("__")
        if separator and value is not None:
            values.setdefault(section, {})[name] = value
    return values

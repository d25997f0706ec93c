"""The recipe as command-line options: one a field, generated, so that flags and TOML cannot drift apart."""

from __future__ import annotations

import typing
from collections.abc import Callable, Collection, Iterable
from typing import Any

import rich_click as click

from landscape.errors import LandscapeError
from landscape.optim import RadiusSetting, plain_radius
from landscape.training.recipe import Recipe

from .checks import finite, int64

_SPECIAL = {"data.source": "--data", "loss.gamma": "--loss-gamma", "optimizer.gamma": "--stage-gamma"}
# Sections whose settings belong to one method, whose name stands before them.
_PREFIXES = {"regularizer": "htr"}
_TITLES = {
    "data": "Data",
    "model": "Model",
    "loss": "Loss and class weights",
    "optimizer": "Optimiser",
    "regularizer": "Trace penalty",
    "schedule": "Schedule",
    "run": "Run",
}


def _fields(sections: Iterable[str]) -> Iterable[tuple[str, str, Any]]:
    for section in sections:
        for name, field in Recipe.model_fields[section].annotation.model_fields.items():  # type: ignore[union-attr]
            yield section, name, field


def _flag(section: str, name: str) -> str:
    special = _SPECIAL.get(f"{section}.{name}")
    if name == "name":
        return f"--{section}"
    prefix = f"{_PREFIXES[section]}-" if section in _PREFIXES else ""
    return special or f"--{prefix}{name.replace('_', '-')}"


def _choices(annotation: Any) -> list[str]:
    if typing.get_origin(annotation) is typing.Literal:
        return list(typing.get_args(annotation))
    return [value for inner in typing.get_args(annotation) for value in _choices(inner)]


def _leaves(annotation: Any) -> set[Any]:
    """The types in a union, without what else an annotation says."""
    if typing.get_origin(annotation) is typing.Annotated:
        return _leaves(typing.get_args(annotation)[0])
    parts = typing.get_args(annotation)
    return set().union(*map(_leaves, parts)) if parts else {annotation}


def _radius(context: click.Context, parameter: click.Parameter, value: str | None) -> RadiusSetting | None:
    try:
        return None if value is None else plain_radius(parameter.opts[0], value)
    except LandscapeError as error:
        raise click.BadParameter(str(error), context, parameter) from None


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
            elif {float, str} <= _leaves(field.annotation):
                kind = {"callback": _radius, "metavar": "NUMBER|SCHEDULE"}
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

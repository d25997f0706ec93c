"""What an option takes beyond its type, refused with the name of its flag."""

from __future__ import annotations

import math

import rich_click as click


def finite(context: click.Context, parameter: click.Parameter, value: float | None) -> float | None:
    """Not ``nan`` and not ``inf``, which compare as in range or pass as very large."""
    if value is not None and not math.isfinite(value):
        raise click.BadParameter(f"{value} is not a finite number", context, parameter)
    return value


def int64(context: click.Context, parameter: click.Parameter, value: int | None) -> int | None:
    """What a generator takes as a seed, and a results file as an integer."""
    if value is not None and not -(2**63) <= value < 2**63:
        raise click.BadParameter(f"{value} does not fit 64 bits; give less than 2^63", context, parameter)
    return value


def seed_list(context: click.Context, parameter: click.Parameter, text: str | None) -> tuple[int, ...]:
    """``0,1,2`` as numbers."""
    if text is None:
        return ()
    words = text.split(",")
    if not all(word.strip().isdecimal() for word in words):
        raise click.BadParameter(f"'{text}': write whole numbers with commas, as in 0,1,2", context, parameter)
    seeds = tuple(map(int, words))
    for seed in seeds:
        int64(context, parameter, seed)
    if len(set(seeds)) < len(seeds):
        raise click.BadParameter(f"'{text}' names a seed twice", context, parameter)
    return seeds

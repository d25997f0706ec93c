"""The `landscape` command in this process: what it prints, and how it exits."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from landscape_cli.main import main
from landscape_cli.progress import console


@dataclass(frozen=True)
class Outcome:
    """How a call ended."""

    code: int
    out: str
    err: str


Call = Callable[..., Outcome]


def make_call(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Call:
    """``call("train", "-o", path)`` runs the command as the shell does; anything but an exit is a traceback."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(console, "width", 200)  # it took its own from the environment when it was imported

    def call(*words: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["landscape", *map(str, words)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main()
        printed = capfd.readouterr()
        assert "Traceback" not in printed.out + printed.err
        code = stopped.value.code
        assert isinstance(code, int)
        return Outcome(code, printed.out, printed.err)

    return call

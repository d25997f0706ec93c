"""What every test may ask for."""

from __future__ import annotations

import pytest
from support.command import Call, make_call


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Call:
    """The `landscape` command in this process."""
    return make_call(monkeypatch, capfd)

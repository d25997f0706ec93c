"""One writer a file: who comes second is told, and a killed one blocks nobody."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from landscape.errors import LandscapeError
from landscape.lock import writing

HOLDER = """
import sys, time
from landscape.lock import writing
with writing(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


def test_the_second_writer_is_refused_until_the_first_has_ended(tmp_path: Path) -> None:
    path = tmp_path / "new" / "x.h5"
    with writing(path):
        assert (tmp_path / "new" / "x.h5.lock").read_text() == str(os.getpid())
        refusal = rf"another run writes .*x\.h5' \(process {os.getpid()}\): wait"
        with pytest.raises(LandscapeError, match=refusal), writing(path):
            pytest.fail("two at once")
        assert (tmp_path / "new" / "x.h5.lock").exists(), "who was refused must not release it"
        with writing(tmp_path / "new" / "y.h5"):
            pass
    with writing(path):
        pass
    assert list(path.parent.iterdir()) == []


def test_an_error_in_the_body_gives_the_lock_up(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), writing(tmp_path / "x.h5"):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_a_link_and_its_target_are_one_file(tmp_path: Path) -> None:
    (tmp_path / "link.h5").symlink_to(tmp_path / "x.h5")
    with (
        writing(tmp_path / "x.h5"),
        pytest.raises(LandscapeError, match="another run writes"),
        writing(tmp_path / "link.h5"),
    ):
        pytest.fail("two at once")


def test_a_folder_is_locked_from_within(tmp_path: Path) -> None:
    with writing(tmp_path):
        assert [entry.name for entry in tmp_path.iterdir()] == [".lock"]
        with pytest.raises(LandscapeError, match="another run writes"), writing(tmp_path):
            pytest.fail("two at once")
    assert list(tmp_path.iterdir()) == []


def test_the_lock_of_a_killed_process_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "held\n"
            with pytest.raises(LandscapeError, match=rf"\(process {holder.pid}\)"), writing(path):
                pytest.fail("two at once")
        finally:
            holder.kill()
    assert (tmp_path / "x.h5.lock").exists(), "a killed process leaves its lock file"
    with writing(path):
        assert (tmp_path / "x.h5.lock").read_text() == str(os.getpid())
    assert list(tmp_path.iterdir()) == []


def test_a_place_without_a_folder_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LandscapeError, match=r"cannot write .*x\.h5"), writing(tmp_path / "file" / "x.h5"):
        pytest.fail("no folder")

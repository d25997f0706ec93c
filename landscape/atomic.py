"""Replacing a file so that whoever looks, at any time, finds the old one or the new one and never a half."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from landscape.errors import LandscapeError


@contextmanager
def atomic_replacement(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; what the body writes there becomes ``path`` when the body succeeds.

    The temporary file is flushed to disk before it is renamed, and the rename is atomic (POSIX ``rename``), so a
    process killed at any point leaves the previous file as it was. The temporary name carries the process, so that
    two writers never share it; what a killed process left behind is removed by the next one.

    Args:
        path: the file to create or replace; missing folders above it are created, a symbolic link is followed.

    Raises:
        LandscapeError: the file system refuses (no permission, no space).
    """
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(target)
        try:
            yield temporary
            _flush_to_disk(temporary)
            os.replace(temporary, target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _flush_to_disk(target.parent)
    except OSError as error:
        raise LandscapeError(f"cannot write '{path}': {error.strerror or error}") from error


def _remove_leftovers(target: Path) -> None:
    """Temporary files of ``target`` whose process has ended."""
    prefix, suffix = f".{target.name}.", ".partial"
    for path in target.parent.iterdir():
        owner = path.name.removeprefix(prefix).removesuffix(suffix)
        if path.name == f"{prefix}{owner}{suffix}" and owner.isdecimal() and not _runs(int(owner)):
            path.unlink(missing_ok=True)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # somebody else's
    return True


def _flush_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

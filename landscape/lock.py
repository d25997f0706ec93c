"""One process at a time writes a file or a folder."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from landscape.errors import LandscapeError


@contextmanager
def writing(path: str | os.PathLike[str], *, instead: str = "give another -o") -> Iterator[None]:
    """Hold ``PATH.lock`` beside a file, or ``.lock`` in a folder, while the body runs; it names the process.

    What does not exist yet is taken for a file.

    The lock belongs to the open file (POSIX ``flock``), so the system gives it up with the process however that ends:
    a lock file that a killed process left behind is taken over.

    Args:
        path: what is written.
        instead: what can be done, besides waiting, while another process writes it.

    Raises:
        LandscapeError: another process holds it, or the folder cannot be written.
    """
    target = Path(os.path.realpath(path))
    lock = target / ".lock" if target.is_dir() else target.with_name(target.name + ".lock")
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        descriptor = _locked(lock)
    except BlockingIOError:
        raise LandscapeError(
            f"another run writes '{path}' (process {_owner(lock)}): wait for it, or {instead}"
        ) from None
    except OSError as error:
        raise LandscapeError(f"cannot write '{path}': {error.strerror or error}") from error
    try:
        os.ftruncate(descriptor, 0)
        os.write(descriptor, str(os.getpid()).encode())
        try:
            yield
        finally:
            # While the lock is held, so that nobody else's is removed.
            lock.unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def _locked(lock: Path) -> int:
    """Descriptor of the lock file, locked. Raises ``BlockingIOError`` where another process holds it."""
    while True:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Between opening and locking, the previous holder may have removed the file: then this lock guards nothing.
            if os.fstat(descriptor).st_nlink:
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _owner(lock: Path) -> str:
    try:
        return lock.read_text().strip() or "unknown"
    except OSError:
        return "unknown"

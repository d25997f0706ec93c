"""A run's history as TensorBoard scalars."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from landscape.errors import LandscapeError

if TYPE_CHECKING:
    from landscape.training.loop import EpochRecord

FOLDER = "tensorboard"


def scalars(record: EpochRecord) -> dict[str, float]:
    """What is drawn of one epoch: loss, rates and penalty of the training, accuracies in [0, 1] on the test split.

    An accuracy without samples (an empty group) is left out.
    """
    values = {"train/loss": record.train_loss, "train/lr": record.lr}
    values |= {f"train/{name}": radius for name, radius in record.radii.items()}
    penalties = {"penalty": record.penalty, "trace": record.trace}
    values |= {f"train/{name}": value for name, value in penalties.items() if value is not None}
    accuracies = {"all": record.accuracy, **record.groups}
    return values | {f"accuracy/{name}": share for name, share in accuracies.items() if not math.isnan(share)}


class TensorBoardLog:
    """Event files in ``tensorboard/`` of a run's folder; the step of a scalar is the number of epochs completed.

    Opening the log writes the history so far anew, so that the curves of a resumed run have neither gaps nor doubles,
    and a log switched on late is complete.

    Args:
        folder: of the run.
        history: the epochs completed.

    Raises:
        LandscapeError: the package ``tensorboard`` is not installed, or the file system refuses.
    """

    def __init__(self, folder: Path, history: Iterable[EpochRecord]) -> None:
        self._place = folder / FOLDER
        writer_class = import_summary_writer()
        with self._named_faults():
            clear(folder)
            self._writer = writer_class(str(self._place))
        for record in history:
            self.epoch(record)

    def epoch(self, record: EpochRecord) -> None:
        """Add one epoch; it is on disk when this returns.

        Raises:
            LandscapeError: the file system refuses (no space).
        """
        with self._named_faults():
            for tag, value in scalars(record).items():
                self._writer.add_scalar(tag, value, record.epoch)
            self._writer.flush()

    def close(self) -> None:
        # Every epoch was flushed; a writer that has failed complains once more, in place of what went wrong.
        with suppress(OSError):
            self._writer.close()

    @contextmanager
    def _named_faults(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise LandscapeError(f"cannot write '{self._place}': {error.strerror or error}") from error


def clear(folder: Path) -> None:
    """Remove the event files of a run."""
    for events in (folder / FOLDER).glob("events.out.tfevents.*"):
        events.unlink()


def import_summary_writer() -> Any:
    """PyTorch's ``SummaryWriter``, which needs the package ``tensorboard``.

    Raises:
        LandscapeError: it is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise LandscapeError(
            "--log tensorboard needs the package tensorboard. Where landscape was installed from: "
            'pip install -c constraints.txt -e ".[tensorboard]"'
        ) from None
    return SummaryWriter

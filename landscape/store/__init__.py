"""Results on disk: the HDF5 schema, written part by part, resumed and read back (no torch)."""

from landscape.store.hdf5 import MetaValue, check_replaceable, schema_of
from landscape.store.spectrum_file import (
    PartSummary,
    RunValue,
    SpectrumFile,
    check_output,
    describe,
    epoch_prefix,
    split_epoch,
)

__all__ = [
    "MetaValue",
    "PartSummary",
    "RunValue",
    "SpectrumFile",
    "check_output",
    "check_replaceable",
    "describe",
    "epoch_prefix",
    "schema_of",
    "split_epoch",
]

"""Results on disk: the HDF5 schema, written part by part, resumed and read back (no torch)."""

from landscape.store.spectrum_file import (
    MetaValue,
    PartSummary,
    RunValue,
    SpectrumFile,
    check_output,
    describe,
    epoch_prefix,
    holds_spectra,
    split_epoch,
)

__all__ = [
    "MetaValue",
    "PartSummary",
    "RunValue",
    "SpectrumFile",
    "check_output",
    "describe",
    "epoch_prefix",
    "holds_spectra",
    "split_epoch",
]

"""Results on disk: the HDF5 schema, written part by part, resumed and read back (no torch)."""

from landscape.store.spectrum_file import MetaValue, SpectrumFile, describe, epoch_prefix, split_epoch

__all__ = ["MetaValue", "SpectrumFile", "describe", "epoch_prefix", "split_epoch"]

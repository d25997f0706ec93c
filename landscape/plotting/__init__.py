"""Figures from results: one function a figure kind, stored records in, a drawing out (no torch, no pyplot state)."""

from landscape.plotting.classes import class_bars
from landscape.plotting.density import DensityCurve, density_curve, density_grid
from landscape.plotting.style import Drawing, save_drawing, save_figure, style

__all__ = [
    "DensityCurve",
    "Drawing",
    "class_bars",
    "density_curve",
    "density_grid",
    "save_drawing",
    "save_figure",
    "style",
]

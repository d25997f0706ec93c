"""Figures from results: one function a figure kind, stored records in, a drawing out (no torch, no pyplot state)."""

from landscape.plotting.anomaly import detection_panels
from landscape.plotting.classes import class_bars
from landscape.plotting.cumulative import density_cumulative
from landscape.plotting.density import DensityCurve, density_curve, density_grid
from landscape.plotting.drawing import (
    Drawing,
    check_drawing_paths,
    compose,
    read_drawing,
    save_drawing,
    save_figure,
    write_drawing,
)
from landscape.plotting.features import nearest_class_matrix, tsne_map
from landscape.plotting.layers import layer_densities, layer_distance, layer_training
from landscape.plotting.overlay import density_overlay
from landscape.plotting.style import Look, style

__all__ = [
    "DensityCurve",
    "Drawing",
    "Look",
    "check_drawing_paths",
    "class_bars",
    "compose",
    "density_cumulative",
    "density_curve",
    "density_grid",
    "density_overlay",
    "detection_panels",
    "layer_densities",
    "layer_distance",
    "layer_training",
    "nearest_class_matrix",
    "read_drawing",
    "save_drawing",
    "save_figure",
    "style",
    "tsne_map",
    "write_drawing",
]

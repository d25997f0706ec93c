"""Figures from results: one function a figure kind, stored records in, a drawing out (no torch, no pyplot state)."""

from landscape.plotting.accuracy import accuracy_bars, class_sizes
from landscape.plotting.anomaly import detection_panels
from landscape.plotting.classes import class_bars
from landscape.plotting.cumulative import density_cumulative
from landscape.plotting.curves import history_curves, sweep_curves, training_curves
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
from landscape.plotting.escape import escape_lines
from landscape.plotting.features import nearest_class_matrix, tsne_map
from landscape.plotting.heat_map import class_layer_map
from landscape.plotting.layers import layer_densities, layer_distance, layer_training
from landscape.plotting.overlay import density_overlay
from landscape.plotting.regions import PlaneClassifier, decision_regions
from landscape.plotting.scatter import saddle_scatter
from landscape.plotting.setting import setting_curves
from landscape.plotting.stages import stage_bars
from landscape.plotting.style import Look, style
from landscape.plotting.surface import surface_contours, surface_lines, surface_relief
from landscape.plotting.table import result_table, table_text

__all__ = [
    "DensityCurve",
    "Drawing",
    "Look",
    "PlaneClassifier",
    "accuracy_bars",
    "check_drawing_paths",
    "class_bars",
    "class_layer_map",
    "class_sizes",
    "compose",
    "decision_regions",
    "density_cumulative",
    "density_curve",
    "density_grid",
    "density_overlay",
    "detection_panels",
    "escape_lines",
    "history_curves",
    "layer_densities",
    "layer_distance",
    "layer_training",
    "nearest_class_matrix",
    "read_drawing",
    "result_table",
    "saddle_scatter",
    "save_drawing",
    "save_figure",
    "setting_curves",
    "stage_bars",
    "style",
    "surface_contours",
    "surface_lines",
    "surface_relief",
    "sweep_curves",
    "table_text",
    "training_curves",
    "tsne_map",
    "write_drawing",
]

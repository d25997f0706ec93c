"""What `landscape plot --kind` can draw: of which files, with which options, by which function of the library."""

from __future__ import annotations

import fnmatch
import tomllib
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from landscape.anomaly.results import GridResults
from landscape.curvature.results import PartSpectrum
from landscape.errors import LandscapeError
from landscape.plotting.accuracy import accuracy_bars, class_sizes
from landscape.plotting.anomaly import detection_panels
from landscape.plotting.classes import class_bars
from landscape.plotting.cumulative import density_cumulative
from landscape.plotting.curves import HISTORY_QUANTITIES, Curve, history_curves, sweep_curves, training_curves
from landscape.plotting.density import density_grid
from landscape.plotting.drawing import Drawing
from landscape.plotting.escape import escape_lines
from landscape.plotting.features import nearest_class_matrix, tsne_map
from landscape.plotting.heat_map import class_layer_map
from landscape.plotting.layers import Epochs, layer_densities, layer_distance, layer_training
from landscape.plotting.overlay import density_overlay
from landscape.plotting.quantities import QUANTITIES
from landscape.plotting.scatter import saddle_scatter
from landscape.plotting.surface import surface_contours, surface_lines, surface_relief
from landscape.store import SpectrumFile, schema_of, split_epoch
from landscape.store.calibration_file import CALIBRATION_SCHEMA, CalibrationFile
from landscape.store.features_file import FEATURES_SCHEMA
from landscape.store.spectrum_file import SCHEMA as SPECTRUM_SCHEMA
from landscape.store.surface_file import SURFACE_SCHEMA, SurfaceFile, is_goldstein, read_goldstein
from landscape.surface.results import Surface
from landscape.switches import switches

from .tables import batches_of

if TYPE_CHECKING:
    from landscape.training.finished import FinishedRun

Source = Literal["spectra", "sweeps and runs", "runs", "surface", "calibration", "anomaly"]

_OF: dict[Source, str] = {
    "spectra": "files of `landscape spectrum`",
    "sweeps and runs": "folders of `landscape train`, and sweeps of `landscape spectrum RUN/epoch-*.safetensors`",
    "runs": "folders of `landscape train`",
    "surface": "files of `landscape surface`, and those with Goldstein's keys",
    "calibration": "a file of `landscape calibrate`",
    "anomaly": "a results.json of `landscape anomaly`",
}


@dataclass(frozen=True)
class Request:
    """What the user asks to see; ``None`` where nothing was said."""

    files: tuple[Path, ...]
    names: list[str] | None = None
    parts: str | None = None
    epoch: int | None = None
    quantities: list[str] | None = None
    by: Literal["method", "class"] | None = None

    @property
    def named(self) -> dict[str, Path]:
        """File by the name it has in a legend.

        Raises:
            LandscapeError: another number of names than files, or one twice.
        """
        labels = self.names or [_stem(file) for file in self.files]
        if len(labels) != len(self.files) or len(set(labels)) != len(labels):
            raise LandscapeError(
                f"{len(self.files)} files need {len(self.files)} different names, got {', '.join(labels)}; use --names"
            )
        return dict(zip(labels, self.files, strict=True))

    def takes(self, part: str) -> bool:
        """Whether ``--parts`` lets this one through."""
        return self.parts is None or matches(part, self.parts)


@dataclass(frozen=True)
class Kind:
    """One kind of figure."""

    source: Source
    text: str  # of the help
    draw: Callable[[Request], Drawing]
    several: bool = False  # whether it shows more than one file
    options: tuple[str, ...] = ()  # fields of the request that it looks at


def matches(part: str, glob: str) -> bool:
    """Whether the path of a part matches level by level: ``class/*`` takes ``class/3``, not ``class/3/layer/fc``."""
    names, patterns = part.split("/"), glob.split("/")
    return len(names) == len(patterns) and all(map(fnmatch.fnmatchcase, names, patterns))


def default_kind(files: Sequence[Path]) -> str:
    """What is drawn when nobody says what: the kind that shows all there is in such files."""
    first, several = files[0], len(files) > 1
    if first.is_dir():
        return "training"
    if first.suffix == ".json":
        return "anomaly"
    schema = schema_of(first)
    if schema == SURFACE_SCHEMA or (schema is None and is_goldstein(first)):
        return "surface-line" if _surface(first).y is None else "surface"
    if schema == CALIBRATION_SCHEMA:
        return "nearest-class"
    return "classes" if several else "density"


def draw(request: Request, kind: str | None = None) -> Drawing:
    """The figure; of a sweep one epoch is drawn, the last by default, unless the kind shows epochs.

    Raises:
        LandscapeError: nothing to draw, an option that the kind has no use for, or more files than it can show.
    """
    kind = kind or default_kind(request.files)
    known = KINDS[kind]
    if len(request.files) > 1 and not known.several:
        able = [name for name, other in KINDS.items() if other.several and other.source == known.source]
        several = f": several are compared by --kind {', --kind '.join(able)}" if able else ""
        raise LandscapeError(f"--kind {kind} draws one file; give one{several}")
    for field in fields(request):
        is_said = getattr(request, field.name) is not None
        if is_said and field.name not in ("files", *known.options, *(["names"] if known.several else [])):
            users = [f"--kind {name}" for name, other in KINDS.items() if field.name in other.options]
            raise LandscapeError(
                f"--kind {kind} has no use for --{field.name}: that is for {', '.join(users) or 'several files'}"
            )
    for file in request.files:
        _check_source(file, kind)
    return known.draw(request)


def _check_source(file: Path, kind: str) -> None:
    """Point at the kinds that do draw such a file. What is damaged or missing is told by who reads it."""
    source = KINDS[kind].source
    schema = schema_of(file)
    found: Source | None = None
    if file.is_dir():
        found = "runs"
    elif schema is not None:
        schemas: dict[str, Source] = {
            SPECTRUM_SCHEMA: "spectra", SURFACE_SCHEMA: "surface", CALIBRATION_SCHEMA: "calibration"
        }  # fmt: skip
        found = schemas.get(schema)
        if found is None:
            next_step = (
                f"`landscape calibrate {file}` makes of it what --kind tsne and nearest-class draw"
                if schema == FEATURES_SCHEMA
                else f"`landscape info {file}` says what it is"
            )
            raise LandscapeError(f"no kind draws '{file}', of schema '{schema}': {next_step}")
    if found is None or found == source or (source == "sweeps and runs" and found in ("spectra", "runs")):
        return
    also = "sweeps and runs" if found in ("spectra", "runs") else found
    able = [name for name, other in KINDS.items() if other.source in (found, also)]
    raise LandscapeError(
        f"--kind {kind} draws {_OF[source]}, and '{file}' is none: draw it with --kind {', '.join(able)}"
    )


def _stem(file: Path) -> str:
    return file.resolve().name if file.is_dir() else file.stem


# ---------------------------------------------------------------------- spectra


def _spectra(file: Path, request: Request) -> list[PartSpectrum]:
    opened = SpectrumFile.open(file)
    spectra = opened.read_epoch(request.epoch)
    if not spectra and batches_of(opened, request.epoch):
        raise LandscapeError(
            f"{file} holds mini-batches only, which have no density to draw: `landscape saddle {file}` prints them, "
            f"`landscape spectrum CHECKPOINT --per-class -o {file}` adds classes"
        )
    chosen = [spectrum for spectrum in spectra if request.takes(spectrum.part)]
    if not chosen:
        held = ", ".join(spectrum.part for spectrum in spectra[:8]) or "none yet"
        asked = f" that matches {request.parts!r}" if request.parts else ""
        raise LandscapeError(f"{file} has no complete part{asked}; it holds: {held}")
    return chosen


def _methods(request: Request) -> dict[str, list[PartSpectrum]]:
    return {name: _spectra(file, request) for name, file in request.named.items()}


def _groups(request: Request, methods: Mapping[str, Sequence[PartSpectrum]]) -> dict[str, list[str]]:
    """Group → the parts of its classes that are drawn."""
    drawn = {spectrum.part for spectra in methods.values() for spectrum in spectra}
    groups: dict[str, list[str]] = {}
    for file in request.files:
        for number, group in enumerate(SpectrumFile.open(file).meta.get("class_groups", [])):
            part, members = f"class/{number}", groups.setdefault(group, [])
            if part in drawn and part not in members:
                members.append(part)
    return {group: members for group, members in groups.items() if members}


def _one(request: Request) -> list[PartSpectrum]:
    return _spectra(request.files[0], request)


def _classes(request: Request) -> Drawing:
    methods = _methods(request)
    chosen = methods if len(methods) > 1 else next(iter(methods.values()))
    sizes = {name: _class_sizes_of(file) for name, file in request.named.items()}
    return class_bars(
        chosen,
        groups=_groups(request, methods),
        quantities=request.quantities or None,
        class_sizes=sizes if len(sizes) > 1 else next(iter(sizes.values())),
    )


def _class_sizes_of(file: Path) -> dict[str, int]:
    counts = SpectrumFile.open(file).meta.get("class_counts", [])
    return {f"class/{number}": int(count) for number, count in enumerate(counts)}


def _scatter(request: Request) -> Drawing:
    methods = _methods(request)
    x, y = _given(request, 2, ["negative_fraction", "accuracy"], "saddle-scatter")
    return saddle_scatter(methods, x=x, y=y, by=request.by or "method", groups=_groups(request, methods))


def _heat_map(request: Request) -> Drawing:
    (quantity,) = _given(request, 1, ["lambda_min"], "heat-map")
    return class_layer_map(_one(request), quantity)


def _given(request: Request, count: int, default: list[str], kind: str) -> list[str]:
    chosen = request.quantities or default
    if len(chosen) != count:
        raise LandscapeError(
            f"--kind {kind} shows {count} quantit{'y' if count == 1 else 'ies'}, got {', '.join(chosen)}: as in "
            f"--quantities {','.join(default)}"
        )
    return chosen


# ---------------------------------------------------------------------- layers and trainings


def _epochs(file: SpectrumFile, request: Request) -> Epochs:
    """The whole network, which is always kept, and its layers at the epochs of a sweep."""
    epochs: dict[int | None, list[PartSpectrum]] = {}
    for spectrum in file.read_all(request.epoch):
        at, part = split_epoch(spectrum.part)
        if part == "all" or (part.startswith("layer/") and request.takes(part)):
            epochs.setdefault(at, []).append(replace(spectrum, part=part))
    return epochs


def _of_layers(function: Callable[..., Drawing]) -> Callable[[Request], Drawing]:
    return lambda request: function(_epochs(SpectrumFile.open(request.files[0]), request))


def _layer_training(request: Request) -> Drawing:
    file = SpectrumFile.open(request.files[0])
    return layer_training(_epochs(file, request), switches=_switches_of_sweep(file))


def _switches_of_sweep(file: SpectrumFile) -> dict[str, int]:
    recipe = file.meta.get("recipe")
    return switches(tomllib.loads(str(recipe))) if recipe else {}


def _training(request: Request) -> Drawing:
    """Curves of runs and of sweeps; a quantity that a file does not have is left to the others."""
    curves: list[Curve] = []
    found: dict[str, dict[str, int]] = {}
    wanted = request.quantities
    known = {*QUANTITIES, *HISTORY_QUANTITIES}
    for name in wanted or []:
        if name not in known:
            raise LandscapeError(f"no quantity '{name}': runs have {', '.join(HISTORY_QUANTITIES)}; sweeps have "
                                 f"{', '.join(QUANTITIES)}")  # fmt: skip
    for name, path in request.named.items():
        if path.is_dir():
            runs = _runs(path)
            quantities = [q for q in wanted or ["test_accuracy", "train_loss"] if q in HISTORY_QUANTITIES]
            parts = ["all", "group/head", "group/mid", "group/tail"]
            names = runs[0].info.class_names
            if request.parts is not None:
                parts += [f"class/{number}" for number in range(len(names))]
                parts = [part for part in parts if request.takes(part)]
            histories = {name: [run.history for run in runs]}
            curves += history_curves(histories, quantities, parts, class_names=names)
            found[name] = switches(runs[0].info.recipe)
            continue
        file = SpectrumFile.open(path)
        quantities = [q for q in wanted or ["lambda_min", "lambda_max", "curvature_ratio"] if q in QUANTITIES]
        sweep: dict[int, list[PartSpectrum]] = {}
        for spectrum in file.read_all():
            at, part = split_epoch(spectrum.part)
            if at is not None and (request.takes(part) if request.parts else "layer/" not in part):
                sweep.setdefault(at, []).append(replace(spectrum, part=part))
        curves += sweep_curves({name: sweep}, quantities, list({s.part: 0 for held in sweep.values() for s in held}))
        found[name] = _switches_of_sweep(file)
    return training_curves(curves, _marks(found))


def _marks(found: Mapping[str, Mapping[str, int]]) -> dict[str, int]:
    """What is switched on → when; with the method's name where methods switch at different epochs."""
    marks: dict[str, int] = {}
    for switch in dict.fromkeys(switch for of_it in found.values() for switch in of_it):
        epochs = {method: of_it[switch] for method, of_it in found.items() if switch in of_it}
        if len(set(epochs.values())) == 1:
            marks[switch] = next(iter(epochs.values()))
        else:
            marks |= {f"{switch} of {method}": epoch for method, epoch in epochs.items()}
    return marks


# ---------------------------------------------------------------------- runs


def _runs(folder: Path) -> list[FinishedRun]:
    # Here, since it loads PyTorch, which no figure of a results file needs.
    from landscape.training.finished import finished_runs

    return finished_runs(folder)


def _accuracy(request: Request) -> Drawing:
    methods = {name: _runs(folder) for name, folder in request.named.items()}
    every = [run for runs in methods.values() for run in runs]
    first = every[0].info
    for run in every:
        if run.info.class_names != first.class_names:
            raise LandscapeError(
                f"the runs in '{every[0].folder}' and '{run.folder}' have other classes: draw each alone"
            )
        epochs = run.info.recipe["schedule"]["epochs"]
        if len(run.history) < epochs:
            warnings.warn(f"{run.folder} has finished {len(run.history)} of its {epochs} epochs", stacklevel=2)
    return accuracy_bars(
        {name: [run.accuracies for run in runs] for name, runs in methods.items()},
        first.class_names,
        every[0].groups,
        first.class_counts if all(run.info.class_counts == first.class_counts for run in every) else None,
    )


def _class_sizes(request: Request) -> Drawing:
    run = _runs(request.files[0])[0]
    return class_sizes(run.info.class_counts, run.info.class_names, run.groups)


# ---------------------------------------------------------------------- surfaces


def _surface(path: Path) -> Surface:
    return read_goldstein(path) if is_goldstein(path) else SurfaceFile.open(path).surface


def _of_surfaces(function: Callable[..., Drawing]) -> Callable[[Request], Drawing]:
    def drawn(request: Request) -> Drawing:
        surfaces = {name: _surface(file) for name, file in request.named.items()}
        chosen: list[str] | None = None
        if request.parts is not None:
            first = next(iter(surfaces.values()))
            chosen = [part for part in first.parts if request.takes(part)]
            if not chosen:
                raise LandscapeError(f"no part matches {request.parts!r}; there are: {', '.join(first.parts)}")
        return function(surfaces if len(surfaces) > 1 else next(iter(surfaces.values())), chosen)

    return drawn


KINDS: dict[str, Kind] = {
    "density": Kind(
        "spectra", "one panel a part: eigenvalues per decade against λ, outliers, λ_min, M₋ and ν",
        lambda request: density_grid(_one(request)), options=("parts", "epoch"),
    ),
    "density-overlay": Kind(
        "spectra", "one panel a part, one density a file: methods compared",
        lambda request: density_overlay(_methods(request)), several=True, options=("parts", "epoch"),
    ),
    "density-cumulative": Kind(
        "spectra", "how many eigenvalues lie below and above λ, enclosed: nothing is smoothed",
        lambda request: density_cumulative(_one(request)), options=("parts", "epoch"),
    ),
    "classes": Kind(
        "spectra", "λ_max, |λ_min|, negative mass and share, gradient, trace, accuracy and size class by class",
        _classes, several=True, options=("parts", "epoch", "quantities"),
    ),
    "escape": Kind(
        "spectra", "the loss along ±v_min as measured, and as λ_min and the gradient predict it",
        lambda request: escape_lines(_one(request)), options=("parts", "epoch"),
    ),
    "saddle-scatter": Kind(
        "spectra", "ν against accuracy: the tail of every file, or with --by class every class",
        _scatter, several=True, options=("parts", "epoch", "quantities", "by"),
    ),
    "heat-map": Kind(
        "spectra", "class × layer: one quantity of every block, of `landscape spectrum --per-class --per-layer`",
        _heat_map, options=("parts", "epoch", "quantities"),
    ),
    "layer-densities": Kind(
        "spectra", "one panel a layer: its density over that of the whole network, each in units of its mean |λ|; of a "
        "sweep the first, the middle and the last epoch",
        _of_layers(layer_densities), options=("parts", "epoch"),
    ),
    "layer-distance": Kind(
        "spectra", "Wasserstein-1 distance of each layer's normalised spectrum to the whole one, by depth; a colour an "
        "epoch",
        _of_layers(layer_distance), options=("parts", "epoch"),
    ),
    "layer-training": Kind(
        "spectra", "λ_max and trace over the epochs of a sweep, the whole and every layer",
        _layer_training, options=("parts", "epoch"),
    ),
    "training": Kind(
        "sweeps and runs", "any quantity over the epochs, by part and method, with the switch of DRW and of SSE-SAM: "
        "accuracy and loss of runs, curvature of sweeps",
        _training, several=True, options=("parts", "quantities"),
    ),
    "accuracy": Kind(
        "runs", "test accuracy class by class, several methods side by side; a run of several seeds has error bars",
        _accuracy, several=True,
    ),
    "class-sizes": Kind("runs", "training images a class, and the groups", _class_sizes),
    "surface": Kind(
        "surface", "contours of the loss in a plane: a row a part, a column a file",
        _of_surfaces(surface_contours), several=True, options=("parts",),
    ),
    "surface-3d": Kind(
        "surface", "the same as reliefs, on one scale", _of_surfaces(surface_relief), several=True, options=("parts",)
    ),
    "surface-line": Kind(
        "surface", "loss and accuracy along a line", _of_surfaces(surface_lines), several=True, options=("parts",)
    ),
    "tsne": Kind(
        "calibration", "real and generated features in one t-SNE, computed once and kept in the file",
        lambda request: tsne_map(CalibrationFile.open(request.files[0])),
    ),
    "nearest-class": Kind(
        "calibration", "class of the training feature nearest to each point, generated or real",
        lambda request: nearest_class_matrix(CalibrationFile.open(request.files[0])),
    ),
    "anomaly": Kind(
        "anomaly", "AUC-PR data set by data set, and its difference to SGD",
        lambda request: detection_panels(GridResults.load(request.files[0])),
    ),
}  # fmt: skip


def kinds_help() -> str:
    """All kinds, by what they draw."""
    blocks = []
    for source, of in _OF.items():
        blocks.append(f"Of {of}:")
        blocks += [f"- **{name}**: {kind.text}" for name, kind in KINDS.items() if kind.source == source]
    return "\n\n".join(blocks)

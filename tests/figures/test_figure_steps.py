"""Steps of figures: what is in a key and what is not, that each is made once, and what a killed one leaves."""

from __future__ import annotations

import copy
import json
import shutil
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from landscape_figures import NAMES, load_figure
from landscape_figures import methods as figure_methods
from landscape_figures.h1 import by_depth
from landscape_figures.making import Work, compute, recipe_text
from landscape_figures.scales import PAPER, SMOKE, open_scale
from landscape_figures.steps import (
    Bench,
    Calibration,
    Features,
    Silent,
    Spectra,
    Step,
    ToyRegions,
    Training,
    Walk,
    class_word,
    in_order,
    representatives,
)
from support.runs import StopAfter, files_below, tiny_recipe, write_image_folder

from landscape.curvature import MeasureSettings, Part
from landscape.curvature.parts import resolve_classes
from landscape.errors import LandscapeError
from landscape.lock import writing
from landscape.store import SpectrumFile
from landscape.store.surface_file import SurfaceFile
from landscape.study import Budget, Quiet, StudyPlan
from landscape.study.surface import SurfacePlan
from landscape.training.recipe import Recipe
from landscape.twostage import ToySettings

# ---------------------------------------------------------------------- steps that take no time


@dataclass(frozen=True)
class Sum(Step):
    """A number plus the results of other steps, in a text file."""

    shelf: ClassVar[str] = "sums"
    suffix: ClassVar[str] = ".txt"
    made: ClassVar[list[str]] = []

    title: str
    number: int
    of: tuple[Step, ...] = ()

    @property
    def name(self) -> str:
        return self.title

    @property
    def does(self) -> str:
        return "add"

    @property
    def content(self) -> dict[str, Any]:
        return {"number": self.number}

    @property
    def inputs(self) -> tuple[Step, ...]:
        return self.of

    def make(self, path: Path, bench: Bench) -> None:
        self.made.append(self.title)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(str(self.number + sum(int(bench.of(step).read_text()) for step in self.of)))


@pytest.fixture
def made() -> Iterator[list[str]]:
    """Titles of the sums that were made, in order."""
    Sum.made.clear()
    yield Sum.made
    Sum.made.clear()


def _tree(leaf: int = 1) -> tuple[Step, Step, Step]:
    first, other = Sum("first", leaf), Sum("other", 10)
    return Sum("both", 100, (first, other)), Sum("one", 1000, (other,)), first


def _times(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in sorted(folder.rglob("*"))}


def test_every_step_is_made_once_inputs_first_and_a_second_time_nothing_is(tmp_path: Path, made: list[str]) -> None:
    work, steps = Work(tmp_path), _tree()[:2]
    places = compute(steps, work)
    assert made == ["first", "other", "both", "one"]
    assert [places[step.key].read_text() for step in steps] == ["111", "1010"]
    before = _times(tmp_path)
    assert compute(steps, work) == places
    assert made == ["first", "other", "both", "one"]
    assert _times(tmp_path) == before


def test_a_changed_setting_makes_what_depends_on_it_and_nothing_else(tmp_path: Path, made: list[str]) -> None:
    work = Work(tmp_path)
    compute(_tree()[:2], work)
    made.clear()
    places = compute(steps := _tree(leaf=2)[:2], work)
    assert made == ["first", "both"]
    assert places[steps[0].key].read_text() == "112"
    # What was there for the old setting still is, so changing back makes nothing.
    compute(_tree()[:2], work)
    assert made == ["first", "both"]


def test_a_step_is_found_by_its_key_under_whatever_name_it_was_made(tmp_path: Path, made: list[str]) -> None:
    work = Work(tmp_path)
    compute([Sum("mine", 5)], work)
    places = compute([theirs := Sum("theirs", 5)], work)
    assert made == ["mine"]
    assert places[theirs.key].name.startswith("mine-")


def test_a_step_that_was_stopped_has_no_result_and_is_gone_on_with(
    tmp_path: Path, made: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    work, step, paths = Work(tmp_path), Sum("slow", 5), []

    def stopped(self: Sum, path: Path, bench: Bench) -> None:
        paths.append(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Sum, "make", stopped)
        with pytest.raises(KeyboardInterrupt):
            compute([step], work)
    assert work.state(step) == "begun"
    assert not work.place(step).exists()
    assert paths == [work.begun(step)]
    compute([step], work)
    assert work.state(step) == "there"
    assert not work.begun(step).exists()


def test_a_step_that_another_process_makes_is_left_to_it(tmp_path: Path, made: list[str]) -> None:
    work, step = Work(tmp_path), Sum("theirs", 5)
    with (
        writing(work.place(step)),
        pytest.raises(LandscapeError, match=r"another run writes .*, or give another --work"),
    ):
        compute([step], work)
    assert made == []


def test_images_of_other_classes_under_the_same_name_are_not_taken_for_those_of_the_training(tmp_path: Path) -> None:
    """The key has the name of a folder without what lies above it, so that it may move."""
    work = Work(tmp_path / "work")
    steps = []
    for place, names in (("a", ("cat", "dog")), ("b", ("cat", "dog")), ("c", ("cat", "emu"))):
        write_image_folder(tmp_path / place / "images", dict.fromkeys(names, 3))
        data = {"source": f"folder:{tmp_path / place / 'images'}", "imbalance": "none"}
        steps.append(Training("MLP", tiny_recipe(data=data, schedule={"epochs": 1})))
    assert len({step.key for step in steps}) == 1
    here = compute(steps[:1], work)
    assert compute(steps[1:2], work) == here
    with pytest.raises(LandscapeError, match=r"other images of the name 'folder:images': .* no class 'dog'"):
        compute(steps[2:], work)
    shutil.rmtree(tmp_path / "c")  # images that are gone are not needed to draw
    assert compute(steps[2:], work) == here


def test_a_step_that_another_process_finished_meanwhile_is_taken(
    tmp_path: Path, made: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between looking and locking, somebody else may have made it."""
    work, step = Work(tmp_path), Sum("theirs", 5)
    looks: list[str] = []
    original = Work.state

    def state(self: Work, asked: Step) -> Any:
        found = original(self, asked)
        if not looks:
            work.place(step).parent.mkdir(parents=True)
            work.place(step).write_text("5")
        looks.append(found)
        return found

    monkeypatch.setattr(Work, "state", state)
    compute([step], work)
    assert looks == ["missing", "there"]
    assert made == []


# ---------------------------------------------------------------------- keys


def test_the_key_of_a_training_is_that_of_its_method_and_of_the_checkpoints_it_keeps() -> None:
    recipe = tiny_recipe(optimizer={"name": "sam", "rho": 0.1})
    key = Training("SAM", recipe).key
    elsewhere = tiny_recipe(optimizer={"name": "sam", "rho": 0.1}, run={"device": "cpu"}, data={"root": "/somewhere"})
    assert Training("another title", elsewhere).key == key
    others = [
        tiny_recipe(optimizer={"name": "sam", "rho": 0.2}),
        tiny_recipe(optimizer={"name": "sam", "rho": 0.1}, run={"seed": 1}),
        tiny_recipe(optimizer={"name": "sam", "rho": 0.1}, run={"save_every": 2}),
        tiny_recipe(optimizer={"name": "sam", "rho": 0.1}, data={"imbalance": "exp:5"}),
        tiny_recipe(optimizer={"name": "sam", "rho": 0.1}, schedule={"epochs": 5}),
    ]
    assert len({key, *(Training("SAM", other).key for other in others)}) == 1 + len(others)


def test_every_field_of_a_recipe_is_in_the_key_but_those_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Values are marked, not valid: what they would mean together is of no matter to the key."""
    monkeypatch.setattr(Recipe, "resolved", property(lambda self: self))
    recipe = tiny_recipe()
    key = Training("any", recipe).key
    kept = set()
    for section in Recipe.model_fields:
        old = getattr(recipe, section)
        for field in type(old).model_fields:
            marked = recipe.model_copy(update={section: old.model_copy(update={field: "marked"})})
            with warnings.catch_warnings(action="ignore"):
                kept |= {f"{section}.{field}"} if Training("any", marked).key == key else set()
    assert kept == {"data.root", "data.download", "data.workers", "run.device", "run.compile", "run.log"}


def _fields_without_effect(step: Any, plan: Any) -> set[str]:
    found = set()
    for field in fields(plan):
        marked = copy.copy(plan)
        object.__setattr__(marked, field.name, "marked")
        # A plan with a spectrum makes no step at all.
        if field.name != "spectrum" and replace(step, plan=marked).key == step.key:
            found.add(field.name)
    return found


def test_every_field_of_a_plan_is_in_the_key_but_those_of_the_machine() -> None:
    spectra = Spectra(Training("CE", tiny_recipe()), StudyPlan(), of=("tail",))
    assert _fields_without_effect(spectra, spectra.plan) == {"device", "chunk_size"}
    for field in fields(MeasureSettings):
        settings = copy.copy(spectra.plan.settings)
        object.__setattr__(settings, field.name, -1)
        assert replace(spectra, plan=replace(spectra.plan, settings=settings)).key != spectra.key
    walk = Walk(spectra.training, SurfacePlan())
    assert _fields_without_effect(walk, walk.plan) == {"device"}
    assert replace(walk, of="tail").key != walk.key
    second = Calibration(Features(spectra.training), "tailcalibx", (0,))
    others = [replace(second, method="crt"), replace(second, seeds=(1,)), replace(second, seeds=(0, 1))]
    elsewhere = replace(second, features=Features(Training("CE", tiny_recipe(run={"seed": 1}))))
    assert len({each.key for each in (second, elsewhere, *others)}) == 5


def test_every_setting_of_a_toy_is_in_its_key() -> None:
    step = ToyRegions(ToySettings())
    for field in fields(ToySettings):
        marked = copy.copy(step.settings)
        object.__setattr__(marked, field.name, "marked")
        assert ToyRegions(marked).key != step.key, field.name


def test_a_walk_with_eigenvectors_of_a_file_has_no_key() -> None:
    with pytest.raises(LandscapeError, match="searches its eigenvectors itself"):
        Walk(Training("CE", tiny_recipe()), SurfacePlan(along="eigen", spectrum=Path("x.h5")))


def test_a_class_is_told_by_its_number_unless_another_is_called_so() -> None:
    names = ["0", "1", "10", "2"]  # in the order of a folder
    assert [resolve_classes(class_word(label, names), names) for label in range(4)] == [[0], [1], [2], [3]]
    assert class_word(1, ["cat", "a, b"]) == "1"


def test_a_default_written_out_is_the_same_training() -> None:
    implied, written = (
        tiny_recipe(optimizer={"name": "imbsam", "rho": 0.1, "kappa": 1.0, **eta}) for eta in ({}, {"eta": 100.0})
    )
    assert Training("a", implied).key == Training("b", written).key


def test_images_that_have_moved_are_the_same_images() -> None:
    here, there = (open_scale("paper", [f"folder:{place}/cifar10"]) for place in ("/a", "/b"))
    other = open_scale("paper", ["folder:/a/other"])
    keys = [figure_methods.train(scale, "CE").key for scale in (here, there, other)]
    assert keys[0] == keys[1] != keys[2]


def test_the_key_of_spectra_has_the_plan_but_not_the_machine() -> None:
    training = Training("CE", tiny_recipe())
    step = Spectra(training, StudyPlan(), of=("tail",))
    assert replace(step, plan=StudyPlan(device="cuda", chunk_size=8)).key == step.key
    assert replace(step, plan=StudyPlan(split="test")).key != step.key
    assert replace(step, plan=StudyPlan(budget=Budget.parse("5passes"))).key != step.key
    assert replace(step, plan=StudyPlan(settings=MeasureSettings(num_steps=7))).key != step.key
    assert replace(step, of=("head",)).key != step.key
    assert replace(step, epochs=(2, 4)).key != step.key
    assert replace(step, training=Training("CE", tiny_recipe(run={"seed": 1}))).key != step.key


def test_another_radius_of_one_method_leaves_all_other_steps_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    def keys() -> dict[str, str]:
        steps = [step for name in NAMES for step in in_order(load_figure(name).needs(SMOKE).steps)]
        return {step.key: f"{step.shelf}/{step.name}" for step in steps}

    before = keys()
    recipe, always, _ = figure_methods.METHODS["CE+SAM"]
    monkeypatch.setitem(figure_methods.METHODS, "CE+SAM", (recipe, always, {"optimizer.rho": 0.07}))
    after = keys()
    gone = sorted(name for key, name in before.items() if key not in after)
    assert gone == ["runs/ce-sam", "runs/ce-sam-seed1", "spectra/ce-sam"]
    assert sorted(name for key, name in after.items() if key not in before) == gone


@pytest.mark.parametrize(
    ("every", "points", "epochs"),
    [(1, 5, (4, 8, 12, 16, 20)), (4, 5, (4, 8, 12, 16, 20)), (4, 50, (4, 8, 12, 16, 20)), (3, 3, (6, 12, 18))],
)
def test_a_sweep_ends_with_the_last_checkpoint_kept(every: int, points: int, epochs: tuple[int, ...]) -> None:
    training = Training("MLP", tiny_recipe(schedule={"epochs": 20}, run={"save_every": every}))
    assert replace(SMOKE, sweep_points=points).sweep_epochs(training) == epochs


def test_what_a_figure_asks_for_goes_over_what_the_smoke_scale_has_of_its_own() -> None:
    def radius(scale: Any, **changes: Any) -> Any:
        return figure_methods.train(scale, "CE+DRW+SAM", **changes).recipe.optimizer.rho

    assert (radius(PAPER), radius(SMOKE)) == (0.5, 0.05)
    assert (radius(PAPER, optimizer__rho=0.3), radius(SMOKE, optimizer__rho=0.3)) == (0.3, 0.3)


@pytest.mark.parametrize("scale", [SMOKE, PAPER], ids=lambda scale: scale.name)
def test_figures_share_what_they_have_in_common(scale: Any) -> None:
    """Equal methods never ask for different checkpoints, which would train them twice."""
    steps = [step for name in NAMES for step in in_order(load_figure(name).needs(scale).steps)]
    kept: dict[str, set[int]] = {}
    for step in steps:
        if isinstance(step, Training):
            method = step.recipe.model_copy(update={"run": step.recipe.run.model_copy(update={"save_every": 0})})
            kept.setdefault(Training("any", method).key, set()).add(step.recipe.run.save_every)
    assert all(len(asked) == 1 for asked in kept.values())
    sweeps = [step for step in steps if isinstance(step, Spectra) and step.epochs is not None]
    assert sweeps
    assert all(set(step.epochs or ()) <= set(step.training.kept_epochs) for step in sweeps)
    assert len({step.key for step in steps}) < 0.8 * len(steps)


def test_the_text_of_a_figure_names_every_step_with_its_inputs_before_it() -> None:
    text = json.loads(recipe_text(load_figure("S1"), SMOKE))
    assert (text["figure"], text["scale"]) == ("S1", "smoke")
    known: set[str] = set()
    for step in text["steps"]:
        assert set(step["inputs"]) <= known
        known.add(step["key"])
    assert text["steps"][0]["optimizer"]["lr"] == 0.05
    assert [step["kind"] for step in text["steps"]] == ["runs", "spectra", "surfaces", "surfaces"]


def test_representatives_are_by_size_whatever_the_order_of_the_labels() -> None:
    assert representatives([5000, 500, 50]) == {"head": 0, "mid": 1, "tail": 2}
    assert representatives([7, 900, 30, 900, 2]) == {"head": 1, "mid": 2, "tail": 4}


def test_a_deep_network_is_shown_by_layers_with_weights_evenly_from_first_to_last() -> None:
    assert by_depth(["layer/conv1", "layer/bn1", "layer/fc"]) == ["layer/conv1", "layer/bn1", "layer/fc"]
    deep = [f"layer/layer{n}.0.{kind}" for n in range(1, 32) for kind in ("conv1", "bn1")] + ["layer/head"]
    shown = by_depth(deep, most=5)
    assert shown == [f"layer/layer{n}.0.conv1" for n in (1, 9, 17, 24)] + ["layer/head"]


# ---------------------------------------------------------------------- real steps


class _Stopping(Silent):
    """Stops a training after an epoch, or a study before its second part; hears which parts a study skips."""

    def __init__(self) -> None:
        self.skipped: list[str] = []

    def training(self, title: str) -> AbstractContextManager[Any]:
        return nullcontext(StopAfter(epoch=2))

    def study(self, title: str) -> AbstractContextManager[Any]:
        return nullcontext(_StopsAtSecondPart())


class _StopsAtSecondPart(Quiet):
    def part(self, part: Part, number: int, total: int, products: int) -> None:
        if number == 1:
            raise KeyboardInterrupt


class _Listening(Silent):
    def __init__(self) -> None:
        self.skipped: list[str] = []

    def study(self, title: str) -> AbstractContextManager[Any]:
        listener = Quiet()
        listener.skipped = lambda part, remark: self.skipped.append(part.path)  # type: ignore[method-assign]
        return nullcontext(listener)


_PLAN = StudyPlan(settings=MeasureSettings(num_pairs=1, max_matvecs=10, num_probes=1, max_probes=1, num_steps=4))


def test_a_killed_training_goes_on_and_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    step = Training("MLP", tiny_recipe(run={"save_every": 2}))
    killed, whole = Work(tmp_path / "killed"), Work(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        compute([step], killed, reporter=_Stopping())
    assert killed.state(step) == "begun"
    compute([step], killed)
    compute([step], whole)
    ours, theirs = (files_below(work.place(step)) for work in (killed, whole))
    for name in ("last.safetensors", "best.safetensors", "epoch-0002.safetensors", "epoch-0004.safetensors"):
        assert ours[name] == theirs[name]
    assert step.kept_epochs == (2, 4)


def test_killed_spectra_go_on_with_the_parts_that_are_missing(tmp_path: Path) -> None:
    training = Training("MLP", tiny_recipe())
    step, work, ears = Spectra(training, _PLAN, of=("head", "tail")), Work(tmp_path), _Listening()
    compute([training], work)
    with pytest.raises(KeyboardInterrupt):
        compute([step], work, reporter=_Stopping())
    first = SpectrumFile.open(work.begun(step)).read_part("class/0")
    file = SpectrumFile.open(compute([step], work, reporter=ears)[step.key])
    assert ears.skipped == ["class/0"]
    assert file.complete_parts() == ["class/0", "class/9"]
    again = file.read_part("class/0")
    assert (again.seconds, again.pairs.values.tolist()) == (first.seconds, first.pairs.values.tolist())


def test_classes_by_place_are_added_to_those_of_the_plan(tmp_path: Path) -> None:
    step = Spectra(Training("MLP", tiny_recipe()), replace(_PLAN, classes="4"), of=("tail",))
    file = SpectrumFile.open(compute([step], Work(tmp_path))[step.key])
    assert file.complete_parts() == ["class/4", "class/9"]


def test_a_walk_along_random_directions_may_be_of_one_class(tmp_path: Path) -> None:
    step = Walk(Training("MLP", tiny_recipe()), SurfacePlan(dims=1, points=(3,)), of="tail")
    surface = SurfaceFile.open(compute([step], Work(tmp_path))[step.key]).surface
    assert (surface.kind, surface.parts) == ("random", ("class/9",))


def test_sweeps_follow_the_checkpoints_of_the_run(tmp_path: Path) -> None:
    training = Training("MLP", tiny_recipe(run={"save_every": 2}))
    step = Spectra(training, _PLAN, of=("tail",), epochs=(2, 4))
    file = SpectrumFile.open(compute([step], Work(tmp_path))[step.key])
    assert file.complete_parts() == ["epoch/2/class/9", "epoch/4/class/9"]
    assert all(f"{training.key[:12]}/epoch-000" in name for name in file.meta["checkpoints"])


def test_asam_has_the_radius_of_its_data_set() -> None:
    paper = open_scale("paper", ["folder:ten", "cifar100=folder:hundred"])
    radii = {
        on: figure_methods.train(paper, "CE+DRW+ASAM", on=on).recipe.optimizer.rho for on in ("cifar10", "cifar100")
    }
    assert radii == {"cifar10": 0.5, "cifar100": 1.0}
    assert figure_methods.train(paper, "CE+DRW+ASAM", on="cifar100").recipe.data.source == "folder:hundred"

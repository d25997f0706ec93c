"""What a study takes, said beforehand; and that a budget is spent where intervals are widest, and kept."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any, ClassVar

import pytest
from support.runs import files_below, tiny_recipe
from support.spectra import part_spectrum

from landscape.curvature import MeasureSettings, Part, PartSpectrum, Problem
from landscape.errors import LandscapeError
from landscape.store import SpectrumFile
from landscape.study import Budget, Cost, Quiet, StudyPlan, Subject, Sweep, open_subject, open_sweep, run_study, runner
from landscape.study.cost import refuse_small_budget
from landscape.training import train

# A part's least is 20 products for the pairs, two probes of 10, and the certificates.
SETTINGS = MeasureSettings(
    num_pairs=1, max_matvecs=20, num_probes=2, max_probes=6, target=0.1, num_steps=10, num_trace_probes=0
)
LEAST = SETTINGS.expected_matvecs
CERTIFICATES = LEAST - 20 - 2 * 10
IMAGES = {"class/0": 122, "class/5": 33, "class/9": 12}  # of 494


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("budget") / "mlp"
    train(tiny_recipe(schedule={"epochs": 2}, run={"save_every": 1}), folder)
    return folder


@pytest.fixture(scope="module")
def subject(run: Path) -> Subject:
    subject = open_subject(run)
    counts = subject.data.counts
    assert {f"class/{c}": counts[c] for c in (0, 5, 9)} == IMAGES
    assert sum(counts) == 494
    return subject


class Made:
    """A measurement whose interval narrows as 1/√probes, from a width of its own; it costs what a true one would."""

    widths: ClassVar[dict[int, float]] = {}  # by number of images, with one probe
    finish_products: ClassVar[int] = 0
    seconds_a_probe: ClassVar[float] = 0.0
    log: ClassVar[list[tuple[str, int]]] = []  # what happened, to the part with so many images

    def __init__(self, problem: Problem, settings: MeasureSettings, *, warm: Any, on_product: Any) -> None:
        self.problem, self.settings, self.on_product = problem, settings, on_product
        self.num_probes, self.num_matvecs, self.finished = 0, 0, False

    @property
    def relative_width(self) -> float:
        return self.widths.get(self.problem.num_samples, 0.0) / self.num_probes**0.5

    @property
    def wants_probe(self) -> bool:
        return self.num_probes < self.settings.max_probes and self.relative_width > self.settings.target

    def search(self) -> None:
        self.log.append(("least", self.problem.num_samples))
        self.num_matvecs = 20
        self.on_product(20)

    def add_probes(self, count: int = 1) -> None:
        if self.num_probes:
            self.log.append(("probe", self.problem.num_samples))
        self.num_probes += count
        self.on_product(count * self.settings.num_steps)
        time.sleep(count * self.seconds_a_probe)

    def finish(self, *, part: str, label: str, accuracy: float, keep_vectors: bool) -> PartSpectrum:
        self.log.append(("finish", self.problem.num_samples))
        if not self.finished:
            self.on_product(CERTIFICATES + self.finish_products)
            self.finished = True
        made = part_spectrum(part, label, num_parameters=40, num_probes=self.num_probes, num_steps=6)
        sizes = {"num_samples": self.problem.num_samples, "num_parameters": self.problem.num_parameters}
        return dataclasses.replace(made, accuracy=accuracy, **sizes)

    def release(self) -> None:
        self.log.append(("release", self.problem.num_samples))


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> type[Made]:
    monkeypatch.setattr(runner, "Measurement", Made)
    monkeypatch.setattr(Made, "log", [])
    monkeypatch.setattr(Made, "widths", {122: 1.0, 33: 0.4, 12: 0.1})
    return Made


def probes_in(file: SpectrumFile) -> dict[str, int]:
    return {spectrum.part: len(spectrum.density.probe_mass) for spectrum in file.read_all()}


def spent_on(made: type[Made], kind: str) -> list[int]:
    return [images for what, images in made.log if what == kind]


def passes(products: dict[str, float]) -> float:
    return sum(IMAGES[part] * count for part, count in products.items()) / 494


PLAN = StudyPlan(classes="0,5,9", settings=SETTINGS)


def with_budget(amount: float, **changes: Any) -> StudyPlan:
    return dataclasses.replace(PLAN, budget=Budget(amount, "passes"), **changes)


# ---------------------------------------------------------------------- without a budget


def test_without_a_budget_each_part_stops_at_its_target_or_at_the_most(
    subject: Subject, tmp_path: Path, made: type[Made]
) -> None:
    # Widths 1/√p, 0.19/√p, 0.05/√p: never within six probes; with four; at once.
    made.widths = {122: 1.0, 33: 0.19, 12: 0.05}
    file = run_study(subject, PLAN, tmp_path / "x.h5")
    assert probes_in(file) == {"class/0": 6, "class/5": 4, "class/9": 2}
    # Each is finished once, and let go before the next begins.
    assert [entry for entry in made.log if entry[0] != "probe"] == [
        (what, images) for images in (122, 33, 12) for what in ("least", "finish", "release")
    ]


# ---------------------------------------------------------------------- with one


def test_the_least_comes_first_then_the_widest_interval(subject: Subject, tmp_path: Path, made: type[Made]) -> None:
    least = passes(dict.fromkeys(IMAGES, LEAST))
    # Class 0 to 4 probes (1/√2, 1/√3, then 0.5), class 5 (0.4/√2 = 0.28) waits.
    plan = with_budget(least + passes({"class/0": 20}) + 0.01)
    file = run_study(subject, plan, tmp_path / "x.h5")
    assert spent_on(made, "least") == [122, 33, 12]
    assert spent_on(made, "probe")[:2] == [122, 122]
    assert probes_in(file)["class/0"] == 4
    first_probe = made.log.index(("probe", 122))
    assert {images for what, images in made.log[:first_probe] if what == "finish"} == {122, 33, 12}


def test_the_widest_that_still_fits_is_taken(subject: Subject, tmp_path: Path, made: type[Made]) -> None:
    least = passes(dict.fromkeys(IMAGES, LEAST))
    # Not enough for a probe of class 0, enough for two of class 5.
    file = run_study(subject, with_budget(least + passes({"class/5": 20}) + 0.01), tmp_path / "x.h5")
    assert probes_in(file) == {"class/0": 2, "class/5": 4, "class/9": 2}


def test_a_large_budget_ends_at_the_targets(subject: Subject, tmp_path: Path, made: type[Made]) -> None:
    made.widths = {122: 1.0, 33: 0.19, 12: 0.05}
    file = run_study(subject, with_budget(1e6), tmp_path / "x.h5")
    assert probes_in(file) == {"class/0": 6, "class/5": 4, "class/9": 2}
    # A part whose least already meets the target is finished once, the others twice.
    assert sorted(spent_on(made, "finish")) == [12, 33, 33, 122, 122]


@pytest.mark.parametrize("extra", [0.3, 2.0, 5.0, 9.0])
@pytest.mark.parametrize("finish_products", [0, 7])
def test_the_budget_holds_with_what_writing_takes(
    subject: Subject, tmp_path: Path, made: type[Made], extra: float, finish_products: int
) -> None:
    made.finish_products = finish_products
    spent: list[float] = []

    class Ears(Quiet):
        def note(self, text: str) -> None:
            spent.append(1.0)

    least = passes(dict.fromkeys(IMAGES, LEAST + finish_products))
    counted = 0.0
    usual = runner.Ledger.product

    def count(ledger: Any, products: int, images: int) -> None:
        nonlocal counted
        counted += products * images / 494
        usual(ledger, products, images)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner.Ledger, "product", count)
        run_study(subject, with_budget(least + extra), tmp_path / "x.h5", progress=Ears())
    assert counted <= least + extra + 1e-9
    assert spent == []
    if extra >= 5.0:
        assert counted > least + 1.0
    made.finish_products = 0


def test_killed_while_refining_leaves_the_least_of_every_part(
    subject: Subject, tmp_path: Path, made: type[Made]
) -> None:
    class Killer(Quiet):
        def refine(self, part: Part, width: float) -> None:
            raise KeyboardInterrupt

    path = tmp_path / "x.h5"
    with pytest.raises(KeyboardInterrupt):
        run_study(subject, with_budget(1e6), path, progress=Killer())
    assert probes_in(SpectrumFile.open(path)) == dict.fromkeys(IMAGES, 2)
    made.log.clear()
    run_study(subject, with_budget(1e6), path)
    assert made.log == []


def test_a_time_budget_is_kept(subject: Subject, tmp_path: Path, made: type[Made]) -> None:
    made.seconds_a_probe = 0.1
    made.widths = {122: 1.0, 33: 1.0, 12: 1.0}
    settings = dataclasses.replace(SETTINGS, max_probes=1000)
    start = time.monotonic()
    plan = dataclasses.replace(PLAN, settings=settings, budget=Budget(6.0, "seconds"))
    file = run_study(subject, plan, tmp_path / "x.h5")
    made.seconds_a_probe = 0.0
    assert time.monotonic() - start < 8.0  # unlimited it would be 300
    # Widest first: with equal widths the parts take turns.
    counts = probes_in(file).values()
    assert max(counts) - min(counts) <= 1
    assert max(counts) > 2


def test_a_sweep_shares_its_budget(run: Path, tmp_path: Path, made: type[Made]) -> None:
    sweep: Sweep = open_sweep([run / "epoch-0001.safetensors", run / "epoch-0002.safetensors"])
    least = passes({"class/0": LEAST})
    plan = dataclasses.replace(with_budget(2 * least + passes({"class/0": 40}) + 0.01), classes="0")
    file = run_study(sweep, plan, tmp_path / "x.h5")
    assert probes_in(file) == {"epoch/1/class/0": 4, "epoch/2/class/0": 4}


def test_mini_batches_count_as_well(subject: Subject, tmp_path: Path, made: type[Made]) -> None:
    costs: list[Cost] = []

    class Ears(Quiet):
        def cost(self, estimate: Cost) -> None:
            costs.append(estimate)

    plan = dataclasses.replace(with_budget(1e6), classes="9", num_batches=3, batch_size=10)
    run_study(subject, plan, tmp_path / "x.h5", progress=Ears())
    (cost,) = costs
    assert (cost.parts, cost.batches, cost.images) == (1, 3, 12)
    assert cost.matvecs == LEAST + 3 * 20
    assert cost.passes == pytest.approx((12 * LEAST + 10 * 3 * 20) / 494)


# ---------------------------------------------------------------------- said beforehand, refused


def test_the_cost_counts_images_products_and_what_more_probes_would_take(subject: Subject, tmp_path: Path) -> None:
    costs: list[Cost] = []

    class Ears(Quiet):
        def cost(self, estimate: Cost) -> None:
            costs.append(estimate)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_study(subject, PLAN, tmp_path / "x.h5", progress=Ears())
    (cost,) = costs
    assert (cost.checkpoints, cost.parts, cost.batches) == (1, 3, 0)
    assert (cost.part_matvecs, cost.matvecs, cost.images) == (LEAST, 3 * LEAST, sum(IMAGES.values()))
    assert cost.passes == pytest.approx(passes(dict.fromkeys(IMAGES, LEAST)))
    assert cost.most == 1 + 4 * 10 / LEAST
    assert cost.seconds > 0
    # The basis of one part: 8,970 float32 a vector.
    assert cost.bytes > 8970 * 4 * SETTINGS.num_steps
    assert files_below(tmp_path) == {}


def test_a_budget_below_the_least_is_refused_with_what_would_fit(
    subject: Subject, tmp_path: Path, made: type[Made]
) -> None:
    least = passes(dict.fromkeys(IMAGES, LEAST))
    with pytest.raises(LandscapeError) as caught:
        run_study(subject, with_budget(0.8 * least), tmp_path / "x.h5")
    message = str(caught.value)
    assert len(message.splitlines()) == 2
    assert f"the budget of {0.8 * least:.0f} passes does not hold the least" in message
    assert f"3 parts of about {LEAST} products take about {least:.0f} passes" in message
    assert (made.log, files_below(tmp_path)) == ([], {})
    # Every way that it names fits.
    for flag in ("--max-samples", "--budget"):
        assert flag in message
    images = int(message.split("--max-samples ")[1].split(",")[0])
    assert sum(min(count, images) for count in IMAGES.values()) * LEAST / 494 <= 0.8 * least
    run_study(subject, with_budget(0.8 * least, max_samples=images), tmp_path / "y.h5")
    run_study(subject, with_budget(Budget.parse(message.split("--budget ")[1]).amount), tmp_path / "z.h5")


def test_fewer_steps_are_named_where_they_fit() -> None:
    budget = Budget(100.0, "seconds")
    settings = MeasureSettings(num_pairs=1, max_matvecs=20, num_probes=4, num_steps=100, num_trace_probes=0)
    least = settings.expected_matvecs
    assert least == 420 + CERTIFICATES
    cost = Cost(1, 2, 0, least, 2 * least, 2000, 1e3, 200.0, 10, 1.0)
    with pytest.raises(LandscapeError, match=r"--steps 40, or --budget 4min") as caught:
        refuse_small_budget(budget, cost, StudyPlan(settings=settings), [(1000, 10), (1000, 10)])
    assert "--max-samples 500" in str(caught.value)
    assert least / 2 >= 20 + 4 * 40 + CERTIFICATES


@pytest.mark.parametrize(
    ("text", "amount", "unit", "said"),
    [
        ("90s", 90.0, "seconds", "90 s"),
        ("10min", 600.0, "seconds", "10 min"),
        ("2h", 7200.0, "seconds", "2 h"),
        (" 1.5 h ", 5400.0, "seconds", "90 min"),
        ("500passes", 500.0, "passes", "500 passes"),
        ("1 pass", 1.0, "passes", "1 pass"),
        (".5min", 30.0, "seconds", "30 s"),
    ],
)
def test_budgets_are_read(text: str, amount: float, unit: str, said: str) -> None:
    budget = Budget.parse(text)
    assert (budget.amount, budget.unit, str(budget)) == (amount, unit, said)


@pytest.mark.parametrize("text", ["", "10", "min", "-5min", "0s", "5 m", "1e3s", "10 parsecs", "1..5h"])
def test_what_is_no_budget_is_quoted(text: str) -> None:
    with pytest.raises(LandscapeError) as caught:
        Budget.parse(text)
    assert f"budget '{text}': write for example 90s, 10min, 2h or 500passes" in str(caught.value)


def test_settings_that_mean_nothing_alone_are_refused() -> None:
    with pytest.raises(LandscapeError, match=r"--weight-decay 0\.1 belongs to --per-batch"):
        StudyPlan(weight_decay=0.1)
    with pytest.raises(LandscapeError, match=r"--batch-size 64 belongs to --per-batch"):
        StudyPlan(batch_size=64)
    with pytest.raises(LandscapeError, match="--layer-unit stage says what a layer is: add --per-layer"):
        StudyPlan(layer_unit="stage")
    assert StudyPlan(layer_unit="tensor", layers=("fc*",)).num_batches == 0


# ---------------------------------------------------------------------- parts that only look the same


def test_a_layer_of_another_unit_does_not_pass_for_the_one_that_is_there(
    subject: Subject, tmp_path: Path, made: type[Made], monkeypatch: pytest.MonkeyPatch
) -> None:
    made.widths = {}
    path = tmp_path / "x.h5"
    plan = StudyPlan(layers=("fc1",), settings=SETTINGS)
    run_study(subject, plan, path)
    run_study(subject, dataclasses.replace(plan, layers=("fc1", "head")), path)
    known = SpectrumFile.open(path).summaries()
    assert {part: (each.num_samples, each.num_parameters) for part, each in known.items()} == {
        "layer/fc1": (494, 4160),
        "layer/head": (494, 650),
    }
    assert {each.layer_unit for each in known.values()} == {"module"}
    assert spent_on(made, "least") == [494, 494]
    # A stage of this network is one module, but not of every network; parts that are no layers may join.
    before = path.read_bytes()
    with pytest.raises(LandscapeError, match="holds layers by --layer-unit module, this run has stage"):
        run_study(subject, dataclasses.replace(plan, layer_unit="stage", layers=("fc2",)), path)
    assert path.read_bytes() == before
    run_study(subject, StudyPlan(classes="9", settings=SETTINGS), path)
    assert SpectrumFile.open(path).summaries()["class/9"].layer_unit is None
    usual = runner.plan_parts

    def fewer(*arguments: Any) -> list[Part]:
        return [dataclasses.replace(part, parameters=("fc1.bias",)) for part in usual(*arguments)]

    monkeypatch.setattr(runner, "plan_parts", fewer)
    with pytest.raises(LandscapeError, match=r"'layer/fc1' of 494 images and 4160 parameters, here it has 494 and 64"):
        run_study(subject, plan, path)

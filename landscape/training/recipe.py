"""A training run as data: what a TOML file, the command-line flags and a checkpoint's metadata all say."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import pydantic
import tomli_w
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, create_model

from landscape.data import Normalization, parse_normalization
from landscape.data.lists import parse_lists
from landscape.data.longtailed import LongTailedData, load_long_tailed
from landscape.errors import LandscapeError, did_you_mean
from landscape.optim import OPTIMIZERS, RadiusSetting, all_settings, check_settings, plain_radius
from landscape.regularizers import SERVED

# Digits and garments have a right way round, and a flipped 3 is no digit.
_PLAIN_SOURCES = ("digits", "fashion-mnist")
_PHOTOGRAPHS = ("list:", "mini-imagenet")  # what a source of full photographs begins with


class _Section(BaseModel):
    # Strict: `lr = true` and `epochs = "5"` are slips, not numbers.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class DataRecipe(_Section):
    """Which samples, how long-tailed, and how they reach the model."""

    source: str = Field(
        "digits",
        description="digits, fashion-mnist, cifar10, cifar100, folder:PATH, list:TRAIN.txt,TEST.txt or mini-imagenet",
    )
    root: Path | None = Field(
        None,
        strict=False,
        description="folder that holds the files of a named source, or that folder:PATH and paths in lists start from",
    )
    download: bool = Field(False, description="fetch a named source that is not under root")
    imbalance: str = Field("none", description="exp:IF, step:IF or none")
    draw: Literal["shuffled", "file-order"] = Field("shuffled", description="which images of a class are kept")
    draw_seed: int = Field(0, ge=0, description="seed of the shuffled draw; independent of run.seed")
    resample: Literal["none", "balanced", "deferred"] = Field(
        "none",
        description="class-balanced drawing with replacement: never, always, or deferred as drw is; beta and defer are "
        "those of the loss",
    )
    image_size: int | None = Field(
        None, ge=4, description="resize and crop the images of a folder; of lists and mini-imagenet, 224 if not given"
    )
    normalize: str | None = Field(
        None, description="cifar, imagenet, inaturalist, none or MEAN/STD; by default what fits the source"
    )
    augment: Literal["crop-flip", "resized-crop", "none"] | None = Field(
        None, description="training augmentation, resized-crop for full photographs; by default by source"
    )
    workers: int | None = Field(
        None, ge=0, description="processes that decode photographs; one a core, at most 16, if not given"
    )

    def open(self) -> LongTailedData:
        """Read what is drawn. Raises :class:`LandscapeError` for missing or malformed data."""
        return load_long_tailed(
            self.source,
            root=self.root,
            download=self.download,
            imbalance=self.imbalance,
            draw_how=self.draw,
            draw_seed=self.draw_seed,
            image_size=self.image_size,
            workers=self.workers,
        )

    def _by_source(self, plain: str, photographs: str, otherwise: str) -> str:
        if self.source in _PLAIN_SOURCES:
            return plain
        return photographs if self.source.startswith(_PHOTOGRAPHS) else otherwise

    @property
    def normalization(self) -> Normalization:
        default = self._by_source("0.5/0.5", "imagenet", "cifar")
        return parse_normalization(self.normalize if self.normalize is not None else default)

    @property
    def augmentation(self) -> str:
        return self.augment or self._by_source("none", "resized-crop", "crop-flip")

    @property
    def resolved(self) -> DataRecipe:
        """The same with the defaults that depend on the source written out and folders made absolute.

        A folder of images becomes its name below an absolute root, so that a run goes on where the folder has moved.
        """
        source = self.source
        root = None if self.root is None else self.root.expanduser().absolute()
        if source.startswith("folder:"):
            folder = Path(source.removeprefix("folder:")).expanduser()
            if root is None or folder.is_absolute():
                root, folder = folder.absolute().parent, Path(folder.absolute().name)
            source = f"folder:{folder}"
        elif source.startswith("list:"):
            source = "list:" + ",".join(str(path.absolute()) for path in parse_lists(source))
        changes = {"source": source, "root": root, "normalize": str(self.normalization), "augment": self.augmentation}
        return self.model_copy(update=changes)


Head = Literal["linear", "cosine", "learned-cosine", "learned-cosine-legacy"]


class ModelRecipe(_Section):
    """Which network."""

    name: str = Field(
        "resnet32",
        description="resnet20/32/44/56, bbn-resnet32, resnet34-cifar, resnet18/34/50, convnet, mlp or "
        "package.module:factory",
    )
    head: Head | None = Field(
        None,
        description="cosine for LDAM, else linear if not given; learned-cosine has a scale and offsets of its own, "
        "learned-cosine-legacy normalises over classes as TailCalibX's code does",
    )


_LOSS_SETTINGS = {"max_margin": ("ldam",), "gamma": ("vs", "cdt"), "tau": ("vs", "la"), "focal_gamma": ("focal",)}


class LossRecipe(_Section):
    """Which loss, and how classes are weighted."""

    name: Literal["ce", "focal", "ldam", "vs", "la", "cdt"] = "ce"
    reweight: Literal["none", "rw", "drw"] = Field(
        "none", description="effective-number weights: never, always, deferred"
    )
    beta: float = Field(0.9999, ge=0, lt=1, description="of the effective number")
    defer: float = Field(0.8, ge=0, le=1, description="share of the epochs before drw switches on")
    logit_scale: float = Field(30.0, gt=0, description="s, multiplies the cosines of a cosine head")
    max_margin: float | None = Field(None, ge=0, description="of LDAM; 0.5 as published if not given")
    gamma: float | None = Field(None, ge=0, description="exponent of VS and CDT; 0.3 if not given")
    tau: float | None = Field(None, ge=0, description="offset of VS and LA; 1 if not given")
    focal_gamma: float | None = Field(None, ge=0, description="focusing exponent; 1 if not given")
    ce_epochs: int = Field(
        0, ge=0, description="train on plain cross-entropy for so many epochs first; the 'mixed' VS of its authors: 6"
    )

    @pydantic.model_validator(mode="after")
    def _ignores_nothing(self) -> LossRecipe:
        for setting, losses in _LOSS_SETTINGS.items():
            if getattr(self, setting) is not None and self.name not in losses:
                raise ValueError(f"loss '{self.name}' has no setting '{setting}' (it belongs to {', '.join(losses)})")
        if self.name == "ce" and self.ce_epochs:
            raise ValueError("loss.ce_epochs is the start of another loss; with loss 'ce' every epoch is cross-entropy")
        return self

    def settings(self) -> dict[str, Any]:
        """What was said about the loss itself, for :func:`landscape.losses.build_loss`."""
        return {name: getattr(self, name) for name in _LOSS_SETTINGS if getattr(self, name) is not None}


_GROUPED = ", ".join(name for name, kind in OPTIMIZERS.items() if kind.uses_groups)
_T = TypeVar("_T", bound=BaseModel)


def _with_optimizer_settings(section: type[_T]) -> type[_T]:
    """The section with a field for every setting that some optimiser has; unset unless given."""
    fields: dict[str, Any] = {}
    for name, (setting, owners) in all_settings().items():
        kind = Annotated[setting.type, BeforeValidator(_radius)] if setting.type == RadiusSetting else setting.type
        owned = "" if len(owners) == len(OPTIMIZERS) else f"{', '.join(owners)}: "
        fields[name] = (kind | None, Field(None, description=f"{owned}{setting.help}"))
    return create_model(
        section.__name__, __base__=section, __doc__=section.__doc__, __module__=section.__module__, **fields
    )


def _radius(value: Any, info: pydantic.ValidationInfo) -> Any:
    return plain_radius(f"optimizer.{info.field_name}", value)


@_with_optimizer_settings
class OptimizerRecipe(_Section):
    """How a step is made; what an optimiser does not know is refused."""

    name: str = Field("sgd", description=", ".join(OPTIMIZERS))
    lr: float = Field(0.1, gt=0, description="base learning rate")
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(2e-4, ge=0)
    eta: float | None = Field(
        None, ge=0, description=f"{_GROUPED}: a class is tail if it has fewer images; 100 if not given"
    )
    normalization: Literal["batch", "group"] | None = Field(
        None, description=f"{_GROUPED}: divisor of the head and tail losses; batch if not given"
    )

    def settings(self) -> dict[str, Any]:
        """What was said about the optimiser itself, for :func:`landscape.optim.build_optimizer`."""
        return {name: getattr(self, name) for name in all_settings() if getattr(self, name) is not None}

    @property
    def resolved(self) -> OptimizerRecipe:
        """The same with the defaults of an optimiser that knows head and tail classes written out.

        Raises:
            LandscapeError: unknown optimiser, a setting that it does not know or needs and was not given.
        """
        for name in ("eta", "normalization"):
            if self.name in OPTIMIZERS and not OPTIMIZERS[self.name].uses_groups and getattr(self, name) is not None:
                raise LandscapeError(f"optimizer '{self.name}' has no setting '{name}' (it belongs to {_GROUPED})")
        check_settings(self.name, self.settings())
        if not OPTIMIZERS[self.name].uses_groups:
            return self
        eta = 100.0 if self.eta is None else self.eta
        return self.model_copy(update={"eta": eta, "normalization": self.normalization or "batch"})


class RegularizerRecipe(_Section):
    """What is added to the loss; see :class:`landscape.regularizers.Htr`."""

    name: Literal["none", "htr"] = Field(
        "none",
        description="htr adds weight · Σ tr H_l, the trace of the Hessian of each layer's parameters on the batch",
    )
    weight: float | None = Field(
        None, ge=0, description="γ of htr; 0 trains as without. No value is published; 1e-4 to 1e-3 to start from"
    )
    layers: str | None = Field(
        None,
        description="all, middle (the middle third by depth), or globs such as layer2.*,fc over the names that "
        "spectrum --per-layer has; all if not given",
    )
    probes: int | None = Field(None, ge=1, description="random vectors a step; 1 if not given")
    form: Literal["joint", "masked"] | None = Field(
        None,
        description="joint: one product over all layers, with cross-layer noise of mean 0; masked: one a layer, "
        "without; joint if not given",
    )
    gradient: Literal["exact", "finite-difference"] | None = Field(
        None,
        description="exact: third derivatives, a step costs some 18 of SGD, 9 with layers = middle; "
        "finite-difference: 4, but useless in networks with ReLU, whose gradients jump; exact if not given",
    )
    trace: Literal["hessian", "clamped", "gauss-newton"] | None = Field(
        None,
        description="hessian: as published; has no lower bound and rewards negative curvature, that is, saddles. "
        "clamped: no reward below 0 for the sum over layers. gauss-newton: never negative, a step costs some 6 of SGD; "
        "clamped if not given",
    )

    @pydantic.model_validator(mode="after")
    def _is_complete(self) -> RegularizerRecipe:
        given = self.settings()
        if self.name == "none" and given:
            raise ValueError(f"regularizer 'none' has no setting '{next(iter(given))}': add name = 'htr'")
        if self.name == "htr" and self.weight is None:
            raise ValueError("regularizer 'htr' needs a value for weight: γ, say 1e-4")
        if self.trace == "gauss-newton" and self.gradient == "finite-difference":
            raise ValueError("the Gauss-Newton trace has an exact gradient alone: leave gradient out")
        return self

    def settings(self) -> dict[str, Any]:
        """What was said about the regulariser itself, for :class:`landscape.regularizers.Htr`."""
        return self.model_dump(exclude={"name"}, exclude_none=True)

    @property
    def active(self) -> bool:
        """Whether it changes the training."""
        return bool(self.weight)

    @property
    def resolved(self) -> RegularizerRecipe:
        """The same with the defaults of HTR written out."""
        if self.name == "none":
            return self
        defaults = {"layers": "all", "probes": 1, "form": "joint", "gradient": "exact", "trace": "clamped"}
        return self.model_copy(update={**defaults, **self.settings()})


class ScheduleRecipe(_Section):
    """How long, in which portions, and how the learning rate moves."""

    name: Literal["step", "cosine", "cosine-early", "constant"] = Field(
        "step",
        description="step: warm-up, ×0.01 at 80 %, ×0.0001 at 90 %; cosine: from lr towards 0, stepped after an "
        "epoch; cosine-early: before it, to 0 in the last, as some released code does",
    )
    epochs: int = Field(200, ge=1)
    batch_size: int = Field(128, ge=1, description="images a step; a last batch of one joins the batch before it")


class RunRecipe(_Section):
    """How and where the method is computed."""

    seed: int = Field(0, ge=0)
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1 …")
    save_every: int = Field(
        0, ge=0, description="also keep the checkpoint of every so many epochs; 0 keeps last and best"
    )
    precision: Literal["fp32", "bf16"] = Field(
        "fp32",
        description="of the passes in training; weights, perturbations and evaluation stay fp32. bf16 is faster on a "
        "recent GPU and rounds more. (With fp32 PyTorch lets convolutions on a GPU use TF32.)",
    )
    compile: bool = Field(
        False,
        description="compile the network: a minute or more at the start of a run and on resuming, more with SAM and "
        "its kin; needs a C++ compiler; for long runs",
    )
    log: Literal["tensorboard"] | None = Field(
        None, description="beside history.jsonl write losses, rates, radii and accuracies for TensorBoard"
    )


# Where a training runs, how it is kept, where the images of a source lie and how quickly they come do not make it
# another one.
NOT_THE_METHOD = {
    *(("run", key) for key in ("device", "save_every", "compile", "log")),
    *(("data", key) for key in ("root", "download", "workers")),
}


class Recipe(_Section):
    """A whole training run. Every field has a default, so a recipe says only what differs."""

    data: DataRecipe = DataRecipe()
    model: ModelRecipe = ModelRecipe()
    loss: LossRecipe = LossRecipe()
    optimizer: OptimizerRecipe = OptimizerRecipe()
    regularizer: RegularizerRecipe = RegularizerRecipe()
    schedule: ScheduleRecipe = ScheduleRecipe()
    run: RunRecipe = RunRecipe()

    @classmethod
    def parse(cls, values: Mapping[str, Any], *, where: str = "recipe") -> Recipe:
        """Check plain values.

        Raises:
            LandscapeError: one line a fault with the path of the key: unknown key, wrong type, impossible value.
        """
        try:
            return cls.model_validate(values)
        except pydantic.ValidationError as error:
            raise LandscapeError("\n".join(_explain(fault, where) for fault in error.errors())) from None

    @pydantic.model_validator(mode="after")
    def _ldam_needs_cosines(self) -> Recipe:
        if self.loss.name == "ldam" and self.model.head not in (None, "cosine"):
            raise ValueError("loss.name = 'ldam' subtracts its margin from cosines: it needs model.head = 'cosine'")
        return self

    @pydantic.model_validator(mode="after")
    def _can_be_differentiated_again(self) -> Recipe:
        if not self.regularizer.active:
            return self
        if self.optimizer.name not in SERVED:
            raise ValueError(
                f"the penalty of 'htr' is of the whole batch, and optimizer '{self.optimizer.name}' takes its loss "
                f"apart: use one of {', '.join(SERVED)}"
            )
        if self.run.precision != "fp32":
            raise ValueError(
                "'htr' differentiates three times, which bf16 is too coarse for: use run.precision = 'fp32'"
            )
        if self.run.compile:
            raise ValueError("'htr' differentiates three times, which a compiled network cannot: leave run.compile out")
        if self.regularizer.trace == "gauss-newton" and self.loss.name == "focal":
            raise ValueError("loss 'focal' is not convex in the logits, so its Gauss-Newton trace may be negative: "
                             "use regularizer.trace = 'clamped'")  # fmt: skip
        return self

    @property
    def resolved(self) -> Recipe:
        """The same with every default that depends on another field written out and folders made absolute."""
        return self.model_copy(
            update={
                "data": self.data.resolved,
                "optimizer": self.optimizer.resolved,
                "regularizer": self.regularizer.resolved,
            }
        )

    @classmethod
    def load(cls, path: Path) -> dict[str, Any]:
        """The raw values of a TOML file, so that flags can be laid over them before they are checked."""
        try:
            return tomllib.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise LandscapeError(f"no recipe at {path}") from None
        except IsADirectoryError:
            raise LandscapeError(
                f"{path} is a folder; a recipe is a TOML file such as {path / 'recipe.toml'}"
            ) from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise LandscapeError(f"{path} is not TOML: {error}") from None

    def difference(self, other: Recipe) -> tuple[str, Any, Any] | None:
        """The first setting in which the two are different trainings: its name, the value here, the other's value."""
        one, two = self.dump(), other.dump()
        for section in one:
            for key in {**one[section], **two[section]}:
                here, there = one[section].get(key), two[section].get(key)
                if here != there and (section, key) not in NOT_THE_METHOD:
                    return f"{section}.{key}", here, there
        return None

    def dump(self) -> dict[str, Any]:
        """Plain values that :meth:`parse` takes back; unset fields are left out."""
        return self.model_dump(mode="json", exclude_none=True)

    def to_toml(self) -> str:
        return tomli_w.dumps(self.dump())

    @property
    def logit_scale(self) -> float:
        """s of a cosine head; 1 for a head whose outputs are logits."""
        return self.loss.logit_scale if self.head == "cosine" else 1.0

    @property
    def head(self) -> Head:
        return self.model.head or ("cosine" if self.loss.name == "ldam" else "linear")


def set_value(values: dict[str, Any], key: str, value: Any) -> None:
    """Lay ``a.b = value`` over nested values in place.

    Raises:
        LandscapeError: ``a`` is not a section.
    """
    *sections, last = key.split(".")
    for section in sections:
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            raise LandscapeError(f"'{section}' in '{key}' is a value, not a section")
    values[last] = value


def parse_assignment(text: str) -> tuple[str, Any]:
    """``a.b=c`` as a key and a TOML value; what is no TOML value is taken as a word.

    Raises:
        LandscapeError: there is no ``=``, or no section before the key.
    """
    key, equals, raw = text.partition("=")
    key = key.strip()
    if not equals or "." not in key:
        raise LandscapeError(f"--set {text!r}: write section.key=value, for example optimizer.rho=0.5")
    try:
        return key, tomllib.loads(f"value = {raw}")["value"]
    except tomllib.TOMLDecodeError:
        pass
    try:
        return key, float(raw)  # .5 and 5. are numbers to everybody but TOML
    except ValueError:
        return key, raw.strip()


def _explain(fault: Any, where: str) -> str:
    path = ".".join(str(step) for step in fault["loc"])
    if fault["type"] == "extra_forbidden":
        known = _known_keys(fault["loc"][:-1])
        hint = did_you_mean(str(fault["loc"][-1]), known) or f"; known here: {', '.join(known)}"
        return f"{where}: unknown key '{path}'{hint}"
    if fault["type"] == "value_error":
        return f"{where}: {fault['msg'].removeprefix('Value error, ')}"
    if fault["type"] in ("model_type", "model_attributes_type"):
        return f"{where}: '{path}' is a section: write [{path}] and its keys below, not {path} = {fault['input']!r}"
    message = fault["msg"].replace("Input should", "should").replace("'", "")
    return f"{where}: {path} = {fault['input']!r} {message}"


def _known_keys(sections: Sequence[Any]) -> list[str]:
    model: Any = Recipe
    for section in sections:
        model = model.model_fields[section].annotation
    return list(model.model_fields)


def resolve_device(text: str) -> str:
    """``auto`` becomes CUDA where there is one, else the CPU. (Apple's MPS has no float64, which certificates need.)

    Raises:
        LandscapeError: a device that this machine or this build of PyTorch does not have.
    """
    import torch

    if text == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.device(text)
    except RuntimeError:
        raise LandscapeError(f"unknown device '{text}'. Use --device auto, cpu, cuda or cuda:1.") from None
    try:
        torch.zeros(1, device=text)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise LandscapeError(f"device '{text}' cannot be used: {reason}. Use --device auto or cpu.") from None
    return text

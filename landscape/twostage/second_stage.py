"""Second stages on the features of a checkpoint: a method and a seed in, accuracies and generated features out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from landscape.data import epoch_order
from landscape.errors import LandscapeError
from landscape.models import make_head
from landscape.store.features_file import FeaturesFile
from landscape.training.evaluation import Evaluation
from landscape.twostage.classifiers import ClassScales, NearestMean, TauNorm, choose_tau, fit, held_out
from landscape.twostage.distributions import Calibration, ClassDistributions, balancing_seeds, on_sphere, tukey
from landscape.twostage.features import head_of
from landscape.twostage.settings import GENERATING, TwoStageSettings

# Numbers of features that are drawn at once, and similarities that are held at once.
_BLOCK, _CHUNK = 1 << 26, 1 << 24
# Points that are kept and compared, of one class and of all.
KEEP, _KEEP_ALL = 500, 50_000


@dataclass(frozen=True)
class GeneratedFeatures:
    """Generated points of the last epoch, at length 1."""

    features: Tensor  # (G, d)
    labels: Tensor  # (G,) class that each was drawn for
    seeds: Tensor  # (G,) position of its seed among the training features


@dataclass(frozen=True)
class SeedOutcome:
    """One second stage."""

    seed: int
    result: Evaluation  # on the test features
    classifier: dict[str, Tensor]  # its tensors by name
    tau: float | None  # of tau-norm
    generated: GeneratedFeatures | None  # of methods that generate


@dataclass(frozen=True)
class Nearest:
    """Classes of the nearest training features on the sphere, where cosine and Euclidean distance agree."""

    sample: Tensor  # (M,) class of the nearest training feature
    mean: Tensor  # (M,) class of the mean direction nearest in angle


class SecondStage:
    """A features file and a method, ready to be run with any seed.

    Args:
        file: both splits are read into memory.
        settings: of the method.
        device: where it is computed.

    Raises:
        LandscapeError: what the method cannot work with: no head, negative features, K > C, a class without features.
    """

    def __init__(self, file: FeaturesFile, settings: TwoStageSettings, device: str = "cpu") -> None:
        self.settings, self.device = settings, torch.device(device)
        train, test = file.read("train"), file.read("test")
        if train.features.shape[1] != test.features.shape[1]:
            raise LandscapeError(
                f"'{file.path}' has {train.features.shape[1]} training features and {test.features.shape[1]} test "
                "features an image: write it again by `landscape features`"
            )
        self.class_counts, self.num_classes = file.class_counts, len(file.class_names)
        self.labels = torch.from_numpy(train.labels).long().to(self.device)
        self.test_labels = torch.from_numpy(test.labels).long().to(self.device)
        empty = (torch.bincount(self.labels, minlength=self.num_classes) == 0).nonzero().flatten().tolist()
        if empty:
            raise LandscapeError(
                f"class '{file.class_names[empty[0]]}' has no training features: every class needs at least one; name "
                "data that has them in `landscape features --data`"
            )
        self.before = self._evaluation(torch.from_numpy(test.predicted).to(self.device))
        raw, raw_test = (torch.from_numpy(split.features).to(self.device) for split in (train, test))
        self.stored_head = file.head
        if settings.method in GENERATING:
            power = settings.power if settings.method != "modals" else 1.0
            # Points are drawn where Tukey's ladder leads, and only then brought to length 1, as the real ones are.
            self.seeds = tukey(F.normalize(raw), power)
            self.inputs, self.test_inputs = F.normalize(self.seeds), on_sphere(raw_test, power)
            statistics = F.normalize(raw) if settings.legacy else self.seeds
            self.distributions = ClassDistributions.of(statistics, self.labels, self.num_classes)
            if settings.method != "modals":
                self.calibration = Calibration.of(
                    self.distributions, self.seeds, neighbors=settings.neighbors, alpha=settings.alpha
                )
            else:
                self.deviations = self._deviations()
        elif settings.method == "lws":
            head = head_of(file.head).to(self.device)
            with torch.no_grad():
                self.inputs, self.test_inputs = (float(file.head["logit_scale"]) * head(x) for x in (raw, raw_test))
        else:
            self.inputs, self.test_inputs = raw, raw_test
        if settings.method == "tau-norm" and file.head["kind"] != "linear":
            raise LandscapeError(
                f"tau-norm divides class vectors by a power of their length, which a head of kind "
                f"'{file.head['kind']}' does not have: take features of a checkpoint with a linear head, or another "
                "--method"
            )

    def _evaluation(self, predicted: Tensor) -> Evaluation:
        return Evaluation.of(self.test_labels, predicted, self.num_classes)

    def _deviations(self) -> Tensor:
        """(C, d) standard deviation of every feature in every class; of a class of one sample the pooled one."""
        variances = torch.stack([factor.square().sum(0) for factor in self.distributions.factors])
        able = self.distributions.counts > 1
        pooled = variances[able].mean(0) if bool(able.any()) else torch.zeros_like(variances[0])
        return torch.where(able[:, None], variances, pooled).sqrt()

    @property
    def is_seeded(self) -> bool:
        """Whether another seed gives another outcome."""
        settings = self.settings
        return settings.method != "ncm" and not (settings.method == "tau-norm" and settings.tau is not None)

    @property
    def points_per_epoch(self) -> int:
        """Features that a classifier sees in an epoch."""
        if self.settings.method in GENERATING:
            return int(torch.bincount(self.labels).max()) * self.num_classes
        return len(self.labels)

    @property
    def steps_per_epoch(self) -> int:
        """Batches of an epoch; ``legacy`` drops a last one that is not full."""
        whole, rest = divmod(self.points_per_epoch, self.settings.batch_size)
        return max(1, whole) if self.settings.legacy else whole + bool(rest)

    # ------------------------------------------------------------------ one seed

    def run(self, seed: int, on_epoch: Callable[[], None] = lambda: None) -> SeedOutcome:
        """Make the classifier and evaluate it on the test features. The global generators are left as they were."""
        generator = torch.Generator(self.device).manual_seed(seed)
        tau, generated = None, None
        method = self.settings.method
        if method == "ncm":
            means = ClassDistributions.of(self.inputs, self.labels, self.num_classes).means
            classifier: nn.Module = NearestMean(means, euclidean=self.settings.distance == "l2")
        elif method == "tau-norm":
            weight = torch.as_tensor(self.stored_head["weight"], device=self.device)
            tau = self.settings.tau
            if tau is None:
                chosen = held_out(self.labels, self.settings.holdout, generator)
                tau = choose_tau(weight, self.inputs[chosen], self.labels[chosen])
            classifier = TauNorm(weight, tau)
        else:
            classifier = self._new_classifier(seed).to(self.device)
            if method in GENERATING:
                epochs = _GeneratedEpochs(self, generator)
                fit(classifier, epochs.epoch, self.settings, generator, on_epoch)
                generated = epochs.kept
            else:
                fit(classifier, self._resampled, self.settings, generator, on_epoch)
        with torch.no_grad():
            predicted = torch.cat([classifier(piece).argmax(1) for piece in self.test_inputs.split(8192)])
        state = {name: tensor.detach().cpu() for name, tensor in classifier.state_dict().items()}
        return SeedOutcome(seed, self._evaluation(predicted), state, tau, generated)

    def _new_classifier(self, seed: int) -> nn.Module:
        if self.settings.method == "lws":
            return ClassScales(self.num_classes)
        kind = "linear"
        if self.settings.method in GENERATING:
            kind = "learned-cosine-legacy" if self.settings.legacy else "learned-cosine"
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return make_head(kind, self.inputs.shape[1], self.num_classes)

    def _resampled(self, number: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """As many draws as there are features, every class equally often on average."""
        balanced = 1 / torch.bincount(self.labels, minlength=self.num_classes)
        order = epoch_order(self.labels, generator, balanced)
        for batch in order.split(self.settings.batch_size):
            yield self.inputs[batch], self.labels[batch]

    # ------------------------------------------------------------------ nearest classes

    def nearest(self, points: Tensor, without: Tensor | None = None) -> Nearest:
        """Classes of the training features nearest to points (M, d) of length 1.

        Args:
            without: (M,) a training feature that does not count for each point, such as the point itself.

        Cost: 2·M·N·d operations.
        """
        directions = torch.zeros(self.num_classes, self.inputs.shape[1], device=self.device)
        directions = F.normalize(directions.index_add_(0, self.labels, self.inputs))
        samples = []
        pieces = torch.arange(len(points), device=self.device).split(max(1, _CHUNK // len(self.inputs)))
        for rows in pieces:
            similarity = points[rows] @ self.inputs.T
            if without is not None:
                similarity.scatter_(1, without[rows, None], -torch.inf)
            samples.append(self.labels[similarity.argmax(1)])
        return Nearest(torch.cat(samples), (points @ directions.T).argmax(1))

    def some_real(self, keep: int) -> Tensor:
        """Positions of at most ``keep`` training features a class, evenly spread over the file."""
        chosen = []
        for label in range(self.num_classes):
            members = (self.labels == label).nonzero().flatten()
            chosen.append(members[torch.linspace(0, len(members) - 1, min(keep, len(members))).long()])
        return torch.cat(chosen)


def kept_per_class(num_classes: int) -> int:
    """Points a class that are kept and compared: 500, of more than 100 classes fewer."""
    return min(KEEP, max(1, _KEEP_ALL // num_classes))


class _GeneratedEpochs:
    """Epochs of all real features and as many generated ones as make the classes equal, in random order."""

    def __init__(self, stage: SecondStage, generator: torch.Generator) -> None:
        self.stage = stage
        self.kept: GeneratedFeatures | None = None  # of the last epoch, once it has ended
        self.bank: tuple[Tensor, Tensor] | None = None
        if stage.settings.method == "tailcalib":
            seeds = balancing_seeds(stage.labels, stage.num_classes, generator)
            self.bank = seeds, self._draw(seeds, generator)

    def _draw(self, seeds: Tensor, generator: torch.Generator) -> Tensor:
        """A point of length 1 for each seed."""
        stage = self.stage
        width = stage.seeds.shape[1]
        pieces = [torch.zeros(0, width, device=stage.device)]
        for index in seeds.split(max(1, _BLOCK // width)):
            if stage.settings.method == "modals":
                noise = torch.randn(len(index), width, generator=generator, device=stage.device)
                drawn = stage.seeds[index] + stage.settings.noise * stage.deviations[stage.labels[index]] * noise
            else:
                drawn = stage.calibration.draw(stage.seeds, index, generator)
            pieces.append(F.normalize(drawn))
        return torch.cat(pieces)

    def epoch(self, number: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        stage, size = self.stage, self.stage.settings.batch_size
        real = len(stage.labels)
        seeds = self.bank[0] if self.bank else balancing_seeds(stage.labels, stage.num_classes, generator)
        positions = torch.cat([torch.arange(real, device=stage.device), seeds])
        order = torch.randperm(len(positions), generator=generator, device=stage.device)
        if stage.settings.legacy:
            order = order[: max(1, len(order) // size) * size]
        pieces = []
        # In blocks, so that the features of an epoch need not fit into memory.
        for block in order.split(max(1, _BLOCK // stage.inputs.shape[1] // size) * size):
            inputs, labels = stage.inputs[positions[block]], stage.labels[positions[block]]
            new = (block >= real).nonzero().flatten()
            which = block[new] - real
            inputs[new] = self.bank[1][which] if self.bank else self._draw(seeds[which], generator)
            if number == stage.settings.epochs - 1:
                pieces.append(self._some(inputs[new], seeds[which]))
            yield from zip(inputs.split(size), labels.split(size), strict=True)
        if pieces:
            points, sources = self._some(*(torch.cat(column) for column in zip(*pieces, strict=True)))
            self.kept = GeneratedFeatures(points, stage.labels[sources], sources)

    def _some(self, points: Tensor, seeds: Tensor) -> tuple[Tensor, Tensor]:
        """The first of each class, as many as are kept; they stand in random order."""
        labels, keep = self.stage.labels[seeds], kept_per_class(self.stage.num_classes)
        chosen = [(labels == label).nonzero().flatten()[:keep] for label in range(self.stage.num_classes)]
        index = torch.cat(chosen)
        return points[index], seeds[index]

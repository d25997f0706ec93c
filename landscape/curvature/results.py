"""What the curvature algorithms return: frozen records of NumPy arrays, each field with its shape and unit.

Nothing here imports torch, so a results file can be read and drawn without it. Every record writes itself into an HDF5
group and reads itself back: arrays become datasets, scalars and words become attributes, nested records become groups.

Units: an eigenvalue of a loss Hessian has the unit of the loss (nats) per squared unit of parameter; masses and traces
share it. Vectors are unit vectors in parameter space.
"""

from __future__ import annotations

import dataclasses
import typing
from dataclasses import dataclass
from typing import Any, Self

import h5py
import numpy as np
from numpy.typing import NDArray
from scipy import special, stats
from scipy.linalg import eigh_tridiagonal

from landscape.errors import LandscapeError

Array = NDArray[Any]


class Record:
    """HDF5 reading and writing shared by every result; subclasses are frozen dataclasses."""

    def to_hdf5(self, group: Any) -> None:
        """Write every field into ``group``; fields that are ``None`` leave no trace."""
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if value is None:
                continue
            if isinstance(value, Record):
                value.to_hdf5(group.create_group(field.name))
            elif isinstance(value, tuple):  # words; the one kind that h5py asks a type for
                group.create_dataset(field.name, data=list(value), dtype=h5py.string_dtype())
            elif isinstance(value, np.ndarray):
                compression = {"compression": "gzip", "shuffle": True} if value.size > 64 else {}
                group.create_dataset(field.name, data=value, **compression)
            else:
                group.attrs[field.name] = value

    @classmethod
    def from_hdf5(cls, group: Any) -> Self:
        """Read the record that :meth:`to_hdf5` wrote. Raises ``KeyError`` when a required field is missing."""
        hints = typing.get_type_hints(cls)
        values: dict[str, Any] = {}
        for field in dataclasses.fields(cls):  # type: ignore[arg-type]
            kind = _record_type(hints[field.name])
            if field.name in group.attrs:
                values[field.name] = _plain(group.attrs[field.name])
            elif field.name in group:
                node = group[field.name]
                if kind:
                    values[field.name] = kind.from_hdf5(node)
                elif h5py.check_string_dtype(node.dtype) is not None:
                    values[field.name] = tuple(node.asstr()[...].tolist())
                else:
                    values[field.name] = node[...]
            elif field.default is dataclasses.MISSING:
                raise KeyError(f"{group.name}: no field '{field.name}' for {cls.__name__}")
        return cls(**values)


def _record_type(hint: Any) -> type[Record] | None:
    for candidate in (hint, *typing.get_args(hint)):
        if isinstance(candidate, type) and issubclass(candidate, Record):
            return candidate
    return None


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


@dataclass(frozen=True)
class Interval(Record):
    """An estimate with its 95 % confidence interval."""

    value: float  # the unit of what is estimated
    low: float
    high: float

    @classmethod
    def from_samples(cls, samples: Array, offset: float = 0.0) -> Self:
        """Student-t interval of ``offset + E[samples]``; a single sample gives an infinite one.

        It supposes that the mean of the samples is about normal. A probe's zᵀHz = Σ λ_i (v_iᵀz)² is so when many
        eigenvalues contribute. When a few dominate it is almost a multiple of χ²₁: skewed, with mean and spread low
        together, and the nominal 95 % then cover 80 to 90 % for 4 to 12 probes. Deflating those few takes the cause
        away; no correction by the samples' own skewness helps, for so few show none.
        """
        samples = np.asarray(samples, dtype=np.float64)
        mean = offset + float(samples.mean())
        if samples.size < 2:
            return cls(mean, -np.inf, np.inf)
        half = float(stats.t.ppf(0.975, samples.size - 1) * samples.std(ddof=1) / np.sqrt(samples.size))
        return cls(mean, mean - half, mean + half)


@dataclass(frozen=True)
class Eigenpairs(Record):
    """Extreme eigenpairs, ascending, with explicitly computed residuals.

    Some eigenvalue lies within ``residuals[i]`` of ``values[i]``; since a Rayleigh quotient never lies below λ_min,
    ``values[0] < 0`` by more than the noise of the product proves a negative eigenvalue.
    """

    values: Array  # (k,) eigenvalues, ascending
    residuals: Array  # (k,) ‖Hv − θv‖₂, recomputed from a fresh product
    converged: Array  # (k,) bool, residual ≤ tol · max|θ|
    tol: float  # relative tolerance asked for
    num_matvecs: int  # products spent
    vectors: Array | None = None  # (n, k) unit columns

    def without_vectors(self) -> Self:
        """The same pairs without the eigenvectors, which are as large as the model each."""
        return dataclasses.replace(self, vectors=None)

    @property
    def lambda_min(self) -> float:
        return float(self.values[0])

    @property
    def lambda_max(self) -> float:
        return float(self.values[-1])


@dataclass(frozen=True)
class TraceEstimate(Record):
    """tr H = offset + E[sample], and the same for the diagonal block of every layer from the same products.

    The offset is the share of a subspace on which H is known (deflated Hutchinson), or all of it where gradients of
    single samples tell the trace; XTrace and XNysTrace have none, their samples are those of the jackknife.
    """

    samples: Array  # (n_v,) one value a probe, the unit of an eigenvalue
    offset: float  # trace of the deflated share, known without probe error
    layer_names: tuple[str, ...] | None = None  # (L,)
    layer_samples: Array | None = None  # (n_v, L) rows sum to samples
    layer_offsets: Array | None = None  # (L,) sums to offset
    method: str = "probes"  # or gradients of samples, see exact_trace

    @property
    def value(self) -> float:
        return self.offset + float(self.samples.mean())

    @property
    def standard_error(self) -> float:
        """Standard error over probes; infinite for a single probe."""
        if self.samples.size < 2:
            return float("inf")
        return float(self.samples.std(ddof=1) / np.sqrt(self.samples.size))

    @property
    def interval(self) -> Interval:
        """Student's 95 % interval over probes."""
        return Interval.from_samples(self.samples, self.offset)

    @property
    def relative_width(self) -> float:
        """Half-width of the interval over |tr H|; infinite for a single probe, 0 where there is no error."""
        half = self.interval.high - self.value
        return 0.0 if half == 0 else half / abs(self.value) if self.value else float("inf")

    @property
    def by_layer(self) -> tuple[tuple[str, ...], Array, Array]:
        """Names ``(L,)``, samples ``(n_v, L)`` and offsets ``(L,)`` of the layers; L = 0 where there are none."""
        if self.layer_names is None or self.layer_samples is None or self.layer_offsets is None:
            return (), np.zeros((len(self.samples), 0)), np.zeros(0)
        return self.layer_names, self.layer_samples, self.layer_offsets

    @property
    def layer_values(self) -> Array:
        """``(L,)`` estimates of the layers' traces; they sum to ``value``."""
        _, samples, offsets = self.by_layer
        return np.asarray(offsets + samples.mean(axis=0))

    @property
    def layer_standard_errors(self) -> Array:
        """``(L,)`` standard errors over probes; infinite for a single probe."""
        _, samples, _ = self.by_layer
        count, layers = samples.shape
        if count < 2:
            return np.full(layers, np.inf)
        return np.asarray(samples.std(axis=0, ddof=1) / np.sqrt(count))


@dataclass(frozen=True)
class Counts(Record):
    """How many eigenvalues lie on one side of each of several points, deflated ones among them."""

    points: Array  # (g,) the unit of an eigenvalue
    lower: Array  # (g,) mean over probes of the lower Gauss-Radau bound of a probe's count, in eigenvalues
    upper: Array  # (g,) of the upper one: the probes' error is not in these two
    low: Array  # (g,) lower end of the interval that holds the probes' error too, at 1 %
    high: Array  # (g,) upper end of it, at 1 %


@dataclass(frozen=True)
class SpectralDensity(Record):
    """Stochastic Lanczos quadrature, raw: what every density curve and every mass is computed from.

    The spectral measure Σ_i δ(λ − λ_i) is estimated by Σ_d δ(λ − θ_d) over the deflated eigenvalues plus, averaged
    over probes l, ``probe_mass[l]`` · Σ_k weights[l, k] · δ(λ − nodes[l, k]).
    """

    nodes: Array  # (n_v, m) Ritz values, ascending in each row; NaN beyond the row's num_steps
    weights: Array  # (n_v, m) squared first components, each row sums to 1; 0 beyond num_steps
    alpha: Array  # (n_v, m) diagonal of the tridiagonal matrix; NaN beyond num_steps
    beta: Array  # (n_v, m) off-diagonal; entry j couples steps j and j+1, the last is the residual norm, 0 if exhausted
    num_steps: Array  # (n_v,) steps taken before breakdown or the limit
    probe_mass: Array  # (n_v,) ‖Pz‖², in eigenvalues; its mean estimates n − deflated
    deflated: Array  # (d,) eigenvalues projected out and known on their own
    dimension: int  # n, number of parameters
    num_matvecs: int  # products spent
    reorthogonalized: bool | None = None  # False: the two-vector form, whose nodes repeat; None: not known

    def integrate(self, function: Any) -> tuple[Array, float]:
        """tr f(H), as one sample a probe ``(n_v,)`` and the exact share of the deflated eigenvalues."""
        values = np.where(self.weights > 0, function(np.nan_to_num(self.nodes)) * self.weights, 0.0)
        samples = self.probe_mass * values.sum(axis=1)
        return samples, float(np.sum(function(self.deflated))) if self.deflated.size else 0.0

    def negative_mass(self, floor: float = 0.0) -> Interval:
        """M₋ = Σ_{λ<0} |λ| with its interval over probes (:meth:`mass`).

        Args:
            floor: noise floor of the products, the unit of an eigenvalue. Nodes within it have no known sign: the
                interval is widened by their mass, down by what they put below 0 and up by what they put above.
        """
        below = self.mass(lambda x: np.maximum(-x, 0.0))
        if not floor:
            return below
        down, up = (self._within(sign, floor) for sign in (-1, 1))
        return Interval(below.value, max(below.low - down, 0.0), below.high + up)

    def _within(self, sign: int, floor: float) -> float:
        """Mass of the nodes of one sign whose sign is within the noise."""
        samples, known = self.integrate(lambda x: np.where(np.abs(x) <= floor, np.maximum(sign * x, 0.0), 0.0))
        return float(samples.mean()) + known

    def positive_mass(self) -> Interval:
        """M₊ = Σ_{λ>0} λ with its interval over probes (:meth:`mass`)."""
        return self.mass(lambda x: np.maximum(x, 0.0))

    def mass(self, function: Any) -> Interval:
        """tr f(H) for an f ≥ 0, with its interval over probes.

        The half-width is Student's, and at least that of the variance a probe is known to have, 2‖f(H)‖_F² less what
        the eigenvectors' localisation spares: so few probes that agree by chance, at which an adaptive number of them
        would stop, do not pass for precise ones. Cut from below at the share of the deflated eigenvalues.
        """
        samples, offset = self.integrate(function)
        student = Interval.from_samples(samples, offset)
        squares, _ = self.integrate(lambda x: function(x) ** 2)
        half = max(
            student.high - student.value, float(stats.norm.ppf(0.975) * np.sqrt(2 * squares.mean() / samples.size))
        )
        return Interval(student.value, max(student.value - half, offset), student.value + half)

    def negative_fraction_of_mass(self, floor: float = 0.0) -> Interval:
        """ν = M₋ / (M₊ + M₋) ∈ [0, 1], scale-free; interval by the leave-one-probe-out jackknife. NaN for H = 0.

        Args:
            floor: as for :meth:`negative_mass`.
        """
        negative, negative_offset = self.integrate(lambda x: np.maximum(-x, 0.0))
        absolute, absolute_offset = self.integrate(np.abs)
        count = negative.size
        total = absolute.mean() + absolute_offset
        if total == 0.0:
            return Interval(np.nan, np.nan, np.nan)
        value = float((negative.mean() + negative_offset) / total)
        if count < 2:
            return Interval(value, 0.0, 1.0)
        left_out = ((negative.sum() - negative) / (count - 1) + negative_offset) / (
            (absolute.sum() - absolute) / (count - 1) + absolute_offset
        )
        error = np.sqrt((count - 1) / count * np.sum((left_out - left_out.mean()) ** 2))
        half = float(stats.t.ppf(0.975, count - 1) * error)
        down, up = (self._within(sign, floor) / total if floor else 0.0 for sign in (-1, 1))
        return Interval(value, max(0.0, value - half - down), min(1.0, value + half + up))

    def relative_width(self, floor: float = 0.0) -> float:
        """Half-width of the interval of M₋ over probes, over M₋; infinite below two probes.

        0 where more probes would teach nothing: no node of any probe lies below −``floor``.
        """
        negative = self.negative_mass()
        if negative.value <= self._within(-1, floor):
            return 0.0
        half = negative.high - negative.value
        return half / negative.value if 0 < half < np.inf else half

    def fraction_below(self, threshold: float) -> Interval:
        """The share of the n eigenvalues that lie below −τ, enclosed: too few steps widen it but do not mislead it.

        For a probe, let F = Σ_{λ_i < −τ} (v_iᵀu)² with u = Pz. T bordered by its last β and a diagonal entry that makes
        −τ an eigenvalue is the Gauss-Radau rule of m + 1 nodes, exact to degree 2m, so that for the normalised weights
        (Chebyshev, Markov, Stieltjes)

            L = ‖u‖² Σ_{θ < −τ} ω  ≤  F  ≤  L + ‖u‖² ω_{−τ} = U.

        An exhausted row has L = U. Nodes that rounding could have put on either side of −τ count for U alone. F is the
        quadratic form of a projector, so its distribution is known: over K normal probes K · mean F is χ² with K·N
        degrees of freedom, N being the count sought; signs spread a little less. The interval holds every N for which
        mean L is not improbably large nor mean U improbably small, at 1 % each, which leaves room for what holds only
        nearly. Deflated eigenvalues are counted one by one, at the values they are known by. It is valid for a single
        probe, and where N is small, for which Student's interval would be too short.

        Args:
            threshold: τ ≥ 0, the unit of an eigenvalue; at least the noise of a product times the largest |λ|.

        Returns:
            The interval; its value is the middle of mean L and mean U and says no more than that.

        Raises:
            LandscapeError: τ < 0.

        Source: Golub and Meurant 2010, chapter 6; Szegő 1939, section 3.41.
        """
        if not threshold >= 0:
            raise LandscapeError(f"threshold = {threshold:g}: eigenvalues are counted below −threshold, give one ≥ 0")
        below, _ = self.cumulative(np.array([-threshold]))
        value = (below.lower[0] + below.upper[0]) / 2
        return Interval(*(float(count / self.dimension) for count in (value, below.low[0], below.high[0])))

    def cumulative(self, points: Array) -> tuple[Counts, Counts]:
        """How many eigenvalues lie below each point, and how many above, enclosed as by :meth:`fraction_below`.

        The rule whose one node is pinned at x gives for a probe L ≤ F(x) ≤ U; the mass above x is then between
        ‖u‖² − U and ‖u‖² − L. Each side has an interval of its own: that of the few eigenvalues above a large x would
        drown in the probes' error of the many below it.

        Args:
            points: (g,) of both signs, the unit of an eigenvalue.

        Returns:
            The counts below the points, and those above them.

        Cost: an eigenvalue problem of the size of the tridiagonal matrix for every probe and point, about 1 ms.
        """
        points = np.asarray(points, dtype=np.float64)
        shares = np.stack([
            _radau_shares(alpha[:steps], beta[:steps], points)
            for alpha, beta, steps in zip(self.alpha, self.beta, self.num_steps, strict=True)
        ])  # fmt: skip
        mass = self.probe_mass[:, None, None]
        below = self._counts(points, mass * shares[..., 0], np.sum(self.deflated < points[:, None], axis=1))
        above = self._counts(points, mass * shares[..., 1], np.sum(self.deflated > points[:, None], axis=1))
        return below, above

    def _counts(self, points: Array, bounds: Array, known: Array) -> Counts:
        """From the bounds (n_v, g, 2) of the probes and the number (g,) of deflated eigenvalues."""
        total, count = bounds.sum(axis=0), len(bounds)
        lower, upper = total[:, 0] / count, total[:, 1] / count
        # The quantiles of very few degrees of freedom are inaccurate, and those of none are not known to scipy.
        with np.errstate(divide="ignore", invalid="ignore"):
            fewest = np.fmin(np.nan_to_num(special.chdtriv(0.99, total[:, 0]) / count), lower)
            most = np.fmax(np.nan_to_num(special.chdtriv(0.01, total[:, 1]) / count), upper)
        rest = self.dimension - self.deflated.size
        return Counts(points, *(known + np.clip(value, 0, rest) for value in (lower, upper, fewest, most)))

    def extended(self, other: SpectralDensity) -> SpectralDensity:
        """The probes of both, those of ``other`` last; the products of both are counted.

        Raises:
            LandscapeError: the two are not of one operator with one deflation.
        """
        if self.dimension != other.dimension or not np.array_equal(self.deflated, other.deflated):
            raise LandscapeError(
                f"densities of dimension {self.dimension} and {other.dimension} with {self.deflated.size} and "
                f"{other.deflated.size} deflated eigenvalues do not join: deflate the same pairs for all probes"
            )
        width = max(self.nodes.shape[1], other.nodes.shape[1])

        def joined(one: Array, two: Array, fill: float) -> Array:
            pads = [((0, 0), (0, width - rows.shape[1])) for rows in (one, two)]
            return np.concatenate(
                [np.pad(rows, pad, constant_values=fill) for rows, pad in zip((one, two), pads, strict=True)]
            )

        return SpectralDensity(
            nodes=joined(self.nodes, other.nodes, np.nan),
            weights=joined(self.weights, other.weights, 0.0),
            alpha=joined(self.alpha, other.alpha, np.nan),
            beta=joined(self.beta, other.beta, 0.0),
            num_steps=np.concatenate([self.num_steps, other.num_steps]),
            probe_mass=np.concatenate([self.probe_mass, other.probe_mass]),
            deflated=self.deflated,
            dimension=self.dimension,
            num_matvecs=self.num_matvecs + other.num_matvecs,
            reorthogonalized=self.reorthogonalized and other.reorthogonalized,
        )

    def trace(self) -> TraceEstimate:
        """The trace from the same products: zᵀPHPz = ‖Pz‖² α₁ for every probe."""
        return TraceEstimate(samples=self.probe_mass * self.alpha[:, 0], offset=float(self.deflated.sum()))


# Relative to the largest |θ|: nodes this close to a threshold are not told apart from it. The entry that pins a node is
# held below the inverse, so that the other nodes keep the same accuracy when −τ is all but a Ritz value.
_NODE_ROUNDING = 1e-7


def _radau_shares(alpha: Array, beta: Array, points: Array) -> Array:
    """Bounds of the measures of (−∞, x) and (x, ∞) from m rows of the Jacobi matrix and the β that follows.

    Returns:
        (g, 2, 2) for every x: lower and upper bound in rows, below and above in columns. Each is a sum of weights: as
        one minus the other side, that of a few eigenvalues would have no digit left.
    """
    nodes, vectors = eigh_tridiagonal(alpha, beta[:-1], lapack_driver="stev")
    return np.array([_radau_share(alpha, beta, nodes, vectors, float(x)) for x in points])


def _radau_share(alpha: Array, beta: Array, nodes: Array, vectors: Array, x: float) -> list[list[float]]:
    scale = float(np.abs(nodes).max())
    margin = _NODE_ROUNDING * scale
    below, above = int(np.sum(nodes < x)), int(np.sum(nodes > x))
    if beta[-1] > 0:
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            shift = np.nansum((beta[-1] * vectors[-1]) ** 2 / (nodes - x))
        limit = (scale + abs(x)) / _NODE_ROUNDING
        pinned = x + float(np.clip(np.nan_to_num(shift, nan=limit), -limit, limit))
        nodes, vectors = eigh_tridiagonal(np.append(alpha, pinned), beta, lapack_driver="stev")
    weights, order = vectors[0] ** 2, np.arange(nodes.size)
    # By interlacing, as many nodes lie below x, and above it, as Ritz values of T do; the one between is x itself.
    pinned_node = (order == below) & (beta[-1] > 0)
    sides = ((order < below, x - nodes), (order >= nodes.size - above, nodes - x))
    lower = [float(weights[beyond & (distance > margin)].sum()) for beyond, distance in sides]
    upper = [float(weights[beyond | pinned_node | (distance > -margin)].sum()) for beyond, distance in sides]
    return [lower, upper]


@dataclass(frozen=True)
class Descent(Record):
    """What a walk along one straight line through θ reaches: the claim of an escape direction, put to the test."""

    steps: Array  # (s,) distances along the unit vector, ascending, both signs, 0 among them
    losses: Array  # (s,) L(θ + step · v), nats

    @property
    def best_step(self) -> float:
        return float(self.steps[int(np.nanargmin(self.losses))])

    @property
    def decrease(self) -> float:
        """L(θ) minus the lowest loss seen on the line; 0 if none was lower."""
        return float(self.losses[int(np.argmin(np.abs(self.steps)))] - np.nanmin(self.losses))


@dataclass(frozen=True)
class SplitHalf(Record):
    """Is a direction that was found on half of the samples negative on the others too?"""

    found: float  # vᵀH_A v on the half A on which v was sought, the unit of an eigenvalue
    confirmed: float  # vᵀH_B v on the other half, which v has not seen
    standard_error: float  # of `confirmed`, over the samples of B; NaN for a single sample
    num_samples: int  # in B
    p_value: float  # one-sided t-test of vᵀH_B v ≥ 0; NaN where B has fewer than two samples


@dataclass(frozen=True)
class SamplingErrors(Record):
    """Standard errors that come from the samples themselves: the jackknife over blocks of samples.

    What another draw of as many images would change, beside which the errors of the algorithm (residuals, probes) may
    be small. Those of trace and negative mass are NaN where no probe was kept for them, and hold the probes' own noise.
    """

    num_blocks: int  # blocks of samples left out in turn; a block is one sample when there are few
    lambda_max: float  # standard errors, the unit of an eigenvalue
    lambda_min: float
    trace: float
    negative_mass: float


@dataclass(frozen=True)
class Certificates(Record):
    """What was done about one part to make sure that its λ_min is what it seems; every field is one check."""

    threshold: float  # τ > 0: the enclosure counts eigenvalues below −τ
    fraction_below: Interval  # share of eigenvalues below −τ: Gauss-Radau enclosure, widened by the probes' interval
    second_difference: float  # [L(θ+εv) − 2L(θ) + L(θ−εv)]/ε² along v_min in float64: no derivative is involved
    second_difference_error: float  # disagreement of neighbouring ε and rounding; inf if the loss is not finite there
    descent: Descent  # losses along ±v_min
    gauss_newton_curvature: float  # vᵀGv ≥ 0 along v_min; vᵀ(H − G)v = λ_min − this
    gauss_newton_trace: float  # tr G by probes of its own; tr(H − G) = tr H − this
    gauss_newton_trace_standard_error: float
    split_half: SplitHalf | None = None  # None where a part has fewer than two samples
    sampling: SamplingErrors | None = None  # likewise; both None under batch statistics, which couple the samples


@dataclass(frozen=True)
class SaddleReport(Record):
    """What point of the landscape a part sits at, as numbers and one word."""

    loss: float  # L, nats
    gradient_norm: float  # ‖∇L‖₂
    descent_share: float  # largest share of L that a step along −∇L within the radius was seen to remove; NaN if L ≤ 0
    lambda_max: float  # largest Ritz value
    lambda_max_residual: float  # ‖Hv − θv‖ of it
    lambda_min: float  # smallest Ritz value
    lambda_min_residual: float  # ‖Hv − θv‖ of it
    noise_floor: float  # absolute; below it the sign of an eigenvalue means nothing
    index_lower_bound: int  # certified number of negative eigenvalues among the pairs computed
    negative_mass: Interval  # M₋
    negative_fraction: Interval  # ν = M₋ / (M₊ + M₋)
    trace: float
    trace_standard_error: float
    gradient_alignment: float  # |cos(∇L, v_min)|; NaN without eigenvectors
    sam_threshold: float  # 2‖∇L‖/|λ_min|, the radius above which a SAM step amplifies v_min; inf if λ_min ≥ 0
    verdict: str  # minimum | saddle | flat | not stationary | undecided
    reason: str  # one sentence
    certificates: Certificates | None = None  # the further checks; None where they were not asked for

    @property
    def curvature_ratio(self) -> float:
        """|λ_min/λ_max|; NaN when λ_max does not rise above the noise floor."""
        if abs(self.lambda_max) <= self.noise_floor:
            return float("nan")
        return abs(self.lambda_min / self.lambda_max)

    @property
    def functional_share(self) -> float:
        """|vᵀ(H − G)v| / (|vᵀGv| + |vᵀ(H − G)v|) along v_min: G ⪰ 0, so all negative curvature is that of H − G."""
        if self.certificates is None:
            return float("nan")
        gauss_newton = self.certificates.gauss_newton_curvature
        functional = abs(self.lambda_min - gauss_newton)
        total = abs(gauss_newton) + functional
        return functional / total if total else float("nan")


@dataclass(frozen=True)
class PartSpectrum(Record):
    """Everything measured on one part of a problem: the unit that is stored, resumed and drawn."""

    part: str  # path below /spectra, for example "class/3" or "class/3/layer/conv1"
    label: str  # what a figure calls it, for example "truck"
    num_samples: int
    num_parameters: int
    pairs: Eigenpairs
    density: SpectralDensity
    saddle: SaddleReport
    seconds: float  # wall time
    accuracy: float | None = None  # share of this part's samples that are classified correctly
    trace: TraceEstimate | None = None  # of the whole part and of every layer; None in files of landscape 0.1
    engine: str | None = None  # how products were made: traced, or double-backward
    untraced_reason: str | None = None  # why products, or those of some chunks, are double-backward; None if none is


@dataclass(frozen=True)
class BatchSpectra(Record):
    """Both ends of the Hessian's spectrum on mini-batches B, one row a batch, of L_B(θ) + ½ · weight_decay · ‖θ‖².

    The penalty adds ``weight_decay`` to every eigenvalue and turns no eigenvector, since its Hessian is a multiple of
    the identity on the parameters that it acts on.
    """

    values: Array  # (N, p) eigenvalues, ascending in each row: the k smallest, then the k largest; p = min(2k, n)
    residuals: Array  # (N, p) ‖Hv − θv‖₂ of each, from a fresh product
    converged: Array  # (N, p) bool, residual ≤ tol · max|θ| of the loss without penalty
    losses: Array  # (N,) L_B + ½ · weight_decay · ‖θ‖², nats
    gradient_norms: Array  # (N,) ‖∇‖₂ of the same
    noise_floors: Array  # (N,) absolute; below it the sign of an eigenvalue means nothing
    batch_size: int  # samples a batch
    num_samples: int  # samples that the batches were drawn from
    weight_decay: float  # coefficient of the penalty, the unit of an eigenvalue
    tol: float  # relative tolerance asked of the residuals
    max_matvecs: int  # products a batch, at most
    num_matvecs: int  # products spent, all batches
    seed: int  # of the draw and of the start vectors

    @property
    def lambda_min(self) -> Array:
        """(N,) smallest eigenvalue of each batch."""
        return np.asarray(self.values[:, 0])

    @property
    def lambda_max(self) -> Array:
        """(N,) largest eigenvalue of each batch."""
        return np.asarray(self.values[:, -1])

    @property
    def num_unconverged(self) -> int:
        """Batches with a pair that missed the tolerance before the products were spent."""
        return int(np.sum(~self.converged.all(axis=1)))

    @property
    def share_negative(self) -> float:
        """Share of the batches with a certified negative eigenvalue, λ_min < −noise floor."""
        return float(np.mean(self.lambda_min < -self.noise_floors))

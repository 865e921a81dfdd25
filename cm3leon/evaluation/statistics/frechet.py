"""Fréchet distance of two Gaussians (the F in FID) without a matrix square root; moments.

    |mu_a - mu_b|^2 + Tr(S_a) + Tr(S_b) - 2 Tr((S_a S_b)^(1/2))

The last trace needs no square root of a matrix. With any factors S = H H^T it is the sum of the
singular values of H_a^T H_b: real, never negative, and of the size of the rank. Where S_a has a
Cholesky factor L it is also the sum of the square roots of the eigenvalues of the symmetric
L^T S_b L, which is three times faster. The eigenvalue form is used unless its rounding could be
seen in the result; then (deficient ranks, nearly dead channels) the singular values are taken.
Nothing is ever added to a diagonal, and everything is float64.

Shapes: N features (one row a picture), D dimension, R rank.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import numpy as np
from scipy.linalg import eigh, eigvalsh, lapack, svdvals

from cm3leon.errors import UserError

EPS = np.finfo(np.float64).eps
ASYMMETRY = 1e-6  # largest |S - S^T| against the largest |S|: float32 statistics files pass
INDEFINITE = 1e-5  # largest part of S that S = H H^T may leave, against its largest variance
RANGE = 1e-10  # eigenvalues below this share of the largest are rounding of zero
ROUNDING = 1e-9  # share of Tr(S_a) + Tr(S_b) that the eigenvalue form may lose to rounding


def frechet_distance(mu_a, sigma_a, mu_b, sigma_b, check: bool = True) -> float:
    """Squared Fréchet distance of N(mu_a, sigma_a) and N(mu_b, sigma_b): mu [D], sigma [D, D].

    Exactly symmetric: swapping a and b gives the same bits. The true value is never negative, so a
    result below zero (rounding, around -1e-12 of the traces) is returned as 0.0.
    Raises UserError for shapes that do not fit, NaN or infinity, and a sigma that is not symmetric
    or not positive semi-definite. `check=False` tests the last only (for moments made here).
    """
    mu_a, mu_b = (np.asarray(mu, np.float64) for mu in (mu_a, mu_b))
    sigma_a, sigma_b = (np.asarray(sigma, np.float64) for sigma in (sigma_a, sigma_b))
    if check:
        sigma_a = _checked("a", mu_a, sigma_a)
        sigma_b = _checked("b", mu_b, sigma_b)
        if mu_a.shape != mu_b.shape:
            raise UserError(
                f"both sides must have one dimension, got {len(mu_a)} and {len(mu_b)}; "
                "use features of the same network"
            )
    spread = float(np.trace(sigma_a) + np.trace(sigma_b))
    pair = [("sigma_a", sigma_a), ("sigma_b", sigma_b)]
    if _comes_later(sigma_a, sigma_b, float(np.trace(sigma_a)), float(np.trace(sigma_b))):
        pair.reverse()
    (name, sigma), (other_name, other) = pair
    overlap = _overlap_by_eigenvalues(sigma, other, spread)
    if overlap is None:
        overlap = _nuclear_norm(_factor(sigma, name), _factor(other, other_name))
    return _assemble(mu_a - mu_b, spread, overlap)


def frechet_from_features(a, b) -> float:
    """Squared Fréchet distance of the Gaussians fitted to features a [N, D], b [M, D]; N, M >= 2.

    Unbiased covariances (divisor N - 1), as pytorch-fid. With N or M <= D the covariance is never
    formed on that side: the nuclear norm of the centred cross-Gram is exact at any rank.
    Raises UserError for N < 2, dimensions that do not fit, NaN or infinity.
    """
    a, b = check_features(a, "features a"), check_features(b, "features b")
    if a.shape[1] != b.shape[1]:
        raise UserError(
            f"both sides must have one dimension, got {a.shape[1]} and {b.shape[1]}; "
            "use features of the same network"
        )
    for name, features in (("a", a), ("b", b)):
        if len(features) < 2:
            raise UserError(f"features {name} must have at least 2 rows, got {len(features)}")
    if min(len(a), len(b)) > a.shape[1]:
        return frechet_distance(*moments(a), *moments(b), check=False)
    (mu_a, factor_a), (mu_b, factor_b) = _feature_factor(a), _feature_factor(b)
    trace_a, trace_b = float((factor_a**2).sum()), float((factor_b**2).sum())
    if _comes_later(factor_a, factor_b, trace_a, trace_b):
        factor_a, factor_b = factor_b, factor_a
    return _assemble(mu_a - mu_b, trace_a + trace_b, _nuclear_norm(factor_a, factor_b))


def influence(mu_a, sigma_a, mu_b, sigma_b) -> Callable[[np.ndarray], np.ndarray]:
    """How much each picture of side b moves the squared distance: features [N, D] -> float64 [N].

    The first-order (Gâteaux) derivative of the distance in the direction of one more row x, up to a
    constant: with c = x - mu_b and sigma_a = L L^T,

        2 c.(mu_b - mu_a) + c.c - c^T T c,    T = L (L^T sigma_b L)^(-1/2) L^T,

    T being the optimal map from b to a (the potential of Gaussian transport; Peyré and Cuturi 2019,
    remark 2.31). On singular sides the root is inverted on its range alone, where all rows lie.
    Its variance over the rows, divided by N, is the infinitesimal jackknife of the distance.
    """
    mu_a, mu_b = np.asarray(mu_a, np.float64), np.asarray(mu_b, np.float64)
    values, vectors = eigh(np.asarray(sigma_a, np.float64), check_finite=False)
    kept = values > RANGE * max(float(values[-1]), 0.0)
    root = vectors[:, kept] * np.sqrt(values[kept])
    inner = root.T @ np.asarray(sigma_b, np.float64) @ root
    values, vectors = eigh((inner + inner.T) / 2, check_finite=False)
    kept = values > RANGE * max(float(values[-1]), 0.0) if len(values) else np.zeros(0, bool)
    ways = (root @ vectors[:, kept]) * values[kept] ** -0.25  # T = ways ways^T
    shift = 2 * (mu_b - mu_a)

    def of(features) -> np.ndarray:
        centred = check_features(features) - mu_b
        return centred @ shift + (centred**2).sum(1) - ((centred @ ways) ** 2).sum(1)

    return of


class Reference:
    """Features [N, D] that many others are compared with: their moments and factor taken once."""

    def __init__(self, features):
        self.features = check_features(features, "reference features")
        if len(self.features) < 2:
            raise UserError(f"a reference needs at least 2 rows, got {len(self.features)}")
        self.dim = self.features.shape[1]

    @cached_property
    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean [D] and covariance [D, D]."""
        return moments(self.features)

    @cached_property
    def factor(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean [D] and H [D, R] with H H^T the covariance."""
        return _feature_factor(self.features)

    def distance(self, features) -> float:
        """`frechet_from_features` of the reference and other features [M, D], to rounding."""
        if min(len(features), len(self.features)) > self.dim:
            return frechet_distance(*self.moments, *moments(features), check=False)
        features = check_features(features)
        if len(features) < 2 or features.shape[1] != self.dim:
            raise UserError(
                f"features must be at least two rows of dimension {self.dim}, "
                f"got {list(features.shape)}"
            )
        (mu_a, ours), (mu_b, theirs) = self.factor, _feature_factor(features)
        spread = float((ours**2).sum() + (theirs**2).sum())
        return _assemble(mu_a - mu_b, spread, _nuclear_norm(ours, theirs))


def check_features(features, name: str = "features") -> np.ndarray:
    """Features as float64 [N, D]; UserError names the first row that is not finite."""
    features = np.asarray(features)
    if features.ndim != 2 or features.shape[1] == 0 or features.dtype.kind not in "fiub":
        raise UserError(
            f"{name} must be real numbers [N, D], got {features.dtype} {list(features.shape)}"
        )
    features = features.astype(np.float64, copy=False)
    if not np.isfinite(features).all():
        row = int(np.flatnonzero(~np.isfinite(features).all(axis=1))[0])
        raise UserError(f"{name} must be finite, row {row} has NaN or infinity; check that picture")
    return features


class Moments:
    """Mean and covariance of features seen once, in float64 and O(D^2) memory.

    Batches are joined by Chan's update, so their size and order change the result by rounding only.
    """

    def __init__(self, dim: int):
        if dim < 1:
            raise UserError(f"Moments.dim must be at least 1, got {dim}")
        self.n = 0
        self.mean = np.zeros(dim)
        self.scatter = np.zeros((dim, dim))  # sum of (x - mean)(x - mean)^T

    def add(self, features) -> None:
        """Count features [B, D] of any float type; UserError (nothing counted) if one is bad."""
        features = check_features(features)
        if features.shape[1] != len(self.mean):
            raise UserError(
                f"features must have dimension {len(self.mean)}, got {features.shape[1]}"
            )
        step = max(256, len(self.mean))  # keeps the centred copy of a huge batch within O(D^2)
        for start in range(0, len(features), step):
            part = features[start : start + step]
            mean = part.mean(axis=0)
            centred = part - mean
            self._join(len(part), mean, centred.T @ centred)

    def merge(self, other: Moments) -> None:
        """Count everything that `other` has seen (another process, another shard)."""
        if other.mean.shape != self.mean.shape:
            raise UserError(
                f"cannot merge moments of dimension {len(other.mean)} into {len(self.mean)}"
            )
        self._join(other.n, other.mean, other.scatter)

    def finish(self) -> tuple[np.ndarray, np.ndarray]:
        """(mu [D], sigma [D, D]) with divisor n - 1; UserError for n < 2."""
        if self.n < 2:
            raise UserError(f"a covariance needs at least 2 features, got {self.n}; add pictures")
        return self.mean.copy(), self.scatter / (self.n - 1)

    def _join(self, n: int, mean: np.ndarray, scatter: np.ndarray) -> None:
        if n == 0:
            return
        total = self.n + n
        delta = mean - self.mean
        self.scatter += scatter
        self.scatter += np.outer(delta * (self.n * n / total), delta)
        self.mean = self.mean + delta * (n / total)
        self.n = total


def moments(features) -> tuple[np.ndarray, np.ndarray]:
    """(mu [D], sigma [D, D]) of features [N, D], N >= 2, with divisor N - 1."""
    features = check_features(features)
    seen = Moments(features.shape[1])
    seen.add(features)
    return seen.finish()


def _checked(side: str, mu: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    if mu.ndim != 1 or sigma.shape != (len(mu), len(mu)) or len(mu) == 0:
        raise UserError(
            f"mu_{side} [D] and sigma_{side} [D, D] must fit, "
            f"got {list(mu.shape)} and {list(sigma.shape)}"
        )
    if not (np.isfinite(mu).all() and np.isfinite(sigma).all()):
        raise UserError(f"mu_{side} and sigma_{side} must be finite; find the NaN in the features")
    asymmetry = float(np.abs(sigma - sigma.T).max())
    if asymmetry == 0:
        return sigma
    if asymmetry > ASYMMETRY * float(np.abs(sigma).max()):
        raise UserError(f"sigma_{side} must be symmetric, |S - S^T| reaches {asymmetry:.3g}")
    return (sigma + sigma.T) / 2


def _comes_later(x: np.ndarray, y: np.ndarray, trace_x: float, trace_y: float) -> bool:
    """An order of two matrices that does not depend on which is named first."""
    if trace_x != trace_y or x.shape != y.shape:
        return (trace_x, x.shape) > (trace_y, y.shape)
    different = np.flatnonzero(x != y)
    return len(different) > 0 and bool(x.flat[different[0]] > y.flat[different[0]])


def _assemble(shift: np.ndarray, spread: float, overlap: float) -> float:
    distance = float(shift @ shift) + spread - 2 * overlap
    assert distance >= -1e-6 * (spread + float(shift @ shift)), (distance, spread, overlap)
    return max(distance, 0.0)


def _overlap_by_eigenvalues(sigma, other, spread: float) -> float | None:
    """Tr((sigma other)^(1/2)) from eig(L^T other L), L L^T = sigma; None where rounding would show.

    An eigenvalue is off by up to about eps times the largest, so its square root by the smaller of
    sqrt(noise) and noise / (2 sqrt(eigenvalue)).
    """
    lower, info = lapack.dpotrf(sigma.T, lower=1, clean=0)  # .T: the same matrix in Fortran order
    if info != 0:
        return None
    congruent, info = lapack.dsygst(other.T, lower, itype=2, lower=1)
    assert info == 0, info
    values = eigvalsh(congruent, lower=True, overwrite_a=True, check_finite=False)
    noise = 4 * EPS * float(values[-1])
    if values[0] < -noise:
        return None
    roots = np.sqrt(np.maximum(values, 0.0))
    small = np.sqrt(noise)
    lost = float(np.minimum(small, noise / (2 * np.maximum(roots, small / 2))).sum())
    return float(roots.sum()) if lost <= ROUNDING * spread else None


def _factor(sigma: np.ndarray, name: str) -> np.ndarray:
    """H [D, R] with sigma = H H^T by pivoted Cholesky (dpstrf), R the numerical rank."""
    if float(np.diagonal(sigma).min()) < 0:
        raise UserError(f"{name} must be positive semi-definite, it has a negative variance")
    packed, pivots, rank, info = lapack.dpstrf(sigma.T, lower=1)
    assert info >= 0, info
    if not np.diagonal(sigma).any():
        rank = 0
    factor = np.empty((len(sigma), rank))
    factor[pivots - 1] = np.tril(packed)[:, :rank]
    if rank < len(sigma):
        left = float(np.abs(sigma - factor @ factor.T).max())
        if left > INDEFINITE * max(float(np.diagonal(sigma).max()), 0.0):
            raise UserError(
                f"{name} must be positive semi-definite, {left:.3g} of it lies outside any factor; "
                "compute it again from features in float64"
            )
    return factor


def _feature_factor(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean [D] and H [D, R] with H H^T the covariance: the centred rows themselves when N <= D."""
    if len(features) > features.shape[1]:
        mu, sigma = moments(features)
        return mu, _factor(sigma, "covariance of the features")
    mu = features.mean(axis=0)
    return mu, (features - mu).T / np.sqrt(len(features) - 1)


def _nuclear_norm(factor: np.ndarray, other: np.ndarray) -> float:
    """Sum of the singular values of H_a^T H_b."""
    product = factor.T @ other
    if product.size == 0:
        return 0.0
    return float(svdvals(product, overwrite_a=True, check_finite=False).sum())

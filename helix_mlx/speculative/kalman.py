"""A Kalman filter that explains measured deviations by a sum of causes of known uncertainty.

A Kalman filter (R. E. Kalman, 1960), told of one number at a time: what cannot be explained by a cause that is well
known is put down to those that are not.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Hashable, Sequence

FARTHEST = 2.5
"""Outlier limit in standard deviations; measurements beyond it are clipped to it."""


class KalmanFilter:
    """The causes' deviations, all 0 at first.

    Args:
        noise: the standard deviation of a single measurement around the sum of its causes.
    """

    def __init__(self, noise: float) -> None:
        self._noise = noise**2
        self._at: dict[Hashable, int] = {}
        self._means: list[float] = []
        self._covariance: list[list[float]] = []

    def __contains__(self, cause: Hashable) -> bool:
        """Whether this cause is tracked."""
        return cause in self._at

    def add_variance(self, cause: Hashable, spread: float) -> None:
        """A cause may have moved by so much, as a standard deviation; one that is new lies so far around 0."""
        if cause not in self._at:
            self._at[cause] = len(self._means)
            self._means.append(0.0)
            for row in self._covariance:
                row.append(0.0)
            self._covariance.append([0.0] * len(self._means))
        at = self._at[cause]
        self._covariance[at][at] += spread**2

    def expected(self, causes: Sequence[Hashable]) -> float:
        """The sum of these causes; unknown ones add nothing."""
        return sum(self._means[self._at[cause]] for cause in causes if cause in self._at)

    def note(self, causes: Sequence[Hashable], measured: float) -> None:
        """The sum of these causes was measured, which have to be there."""
        places = [self._at[cause] for cause in causes]
        with_sum = [sum(row[place] for place in places) for row in self._covariance]
        variance = sum(with_sum[place] for place in places) + self._noise
        bound = FARTHEST * math.sqrt(variance)
        off = max(-bound, min(bound, measured - sum(self._means[place] for place in places)))
        for at, row in enumerate(self._covariance):
            gain = with_sum[at] / variance
            self._means[at] += gain * off
            self._covariance[at] = [known - gain * other for known, other in zip(row, with_sum, strict=True)]

    def copied(self, spread: float) -> KalmanFilter:
        """The same for other circumstances, where each cause may lie elsewhere by so much."""
        other = copy.deepcopy(self)
        for cause in other._at:
            other.add_variance(cause, spread)
        return other

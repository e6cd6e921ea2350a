"""What stands for a prediction that is not evaluated: a polynomial through the last guided steps.

Along a trajectory the predictions change smoothly, in the variable

    u_t = log(1 + sigma_t / alpha_t),           alpha_t = sqrt(abar_t), sigma_t = sqrt(1 - abar_t)

which is minus the half log-SNR lambda_t = log(alpha_t / sigma_t) in the noisy steps and goes to 0, where lambda_t goes
to infinity, in the last ones: extrapolation in lambda_t itself breaks down there (`families.noise` has the schedulers).

The value at u is sum_j y_j prod_(k != j) (u - u_k) / (u_j - u_k) over the last d + 1 guided steps (Lagrange): exact for
polynomials of degree d in u. It is taken of the model's own output, noise or v; where the sampler adds noise, see
`guidance.stochastic`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from functools import lru_cache

import torch

from shapefirst.errors import ShapefirstError

__all__ = ["Memory", "weights"]


@lru_cache(maxsize=1024)
def weights(known: tuple[float, ...], at: float) -> tuple[float, ...]:
    """The weight of each of the values at the distinct places `known` in their polynomial's value `at` another."""
    return tuple(
        math.prod((at - other) / (one - other) for other in known[:j] + known[j + 1 :]) for j, one in enumerate(known)
    )


class Memory:
    """The last values of each of B rows, each row at places of its own.

    Args:
        rows: B.
        order: The polynomials' degree. While a row has fewer than order + 1 values, the degree that they allow.
    """

    def __init__(self, rows: int, order: int) -> None:
        self.order = order
        self._places: list[tuple[float, ...]] = [()] * rows
        self._values: torch.Tensor | None = None  # (order + 1, B, ...), the latest first

    def fork(self) -> Memory:
        """One that goes on from here on its own; values are shared, and never written to."""
        other = copy.copy(self)
        other._places = list(self._places)
        return other

    def known(self, row: int) -> int:
        """How many values of the row are remembered."""
        return len(self._places[row])

    def remember(self, rows: Sequence[int], u: float, y: torch.Tensor) -> None:
        """Add the values `y`, (len(rows), ...), at `u`. A value at the place of the row's latest replaces that."""
        y = y.detach()
        if self._values is None:
            self._values = y.new_zeros(self.order + 1, len(self._places), *y.shape[1:])
        values = self._values.clone()
        for kind in (True, False):  # Heun evaluates some places twice
            chosen = [i for i, row in enumerate(rows) if (self._places[row][:1] == (u,)) is kind]
            if not chosen:
                continue
            at = [rows[i] for i in chosen]
            if not kind:
                values[1:, at] = self._values[:-1, at]
                for row in at:
                    self._places[row] = (u, *self._places[row])[: self.order + 1]
            values[0, at] = y[chosen]
        self._values = values

    def extrapolate(self, rows: Sequence[int], u: float) -> torch.Tensor:
        """(len(rows), ...): each row's value at `u`.

        Raises:
            ShapefirstError: Nothing is remembered yet.
        """
        if self._values is None:
            raise ShapefirstError(
                "There is no guided step to extrapolate from: enter guide() before the generation begins."
            )
        table = torch.zeros(self.order + 1, len(rows), dtype=self._values.dtype)
        for i, row in enumerate(rows):
            table[: self.known(row), i] = torch.tensor(weights(self._places[row], u), dtype=table.dtype)
        table = table.to(self._values.device).reshape(*table.shape, *[1] * (self._values.ndim - 2))
        return (table * self._values[:, list(rows)]).sum(0)

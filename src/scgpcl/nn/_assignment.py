"""From encoded vectors to clusters: depth correction, length, and Student-t assignment.

The assignment and its self-derived targets are those of DEC (Xie et al. 2016; Lee et al. 2023).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.optimize import brentq, minimize_scalar
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

if TYPE_CHECKING:
    from collections.abc import Iterable

#: Weight of the prior that there is no depth correction, as a share of the mean square of the regressors.
DEPTH_RIDGE = 1e-3
#: Number of steps for fitting centres to targets, and the weight that keeps centres near their start, which equals the
#: weight of one cell.
FIT_STEPS = 60
FIT_RIDGE = 1.0
#: Range in which the logarithm of the temperature is searched.
LOG_TEMPERATURES = (-2.0, 3.0)


class DepthCorrection(nn.Module):
    r"""Predict the latent vector that a cell would have if it had been sequenced to typical depth.

    A low number of molecules has two effects on latent vectors: it adds noise, and it shifts their mean because of the
    logarithm of the normalised counts. Both effects depend on the size factor s. With :math:`t = \min(\log s, 0)`, the
    corrected vector is

    .. math:: z' = z + t (A_1 z + b_1) + t^2 (A_2 z + b_2).

    The coefficients are fitted by ridge regression of whole cells on thinned cells. As a linear predictor, the
    correction shrinks components that are mostly noise at the depth of the cell. Cells of typical or greater depth are
    not changed, and no cell is changed before the correction has been fitted.

    Parameters
    ----------
    n_latent
        Width of the latent vectors.
    """

    weight: Tensor

    def __init__(self, n_latent: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(2 * (n_latent + 1), n_latent))

    def forward(self, z: Tensor, size_factor: Tensor) -> Tensor:
        """Correct latent vectors (n_cells, n_latent) of cells with size factors (n_cells,).

        The computation uses double precision, so that the result for a cell does not depend on which other cells are
        corrected with it.
        """
        return z + (_regressors(z.double(), size_factor) @ self.weight.double()).to(z)

    @torch.no_grad()
    def fit(self, draws: Iterable[tuple[Tensor, Tensor]], whole: Tensor) -> None:
        """Fit the correction to thinned cells (vectors, size factors), given the vectors of the cells before thinning."""
        n = len(self.weight)
        gram = torch.zeros(n, n, dtype=torch.float64, device=whole.device)
        moment = torch.zeros(n, whole.shape[1], dtype=torch.float64, device=whole.device)
        for z, size_factor in draws:
            x = _regressors(z, size_factor).double()
            gram += x.t() @ x
            moment += x.t() @ (whole - z).double()
        # even if all cells are alike, the inverse of the ridge must be finite
        ridge = (DEPTH_RIDGE * gram.diagonal().mean()).clamp(min=torch.finfo(gram.dtype).tiny ** 0.5)
        self.weight.copy_(torch.linalg.solve(gram + ridge * torch.eye(n).to(gram), moment))


def _regressors(z: Tensor, size_factor: Tensor) -> Tensor:
    """Return the regressors ``[t z, t, t^2 z, t^2]``, shape (n_cells, 2 (n_latent + 1))."""
    t = size_factor.to(z).log().clamp(max=0.0).unsqueeze(1)
    linear = torch.cat([t * z, t], 1)
    return torch.cat([linear, t * linear], 1)


def shrink_length(z: Tensor, power: float | Tensor) -> Tensor:
    r"""Reduce the spread of vector lengths: ``z (|z|^2 / n)^(-power / 2)``.

    Cells of unusual composition have long standardised vectors, which dominate squared distances. A power of 0 keeps
    the lengths, 1 keeps only the directions, and 0.5 takes the square root of each length.

    Parameters
    ----------
    z
        Vectors, shape (..., n).
    power
        Power between 0 and 1.
    """
    return z * (z.square().mean(-1, keepdim=True) + 1e-6).pow(-power / 2)


def soft_assign(z: Tensor, centers: Tensor, *, alpha: float | Tensor, temperature: float | Tensor = 1.0) -> Tensor:
    """Compute the Student-t similarity of cells to cluster centres.

    Parameters
    ----------
    z
        Latent vectors, shape (n_cells, n_latent).
    centers
        Cluster centres, shape (n_clusters, n_latent).
    alpha
        Degrees of freedom.
    temperature
        Value by which the logarithm of q is divided before q is normalised. Above 1, the assignment is less confident.

    Returns
    -------
    Soft assignment q, shape (n_cells, n_clusters). Rows sum to one.
    """
    distance = (z.square().sum(1, keepdim=True) - 2.0 * z @ centers.t() + centers.square().sum(1)).clamp(min=0.0)
    # proportional to (1 + d / alpha) ** -((alpha + 1) / 2), normalised in logs so that far cells do not underflow
    return torch.softmax(-(alpha + 1.0) / (2.0 * temperature) * torch.log1p(distance / alpha), dim=1)


@torch.no_grad()
def fit_centers(z: Tensor, target: Tensor, centers: Tensor, *, alpha: float | Tensor) -> Tensor:
    """Find the centres for which the cell assignments are closest to the targets.

    The centres have shape (n_clusters, n), the cells (n_cells, n), and the targets (n_cells, n_clusters).
    """
    found = centers.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([found], max_iter=FIT_STEPS, line_search_fn="strong_wolfe")

    @torch.enable_grad()
    def loss() -> Tensor:
        optimizer.zero_grad()
        value = clustering_loss(soft_assign(z, found, alpha=alpha), target)
        value = value + FIT_RIDGE / len(z) * (found - centers).square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    return found.detach()


def fit_temperature(q: Tensor, labels: Tensor) -> float:
    """Find the temperature at which assignments best predict labels (Guo et al. 2017).

    The assignments have shape (n_cells, n_clusters) and the labels (n_cells,).
    """
    logits = q.double().clamp(min=torch.finfo(q.dtype).tiny).log().cpu()
    labels = labels.cpu()
    loss = lambda log: float(cross_entropy(logits / np.exp(log), labels))
    return float(np.exp(minimize_scalar(loss, bounds=LOG_TEMPERATURES, method="bounded").x))


def matched_temperature(q: Tensor, accuracy: float) -> float:
    """Find the temperature at which the mean largest probability equals an accuracy.

    The assignments have shape (n_cells, n_clusters).
    """
    logits = q.double().clamp(min=torch.finfo(q.dtype).tiny).log()
    gap = lambda log: float((logits / np.exp(log)).softmax(1).amax(1).mean()) - accuracy
    low, high = LOG_TEMPERATURES
    if gap(low) <= 0:
        return float(np.exp(low))
    return float(np.exp(high if gap(high) >= 0 else brentq(gap, low, high, xtol=1e-3)))


def target_distribution(q: Tensor) -> Tensor:
    """Compute the sharpened assignment ``p = q^2 / f``, normalised by row, where f are the soft cluster sizes.

    Parameters
    ----------
    q
        Soft assignment of all cells, shape (n_cells, n_clusters).
    """
    weight = q.square() / q.sum(0)
    return weight / weight.sum(1, keepdim=True)


def clustering_loss(q: Tensor, p: Tensor) -> Tensor:
    """Compute the Kullback-Leibler divergence KL(P || Q), averaged over cells.

    Parameters
    ----------
    q
        Soft assignment, shape (n_cells, n_clusters).
    p
        Target, shape (n_cells, n_clusters).
    """
    return (torch.special.xlogy(p, p) - p * q.clamp(min=torch.finfo(q.dtype).tiny).log()).sum(1).mean()

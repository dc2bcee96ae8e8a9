"""Correct the latent vectors of shallow cells for their sequencing depth."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Iterable

#: Weight of the prior that there is no correction, as a share of the mean square of the regressors.
RIDGE = 1e-3


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
        ridge = RIDGE * gram.diagonal().mean().clamp(min=torch.finfo(gram.dtype).tiny)
        self.weight.copy_(torch.linalg.solve(gram + ridge * torch.eye(n).to(gram), moment))


def _regressors(z: Tensor, size_factor: Tensor) -> Tensor:
    """Return the regressors ``[t z, t, t^2 z, t^2]``, shape (n_cells, 2 (n_latent + 1))."""
    t = size_factor.to(z).log().clamp(max=0.0).unsqueeze(1)
    linear = torch.cat([t * z, t], 1)
    return torch.cat([linear, t * linear], 1)

"""Purity of neighbours, labels of shallow cells, and whether the confidence tells which labels repeat.

    python -m benchmarks.depth DATA_DIR --out depth.csv --seeds 0 1 2

For each data set and seed, with the number of clusters given:

- ``purity``: share of the 15 nearest cells that are of a cell's own type, averaged within types and then over types, in the
  trained latent space; ``purity_start``: the same in that of the untrained network.
- ``kept``: a quarter of the cells is held out, and a tenth of their molecules kept; the share of them that have the label of
  the whole cell. ``ari_whole``, ``ari_tenth``: agreement of the held-out cells' labels with their types.
- ``repeats``, ``confidence``, ``ece``: the molecules of all cells are split into halves, and a model is trained on each, with
  different seeds. The share of cells that get the same cluster (matched one to one), the mean confidence, and the expected
  calibration error of the confidence for that share, in ten bins.

Labels are used for scoring only.
"""

from pathlib import Path

import anndata as ad
import numpy as np
import scipy.sparse as sp
import torch
from benchmarks._study import REAL, SORTED, parser_of, run_on_sets
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import adjusted_rand_score

import scgpcl
from scgpcl.nn import neighborhood

ALL = (*REAL, *SORTED)
MEASURES = ("purity", "purity_start", "kept", "ari_whole", "ari_tenth", "repeats", "confidence", "ece")
COLUMNS = ("dataset", "seed", *MEASURES)
N_NEIGHBORS = 15
N_BINS = 10


def fitted(adata: ad.AnnData, n_clusters: int, seed: int, **kwargs: int) -> scgpcl.SCGPCL:
    scgpcl.SCGPCL.setup_anndata(adata)
    model = scgpcl.SCGPCL(adata, n_clusters, seed=seed)
    model.train(accelerator="cpu", enable_progress_bar=False, **kwargs)
    return model


def purity(z: np.ndarray, types: np.ndarray) -> float:
    """Share of neighbours of a cell's own type, by cosine, averaged within types and then over types."""
    code = torch.from_numpy(np.unique(types, return_inverse=True)[1])
    cells = torch.from_numpy(z)
    near = neighborhood(cells, N_NEIGHBORS)
    share = torch.empty(len(z))
    for rows in torch.arange(len(z)).split(1000):
        linked = near.unit[rows] @ near.unit.t() >= near.radius[rows].unsqueeze(1)
        linked[torch.arange(len(rows)), rows] = False
        same = linked & (code[rows].unsqueeze(1) == code)
        share[rows] = same.sum(1) / linked.sum(1).clamp(min=1)
    return float(np.mean([share[code == each].mean() for each in code.unique()]))


def part(adata: ad.AnnData, counts: sp.csr_matrix) -> ad.AnnData:
    """The same cells with other counts."""
    return ad.AnnData(counts, obs=adata.obs.copy(), var=adata.var.copy())


def drawn(counts: sp.csr_matrix, share: float, rng: np.random.Generator) -> sp.csr_matrix:
    """Each molecule with a probability, without stored zeros."""
    fewer = sp.csr_matrix(counts, copy=True)
    fewer.data = rng.binomial(fewer.data.astype(int), share).astype(np.float32)
    fewer.eliminate_zeros()
    return fewer


def calibration_error(confidence: np.ndarray, right: np.ndarray) -> float:
    """Mean difference between confidence and share of right cells in equal bins, weighted by their cells."""
    bins = np.minimum((confidence * N_BINS).astype(int), N_BINS - 1)
    parts = [bins == each for each in np.unique(bins)]
    return float(sum(at.mean() * abs(confidence[at].mean() - right[at].mean()) for at in parts))


def study(path: Path, seed: int) -> list[dict[str, float]]:
    adata = ad.read_h5ad(path)
    types = adata.obs["cell_type"].to_numpy().astype(str)
    adata.obs = adata.obs[[]].copy()
    k = len(set(types))
    rng = np.random.default_rng(seed)
    row = {
        "purity": purity(fitted(adata, k, seed).get_latent_representation(), types),
        "purity_start": purity(fitted(adata, k, seed, max_epochs=0).get_latent_representation(), types),
    }
    held = np.zeros(adata.n_obs, dtype=bool)
    held[rng.choice(adata.n_obs, adata.n_obs // 4, replace=False)] = True
    model = fitted(adata[~held].copy(), k, seed)
    whole = adata[held].copy()
    tenth = drawn(whole.X, 0.1, rng)
    seen = np.asarray(tenth.sum(1)).ravel() > 0
    labels, shallow = model.predict(whole)[seen], model.predict(part(whole, tenth)[seen].copy())
    row |= {
        "kept": float(np.mean(labels == shallow)),
        "ari_whole": adjusted_rand_score(types[held][seen], labels),
        "ari_tenth": adjusted_rand_score(types[held][seen], shallow),
    }
    first = drawn(adata.X, 0.5, rng)
    second = sp.csr_matrix(adata.X - first)
    both = (np.asarray(first.sum(1)).ravel() > 0) & (np.asarray(second.sum(1)).ravel() > 0)
    models = [fitted(part(adata, half)[both].copy(), k, 2 * seed + i) for i, half in enumerate((first, second))]
    q = [model.predict(soft=True).to_numpy() for model in models]
    table = np.zeros((k, k))
    np.add.at(table, (q[0].argmax(1), q[1].argmax(1)), 1)
    matched = linear_sum_assignment(-table)[1]
    repeats = matched[q[0].argmax(1)] == q[1].argmax(1)
    confidence = q[0].max(1)
    row |= {
        "repeats": float(repeats.mean()),
        "confidence": float(confidence.mean()),
        "ece": calibration_error(confidence, repeats),
    }
    return [row]


def main() -> None:
    parser = parser_of(__doc__, datasets=ALL)
    parser.add_argument("--out", type=Path, default=Path("depth.csv"))
    arguments = parser.parse_args()
    rows = run_on_sets(arguments, study, columns=COLUMNS)
    print(rows.groupby("dataset", sort=False)[list(MEASURES)].mean().round(3).to_string())


if __name__ == "__main__":
    main()

"""Write mixtures of RNA and of cells as labelled data sets for ``scgpcl benchmark``.

    git clone https://github.com/LuyiTian/sc_mixology
    python -m benchmarks.mixtures sc_mixology/data/csv --out mixtures
    scgpcl benchmark mixtures --methods scgpcl,pca-kmeans,pca-leiden --out OUT

Tian et al. (2019, GSE118767) mixed the RNA of three cell lines in seven proportions, at four amounts, so that the types lie between
one another and differ in depth (``RNAmix_*``), and sorted nine cells of the three lines into a well (``cellmix``: four plates, the ten
mixtures with the most wells). ``sc_*`` are single cells of the lines.
"""

import argparse
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

LINES = ["H2228", "H1975", "HCC827"]
LEAST_WELLS = 30


def read(folder: Path, name: str) -> ad.AnnData:
    """Counts and annotations of the cells that have both."""
    counts, obs = (pd.read_csv(folder / f"{name}.{kind}.csv.gz", index_col=0) for kind in ("count", "metadata"))
    cells = [cell for cell in counts.columns if cell in obs.index]
    x = sp.csr_matrix(counts[cells].to_numpy(np.float32).T)
    return ad.AnnData(x, obs=obs.loc[cells], var=pd.DataFrame(index=counts.index.astype(str)))


def write(adata: ad.AnnData, types: pd.Series, path: Path) -> None:
    """Write the genes that were found, with the types."""
    adata = adata[:, np.asarray((adata.X > 0).sum(0)).ravel() > 0].copy()
    adata.obs = adata.obs[[name for name in ("plate",) if name in adata.obs]].assign(
        cell_type=types.astype(str).to_numpy()
    )
    adata.write_h5ad(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, default=Path("mixtures"))
    args = parser.parse_args()
    args.out.mkdir(exist_ok=True)
    for name in ("RNAmix_celseq2", "RNAmix_sortseq"):
        adata = read(args.data, name)
        shares = adata.obs[[f"{line}_prop" for line in LINES]].round(2)
        write(adata, shares.astype(str).agg("/".join, axis=1), args.out / f"{name}.h5ad")
    for name in ("sc_celseq2", "sc_dropseq"):
        adata = read(args.data, name)
        adata = adata[adata.obs["demuxlet_cls"] == "SNG"].copy()
        write(adata, adata.obs["cell_line_demuxlet"], args.out / f"{name}.h5ad")
    plates = {str(i): read(args.data, f"cellmix{i}") for i in (1, 2, 3, 4)}
    adata = ad.concat(plates, label="plate", index_unique="-")
    types = adata.obs[LINES].astype(int).astype(str).agg("-".join, axis=1)
    common = types.map(types.value_counts()) >= LEAST_WELLS
    write(adata[common].copy(), types[common], args.out / "cellmix.h5ad")


if __name__ == "__main__":
    main()

"""How well is the number of clusters estimated, and what does the estimate cost in agreement with published types?

    python -m benchmarks.n_clusters DATA_DIR --out n_clusters.csv --seeds 0 1 2

One model for each set and seed estimates the number; ``estimated`` is that number, ``ari`` the agreement of its clusters with the
types, and ``ari_given`` that of the cut of its tree into as many clusters as types. Beside the files there are simulated sets of a known
number of groups, ``equal-K`` and, with groups of decreasing size that overlap more, ``uneven-K``. An interrupted study resumes where it
stopped. Labels are used for scoring only.
"""

import time
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from benchmarks._study import REAL, SORTED, parser_of, run_on_sets

import scgpcl
from scgpcl import simulate

MORE = (
    "batches/blood_three_studies", "batches/kang_pbmc_stimulation", "simulated/SimT6_5", "simulated/Sig1", "simulated/Imb1",
    "simulated/Batch8",
)  # fmt: skip
SIMULATED = tuple(f"{kind}-{k}" for kind in ("equal", "uneven") for k in (1, 2, 3, 5, 8, 12, 20))
N_CELLS, N_GENES = 2000, 2000
#: Scale of the differential expression of the simulated groups.
SCALE = {"equal": 0.4, "uneven": 0.25}
#: A group of an uneven set is half as large as the one before, down to this power.
LEAST_POWER = 6
COLUMNS = ("dataset", "seed", "types", "estimated", "ari", "ari_given", "seconds")


def simulated(name: str, seed: int) -> ad.AnnData:
    kind, k = name.split("-")
    power = np.minimum(np.arange(int(k)), LEAST_POWER) * (kind == "uneven")
    adata = simulate.splatter(
        n_genes=N_GENES,
        batch_cells=[N_CELLS],
        group_prob=list(0.5**power / (0.5**power).sum()),
        de_fac_scale=SCALE[kind],
        dropout_mid=1.0,
        dropout_shape=-1.0,
        seed=seed,
        true_counts=False,
    )
    adata = adata[:, np.asarray((adata.X > 0).sum(0)).ravel() > 0].copy()
    adata.obs["cell_type"] = adata.obs["group"].astype(str) if int(k) > 1 else "Group1"
    return adata


def run(path: Path, seed: int) -> list[dict[str, float]]:
    source = simulated(path.stem, seed) if path.stem in SIMULATED else ad.read_h5ad(path)
    types = source.obs["cell_type"].to_numpy().astype(str)
    adata = ad.AnnData(source.X.astype(np.float32), var=source.var[[]])
    scgpcl.SCGPCL.setup_anndata(adata)
    model = scgpcl.SCGPCL(adata, seed=seed)
    begin = time.perf_counter()
    model.train(accelerator="cpu", enable_progress_bar=False)
    seconds = time.perf_counter() - begin
    ari, n_types, estimated = scgpcl.metrics.ari(types, model.predict()), len(set(types)), model.n_clusters_
    given = ari
    if n_types > 1:
        model.cut(n_types)
        given = scgpcl.metrics.ari(types, model.predict())
    scores = {"ari": round(ari, 4), "ari_given": round(given, 4), "seconds": round(seconds, 1)}
    return [{"types": n_types, "estimated": estimated, **scores}]


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """For the labelled sets, the others and the simulated ones: difference from the number of types, and ARI."""
    kind = table["dataset"].map(
        lambda name: "simulated" if name in SIMULATED else "fourteen" if name in (*REAL, *SORTED) else "others"
    )
    error = (table["estimated"] - table["types"]).abs()
    parts = table.assign(error=error, exact=error == 0).groupby(kind)
    return pd.DataFrame(
        {
            "median_error": parts["error"].median(),
            "mean_error": parts["error"].mean(),
            "exact": parts["exact"].mean(),
            "ari": parts["ari"].mean(),
            "ari_given": parts["ari_given"].mean(),
        }
    )


def main() -> None:
    parser = parser_of(__doc__, datasets=(*REAL, *SORTED, *MORE, *SIMULATED))
    parser.add_argument("--out", type=Path, default=Path("n_clusters.csv"))
    table = run_on_sets(parser.parse_args(), run, columns=COLUMNS)
    print(table.groupby("dataset", sort=False)["estimated"].agg(lambda column: sorted(column)).to_string())
    print(summary(table).round(3).to_string())


if __name__ == "__main__":
    main()

"""How well do a few labels name the other cells?

    python -m benchmarks.labels DATA_DIR --out labels.csv

``--labels`` cells of each type, drawn at random (``--seeds`` draws), keep their label; the others are scored. One model per set
is pre-trained without labels and kept in ``--cache``; every draw of labels then runs the clustering stage alone, on cells of
whole depth, so that the study takes minutes. The pull of labels in pre-training is thus left out.

* ``regression``: multinomial regression on 50 principal components of unit length.
* ``scgpcl``: the nearest named centre; ``confidence`` and ``ece`` (expected calibration error, ten bins) are those of its
  probabilities, calibrated on left-out labels only (a trained model is calibrated on halves of the molecules too).
* ``flipped``: as ``scgpcl``, with 5 % of the labels exchanged for others at random, where there are ten of each type or more.
* ``left out`` (``--left-out``): as ``scgpcl``, but the type ``type`` has no labels; ``f1`` is that of the new cluster and the
  type. Each type of 20 cells or more is left out in turn, for the first draw only.
* ``scanvi`` (``--scanvi``): scANVI after scVI, with default settings, trained for every draw; scVI is trained once per set.
"""

import warnings
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import torch
from benchmarks._study import parser_of, run_study
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score

import scgpcl
from scgpcl._atomic import replacing
from scgpcl.benchmark._tables import markdown
from scgpcl.cluster import Evidence, named_support
from scgpcl.data import BipartiteSplitter
from scgpcl.nn import fit_centers, matched_temperature, shrink_length, soft_assign
from scgpcl.train._read_out import READ_OUT_SEED, ReadOut

COLUMNS = ["dataset", "n_labels", "seed", "method", "type", "ari", "accuracy", "confidence", "ece", "f1"]
REGRESSION, NAMED, FLIPPED, LEFT_OUT, SCANVI = "regression", "scgpcl", "flipped", "left out", "scanvi"
LEAST_CELLS = 20
FLIPS, LEAST_FLIPPED = 0.05, 10
ALPHA = 30.0


def evidence_of(path: Path, cache: Path) -> dict[str, np.ndarray]:
    """Types, trained latent vectors, components, and partitions of the cells of a set, from the cache if they are there."""
    kept = cache / f"{path.stem}.npz"
    if not kept.exists():
        adata = ad.read_h5ad(path)
        types = adata.obs["cell_type"].to_numpy().astype(str)
        adata.obs = adata.obs[[]].copy()
        scgpcl.SCGPCL.setup_anndata(adata)
        n_types = len(set(types))
        model = scgpcl.SCGPCL(adata, n_types, seed=0)
        model.train(cluster_max_epochs=0, accelerator="cpu", enable_progress_bar=False)
        cells = model._prepare()
        splitter = BipartiteSplitter(cells, seed=0, batch_size=256, train_size=1.0)
        read_out = ReadOut(model.module, splitter, axes=model._axes_of(cells), visible=False)
        draws = list(read_out.draws())
        partitions = Evidence.of(draws, n_types, seed=READ_OUT_SEED, only=True).labels.numpy().astype(np.int16)
        with replacing(kept) as temporary, temporary.open("wb") as file:
            np.savez(file, types=types, z=draws[0], components=draws[1], partitions=partitions)
    return dict(np.load(kept))


def drawn(types: np.ndarray, n_labels: int, seed: int) -> np.ndarray:
    """Positions of the labelled cells."""
    rng = np.random.default_rng(seed)
    own = [rng.permutation(np.flatnonzero(types == each))[:n_labels] for each in np.unique(types)]
    return np.sort(np.concatenate(own))


def named(kept: dict[str, Any], code: np.ndarray, n_new: int) -> np.ndarray:
    """Probability of each type and new cluster by the nearest centre, (n_cells, n_types + n_new)."""
    n_types = int(code.max()) + 1
    spaces = [torch.from_numpy(kept[name]) for name in ("z", "components")]
    found = named_support(kept["evidence"], spaces, torch.from_numpy(code), n_types, n_types + n_new, n_new=n_new)
    rows, target = shrink_length(spaces[0], 1.0), found.support
    centers = fit_centers(rows, target, target.t() @ rows / target.sum(0).unsqueeze(1), alpha=ALPHA)
    q = soft_assign(rows, centers, alpha=ALPHA)
    temperature = 1.0 if np.isnan(found.accuracy) else max(1.0, matched_temperature(q, found.accuracy))
    return soft_assign(rows, centers, alpha=ALPHA, temperature=temperature).numpy()


def scored(types: np.ndarray, rest: np.ndarray, probability: np.ndarray) -> dict[str, float]:
    """Scores of the cells that are not labelled."""
    label, confidence = probability.argmax(1)[rest], probability.max(1)[rest]
    right = label == types[rest]
    place = np.minimum((confidence * 10).astype(int), 9)
    gaps = [abs(confidence[own].sum() - right[own].sum()) for own in (place == i for i in range(10))]
    values = (scgpcl.metrics.ari(types[rest], label), right.mean(), confidence.mean(), sum(gaps) / len(rest))
    return dict(zip(("ari", "accuracy", "confidence", "ece"), (round(float(v), 4) for v in values), strict=True))


def run(path: Path, cache: Path, n_labels: int, seed: int, *, left_out: bool, scanvi: bool) -> list[dict[str, Any]]:
    kept: dict[str, Any] = evidence_of(path, cache)
    linked = (
        torch.randperm(len(kept["types"]), generator=torch.Generator().manual_seed(READ_OUT_SEED))[:2000].sort().values
    )
    labels = torch.from_numpy(kept["partitions"].astype(np.int64))
    # the distances are used only where new clusters are looked for
    kept["evidence"] = Evidence.from_partitions(labels, linked) if left_out else Evidence(labels, linked, np.empty(0))
    names, types = np.unique(kept["types"], return_inverse=True)
    labelled = drawn(types, n_labels, seed)
    rest = np.setdiff1d(np.arange(len(types)), labelled)
    code = np.full(len(types), -1)
    code[labelled] = types[labelled]
    base = {"n_labels": n_labels, "seed": seed, "type": ""}
    unit = shrink_length(torch.from_numpy(kept["components"]), 1.0).numpy()
    model = LogisticRegression(C=0.1, max_iter=500).fit(unit[labelled], types[labelled])
    rows = [base | {"method": REGRESSION} | scored(types, rest, model.predict_proba(unit))]
    rows.append(base | {"method": NAMED} | scored(types, rest, named(kept, code, 0)))
    if scanvi:
        rows.append(base | {"method": SCANVI} | scored(types, rest, _scanvi(path, cache, code, names, seed)))
    rng = np.random.default_rng(seed)
    wrong = labelled[rng.random(len(labelled)) < FLIPS]
    flipped = code.copy()
    flipped[wrong] = (flipped[wrong] + rng.integers(1, len(names), len(wrong))) % len(names)
    if n_labels >= LEAST_FLIPPED and len(wrong) and len(set(flipped[labelled])) == len(names):
        rows.append(base | {"method": FLIPPED} | scored(types, rest, named(kept, flipped, 0)))
    for each in np.flatnonzero(np.bincount(types) >= LEAST_CELLS) if left_out and seed == 0 else ():
        fewer = np.where(code == each, -1, np.where(code > each, code - 1, code))
        own = named(kept, fewer, 1).argmax(1) == len(names) - 1
        f1 = f1_score(types[rest] == each, own[rest])
        rows.append(base | {"method": LEFT_OUT, "type": names[each], "f1": round(float(f1), 4)})
    return rows


def _scanvi(path: Path, cache: Path, code: np.ndarray, names: np.ndarray, seed: int) -> np.ndarray:
    """Probabilities of scANVI after scVI, with default settings, on the 2000 genes of largest dispersion.

    scVI, which knows no labels, is trained once per set and kept in the cache.
    """
    import scanpy as sc
    import scvi

    adata = ad.read_h5ad(path)
    if adata.n_vars > 2000:
        log = sc.pp.log1p(sc.pp.normalize_total(adata, copy=True), copy=True)
        adata = adata[:, sc.pp.highly_variable_genes(log, n_top_genes=2000, inplace=False)["highly_variable"]].copy()
    adata.obs["label"] = np.append(names, "Unknown")[code]
    kept = cache / f"{path.stem}_scvi"
    scvi.settings.seed = seed
    if kept.exists():
        base = scvi.model.SCVI.load(kept, adata)
    else:
        scvi.model.SCVI.setup_anndata(adata)
        base = scvi.model.SCVI(adata)
        base.train(accelerator="cpu", enable_progress_bar=False)
        base.save(kept)
    model = scvi.model.SCANVI.from_scvi_model(base, "Unknown", labels_key="label", adata=adata)
    model.train(accelerator="cpu", enable_progress_bar=False)
    return model.predict(soft=True)[list(names)].to_numpy()


def summary(table: pd.DataFrame) -> str:
    """Markdown: means over sets of the means over draws, by number of labels."""
    means = table.groupby(["dataset", "n_labels", "method"])[["ari", "accuracy", "confidence", "ece", "f1"]].mean()
    means = means.groupby(["n_labels", "method"]).mean()
    shown = [[*map(str, key), *("" if np.isnan(v) else f"{v:.3f}" for v in row)] for key, row in means.iterrows()]
    return "\n".join(markdown(["labels", "method", *means.columns], shown))


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--out", type=Path, default=Path("labels.csv"))
    parser.add_argument("--cache", type=Path, default=Path("labels_cache"))
    parser.add_argument("--labels", nargs="+", type=int, default=[1, 3, 10])
    parser.add_argument("--left-out", action="store_true")
    parser.add_argument("--scanvi", action="store_true")
    args = parser.parse_args()
    args.cache.mkdir(exist_ok=True)
    warnings.simplefilter("ignore")
    table = run_study(
        args,
        ((name, n_labels, seed) for seed in args.seeds for name in args.datasets for n_labels in args.labels),
        lambda name, n, seed: run(
            args.data / f"{name}.h5ad", args.cache, n, seed, left_out=args.left_out, scanvi=args.scanvi
        ),
        keys=["dataset", "n_labels", "seed"],
        columns=COLUMNS,
        text=["dataset", "method", "type"],
    )
    print(summary(table))


if __name__ == "__main__":
    main()

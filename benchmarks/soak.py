"""Do many rounds of training, annotating, saving, loading and predicting fail, or need more and more memory?

    python -m benchmarks.soak --rounds 200 --out soak.csv

Each round draws its data, storage and options at random, seeded with its number, so a failed round can be repeated with ``--only``.
"""

import argparse
import csv
import gc
import logging
import sys
import tempfile
import time
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import psutil
import scipy.sparse as sp
import torch

import scgpcl

#: Rounds before memory is expected to be stable.
SETTLE = 50
QUIET = {"accelerator": "cpu", "enable_progress_bar": False}


def draw_cells(rng, n_cells, n_genes):
    """Negative binomial counts of a few groups of cells, in a random storage format."""
    n_groups = int(rng.integers(1, 6))
    group = rng.integers(n_groups, size=n_cells)
    mean = rng.gamma(0.6, 1.0, n_genes) * rng.lognormal(0.0, 1.5, (n_groups, n_genes))[group]
    counts = rng.poisson(rng.gamma(2.0, mean * rng.lognormal(0.0, 0.4, n_cells)[:, None] / 2.0)).astype(np.float32)
    counts[counts.sum(1) == 0, 0] = 1.0
    make = [np.asarray, sp.csr_matrix, sp.csc_matrix, lambda x: sp.csr_matrix(x.astype(np.int64))]
    cells = ad.AnnData(make[int(rng.integers(len(make)))](counts))
    cells.obs_names = [f"cell{i}" for i in range(n_cells)]
    cells.var_names = [f"gene{i}" for i in range(n_genes)]
    cells.obs["batch"] = rng.choice(["a", "b", "c"], n_cells)
    cells.obs["size"] = rng.lognormal(0.0, 0.3, n_cells)
    return cells


def draw_options(rng):
    """Random arguments of the set-up, the model and the training."""
    pick = lambda *values: values[int(rng.integers(len(values)))]
    setup = {"batch_key": pick(None, None, "batch"), "size_factor_key": pick(None, None, "size")}
    model = {
        "n_clusters": pick(None, 2, 2, 3, 3, 5, 5, 9),
        "n_top_genes": pick(None, 0.5, 20),
        "gene_flavor": pick("pearson_residuals", "pearson_residuals", "seurat", "variance"),
        "gene_scaling": pick(0.75, 0.75, 0.0, 1.0),
        "dispersion": pick("gene", "gene-cell"),
        "use_graph": pick(True, True, False),
        "start": pick("discriminant", "pca", "random"),
        "n_hidden": pick(8, 16),
        "n_latent": pick(2, 8),
        "seed": int(rng.integers(1000)),
    }
    train = {
        "pretrain_max_epochs": pick(0, 1, 3),
        "cluster_max_epochs": pick(0, 1, 3),
        "batch_size": pick(7, 32, 256),
        "train_size": pick(1.0, 1.0, 0.8),
        "pretrain_plan_kwargs": {
            "prototypes": pick("epoch", "batch"),
            "one_cycle": pick(True, False),
            "projection": pick(True, False),
        },
        "clustering": pick("distillation", "self_training"),
        "cluster_plan_kwargs": {"shrinkage": pick(0.0, 0.5, 1.0)},
    }
    return setup, model, train


def run(number, folder):
    """One round; raises if anything goes wrong."""
    rng = np.random.default_rng(number)
    cells = draw_cells(rng, int(rng.integers(25, 150)), int(rng.integers(30, 90)))
    setup, arguments, train = draw_options(rng)
    n_clusters = arguments.pop("n_clusters")
    scgpcl.SCGPCL.setup_anndata(cells, **setup)
    model = scgpcl.SCGPCL(cells, n_clusters, **arguments)
    checkpoint = folder / "run.ckpt" if rng.random() < 0.5 else None
    (folder / "run.ckpt").unlink(missing_ok=True)  # from the previous round; none is written without epochs
    model.train(**train, checkpoint=checkpoint, **QUIET)
    if checkpoint is not None and checkpoint.exists():
        again = scgpcl.SCGPCL(cells, n_clusters, **arguments)
        again.train(**train, resume_from=checkpoint, **QUIET)
        np.testing.assert_array_equal(again.get_latent_representation(), model.get_latent_representation())
    query = cells[rng.permutation(cells.n_obs)[:20]].copy()
    model.annotate(query)
    if rng.random() < 0.3:
        model.train_decoder(1, **QUIET)
        assert np.isfinite(model.get_normalized_expression(query, return_numpy=True)).all()
    if rng.random() < 0.3:
        model.update(query, 1, batch_size=32, **QUIET)
    wanted = model.predict(query, soft=True).to_numpy()
    assert np.isfinite(wanted).all()
    safe = bool(rng.random() < 0.5)
    model.save(folder / "m", overwrite=True, safe=safe, save_anndata=bool(rng.random() < 0.3))
    loaded = scgpcl.SCGPCL.load(folder / "m", cells, accelerator="cpu")
    np.testing.assert_array_equal(loaded.predict(query, soft=True).to_numpy(), wanted)
    # scvi-tools keeps every AnnData of every model, even of deleted models
    type(model)._per_instance_manager_store.clear()
    type(model)._setup_adata_manager_store.clear()
    return {"cells": cells.n_obs, "genes": cells.n_vars, "clusters": model.n_clusters_, "safe": safe}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--only", type=int, help="run this round alone")
    parser.add_argument("--out", type=Path, default=Path("soak.csv"))
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("lightning").setLevel(logging.ERROR)
    logging.getLogger("scvi").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    process = psutil.Process()
    rows, failed = [], 0
    numbers = range(arguments.rounds) if arguments.only is None else [arguments.only]
    with arguments.out.open("w", newline="") as file, tempfile.TemporaryDirectory() as folder:
        writer = csv.DictWriter(
            file, ["round", "seconds", "resident_mb", "cells", "genes", "clusters", "safe", "error"]
        )
        writer.writeheader()
        for number in numbers:
            start = time.perf_counter()
            try:
                row = {**run(number, Path(folder)), "error": ""}
            except Exception as error:  # noqa: BLE001  (failures are counted)
                row = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"}
                failed += 1
            gc.collect()
            row |= {"round": number, "seconds": round(time.perf_counter() - start, 2)}
            row["resident_mb"] = round(process.memory_info().rss / 1e6, 1)
            rows.append(row)
            writer.writerow(row)
            file.flush()
    report(rows, failed)
    sys.exit(failed > 0)


def report(rows, failed):
    """Print the failures and the trend of the memory."""
    memory = np.array([row["resident_mb"] for row in rows[SETTLE:]])
    sys.stdout.write(f"{len(rows)} rounds, {failed} failed, {sum(row['seconds'] for row in rows):.0f} s\n")
    if len(memory) > 20:
        slope = np.polyfit(np.arange(len(memory)), memory, 1)[0]
        third = len(memory) // 3
        first, last = np.median(memory[:third]), np.median(memory[-third:])
        sys.stdout.write(
            f"resident memory after round {SETTLE}: {slope:+.3f} MB per round; median of the first third {first:.0f} MB, "
            f"of the last third {last:.0f} MB, largest {memory.max():.0f} MB\n"
        )


if __name__ == "__main__":
    main()

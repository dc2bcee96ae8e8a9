"""Bad input to everything but set-up, model and training: one row per case."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch

import scgpcl
from scgpcl import cluster, data, metrics, pl, tl
from scgpcl._files import InputError

GETTERS = (
    "predict",
    "get_latent_representation",
    "get_normalized_expression",
    "get_likelihood_parameters",
    "posterior_predictive_sample",
)

# name: (what is wrong, error, words of the message)
OF_EVERY_GETTER = {
    "table": (lambda f: f(pd.DataFrame(np.ones((2, 2)))), TypeError, "found DataFrame", "read_h5ad"),
    "path": (lambda f: f("cells.h5ad"), TypeError, "found str", "read_h5ad"),
    "batch size 0": (lambda f: f(batch_size=0), ValueError, "`batch_size`", "at least 1", "found 0"),
    "batch size text": (lambda f: f(batch_size="all"), ValueError, "`batch_size`", "found 'all'"),
    "names as indices": (lambda f: f(indices=["cell1"]), IndexError, "whole numbers or a boolean mask", "<U5"),
    "table of indices": (lambda f: f(indices=[[1, 2], [3, 4]]), IndexError, "one-dimensional", "list of positions"),
    "one index": (lambda f: f(indices=3), IndexError, "one-dimensional", "found 3", "[0]"),
    "no such cell": (lambda f: f(indices=[60]), IndexError, "below 60", "found 60"),
    "short mask": (lambda f: f(indices=[True]), IndexError, "mask of 60 cells", "one of 1"),
}


@pytest.mark.parametrize("getter", GETTERS)
@pytest.mark.parametrize("case", OF_EVERY_GETTER)
def test_getters_refuse(trained, refused, getter, case):
    act, error, *words = OF_EVERY_GETTER[case]
    with refused(trained.adata, error, *words):
        act(getattr(trained, getter))


def half(query):
    query.X = query.X * 0.5
    return query


def negative(query):
    x = query.X.toarray()
    x[3, 4] = -2
    query.X = sp.csr_matrix(x)
    return query


def empty_cell(query):
    x = query.X.toarray()
    x[7] = 0
    query.X = sp.csr_matrix(x)
    return query


def renamed(query):
    query.var_names = [f"x{i}" for i in range(query.n_vars)]
    return query


def twice(query):
    names = query.var_names.tolist()
    names[1] = names[0]
    query.var_names = names
    return query


def without(query, column):
    del query.obs[column]
    return query


def strange_batch(query):
    query.obs["batch"] = "c"
    return query


# name: (spoil the new cells, error, words)
NEW_CELLS = {
    "halves": (half, ValueError, "whole counts", "found 0.5", "layer="),
    "negative": (negative, ValueError, "zero or more", "found -2", "layer="),
    "empty cell": (empty_cell, ValueError, "1 empty cells", "row 7", "filter_cells"),
    "no cells": (lambda q: q[:0].copy(), ValueError, "at least 1 cells", "found 0 cells"),
    "other genes": (renamed, ValueError, "80%", "40 missing", "name genes alike"),
    "half of the genes": (lambda q: q[:, :20].copy(), ValueError, "80%", "20 missing"),
    "repeated genes": (twice, ValueError, "unique names", "'gene0'", "var_names_make_unique"),
    "no batches": (
        lambda q: without(q, "batch"),
        KeyError,
        "`batch_key='batch'`",
        "found columns",
        "without 'batch'. Rename yours, or write the batch",
    ),
    "halves in a new batch": (lambda q: strange_batch(half(q)), ValueError, "whole counts", "found 0.5", "layer="),
}


@pytest.mark.parametrize("case", NEW_CELLS)
@pytest.mark.filterwarnings("ignore:Variable names are not unique")
def test_new_cells_are_refused(batched, cells, refused, case):
    spoil, error, *words = NEW_CELLS[case]
    query = spoil(cells())
    with refused([query, batched.adata], error, *words):
        batched.predict(query)
    with refused([query, batched.adata], error, *words):
        batched.annotate(query)


# name: (act on the models, error, words)
METHODS = {
    "soft is text": (lambda m, b, c: m.predict(soft="no"), TypeError, "`soft`", "True or False", "found 'no'"),
    "confidence 2": (lambda m, b, c: m.predict(min_confidence=2), ValueError, "from 0 to 1", "found 2"),
    "confidence and soft": (
        lambda m, b, c: m.predict(min_confidence=0.2, soft=True),
        ValueError,
        "`soft=True`",
        "leave one of the two out",
    ),
    "batch of no batches": (lambda m, b, c: m.predict(transform_batch="a"), ValueError, "found 'a'", "batch_key=..."),
    "unknown batch": (lambda m, b, c: b.predict(transform_batch="z"), ValueError, "'a', 'b'", "found 'z'"),
    "no batch at all": (
        lambda m, b, c: b.get_normalized_expression(transform_batch=[]),
        ValueError,
        "found an empty list",
        "Pass None",
    ),
    "gene is text": (
        lambda m, b, c: m.get_normalized_expression(gene_list="gene1"),
        TypeError,
        "`gene_list`",
        "found 'gene1'",
        "['gene1']",
    ),
    "genes are positions": (lambda m, b, c: m.get_normalized_expression(gene_list=[1]), KeyError, "'1'", "n_top_genes"),
    "unknown genes among others": (
        lambda m, b, c: m.get_normalized_expression(gene_list=["x", *m.selected_genes_[:3], "y"]),
        KeyError,
        "found 'x', 'y'. ",
    ),
    "unknown gene": (lambda m, b, c: m.get_normalized_expression(gene_list=["x"]), KeyError, "'x'", "selected_genes_"),
    "library size 0": (lambda m, b, c: m.get_normalized_expression(library_size=0), ValueError, "found 0"),
    "library size inf": (lambda m, b, c: m.get_normalized_expression(library_size=np.inf), ValueError, "found inf"),
    "library size text": (lambda m, b, c: m.get_normalized_expression(library_size="x"), ValueError, "found 'x'"),
    "no samples": (lambda m, b, c: m.posterior_predictive_sample(n_samples=0), ValueError, "`n_samples`", "found 0"),
    "sample seed": (lambda m, b, c: m.posterior_predictive_sample(seed=-1), ValueError, "`seed`", "found -1"),
    "annotate a table": (lambda m, b, c: m.annotate(pd.DataFrame()), TypeError, "found DataFrame"),
    "annotate a view": (lambda m, b, c: m.annotate(c[:10]), ValueError, "found a view", "adata.copy()"),
    "key is a number": (lambda m, b, c: m.annotate(c, key_added=3), TypeError, "`key_added`", "found 3"),
    "key is empty": (lambda m, b, c: m.annotate(c, key_added=""), ValueError, "`key_added`", "found ''"),
    "key is a path": (lambda m, b, c: m.annotate(c, key_added="../a"), ValueError, "without a slash", "found '../a'"),
    "annotate confidence": (lambda m, b, c: m.annotate(c, min_confidence=-1), ValueError, "from 0 to 1", "found -1"),
    "update with nothing": (lambda m, b, c: m.update(None), TypeError, "`query`", "found NoneType"),
    "update epochs": (lambda m, b, c: m.update(c, -1), ValueError, "`cluster_max_epochs`", "found -1"),
    "update with halves": (lambda m, b, c: m.update(half(c.copy()), 1), ValueError, "whole counts", "found 0.5"),
    "update with few genes": (
        lambda m, b, c: m.update(c[:, :35].copy(), 1),
        ValueError,
        "all 40 genes",
        "5 missing",
        "model.predict",
    ),
    "update plan": (
        lambda m, b, c: m.update(c, 1, plan_kwargs={"rate": 1}),
        TypeError,
        "`plan_kwargs`",
        "found 'rate'",
        "It takes",
    ),
    "update stops early": (
        lambda m, b, c: m.update(c, 1, early_stopping=True),
        ValueError,
        "no `early_stopping`",
        "Lower `max_epochs`",
    ),
    "decoder epochs": (lambda m, b, c: m.train_decoder(0), ValueError, "`max_epochs`", "found 0"),
    "decoder share": (lambda m, b, c: m.train_decoder(1, validation_size=0.9), ValueError, "0.01 to 0.5", "found 0.9"),
    "decoder noise": (lambda m, b, c: m.train_decoder(1, noise=-1), ValueError, "`noise`", "found -1"),
    "decoder patience": (lambda m, b, c: m.train_decoder(1, patience=0), ValueError, "`patience`", "found 0"),
    "decoder plan": (
        lambda m, b, c: m.train_decoder(1, plan_kwargs={"lr": -1}),
        ValueError,
        "`plan_kwargs['lr']`",
        "found -1",
    ),
    "graph of no layer": (lambda m, b, c: data.to_hetero_data(c, layer="x"), KeyError, "layers['x']", "layer=None"),
    "no clusters": (lambda m, b, c: cluster.kmeans(torch.ones(4, 2), 0), ValueError, "at least one", "n_clusters=0"),
    "too many clusters": (lambda m, b, c: cluster.kmeans(torch.ones(4, 2), 5), ValueError, "found 4 rows"),
}


@pytest.mark.parametrize("case", METHODS)
def test_methods_refuse(trained, batched, cells, refused, case):
    act, error, *words = METHODS[case]
    query = cells()
    with refused([query, trained.adata, batched.adata], error, *words):
        act(trained, batched, query)


TABLES = ("differential_expression", "get_cluster_stability")


@pytest.mark.parametrize("method", [*GETTERS, "annotate", "train_decoder", "update", *TABLES])
def test_untrained_models_refuse(untrained, cells, refused, method):
    query = cells()
    with refused([query, untrained.adata], RuntimeError, "trained model", "has not been trained", "model.train()"):
        getattr(untrained, method)(*([query] if method == "update" else []))


# name: (act on an annotated AnnData, error, words)
TABLES_AND_PICTURES = {
    "rank nothing": (lambda a: tl.rank_markers(None), TypeError, "found NoneType"),
    "rank no column": (lambda a: tl.rank_markers(a, "x"), KeyError, "obs['x']", "key="),
    "rank method": (lambda a: tl.rank_markers(a, "group", method="x"), ValueError, "wilcoxon", "found 'x'"),
    "rank no genes": (lambda a: tl.rank_markers(a, "group", n_genes=0), ValueError, "`n_genes`", "found 0"),
    "rank no layer": (lambda a: tl.rank_markers(a, "group", layer="x"), KeyError, "layers['x']", "layer=None"),
    "rank key": (lambda a: tl.rank_markers(a, "group", key_added="a/b"), ValueError, "slash", "'a/b'"),
    "top of nothing": (lambda a: tl.top_markers(None), TypeError, "found None", "rank_markers"),
    "top of a table": (lambda a: tl.top_markers(pd.DataFrame({"a": [1]})), TypeError, "columns", "'a'", "rank_markers"),
    "name by nothing": (lambda a: tl.name_clusters(a, None, key="group"), TypeError, "dictionary", "found NoneType"),
    "name by no types": (lambda a: tl.name_clusters(a, {}, key="group"), ValueError, "at least one type", "found none"),
    "name by text": (lambda a: tl.name_clusters(a, {"B": "gene1"}, key="group"), TypeError, "'B': 'gene1'"),
    "name by no gene": (lambda a: tl.name_clusters(a, {"B": ["x"]}, key="group"), ValueError, "'x'", "spelling"),
    "name as unknown": (lambda a: tl.name_clusters(a, {"unknown": ["gene1"]}, key="group"), ValueError, "'unknown'"),
    "name by chance": (
        lambda a: tl.name_clusters(a, {"B": ["gene1"]}, key="group", max_p_value=2),
        ValueError,
        "found 2",
    ),
    "name seed": (lambda a: tl.name_clusters(a, {"B": ["gene1"]}, key="group", seed=-1), ValueError, "found -1"),
    "map of nothing": (lambda a: pl.latent(None), TypeError, "found NoneType", "annotated"),
    "map of no column": (lambda a: pl.latent(a, "x"), KeyError, "obs['x']", "Name one of these"),
    "map of no columns": (lambda a: pl.latent(a, []), ValueError, "found 0"),
    "map of a set": (lambda a: pl.latent(a, {"group"}), TypeError, "{'group'}", "one by one"),
    "map method": (lambda a: pl.latent(a, method="pca"), ValueError, "'umap', 'tsne'", "found 'pca'"),
    "map basis": (lambda a: pl.latent(a, basis="X_x"), KeyError, "obsm['X_x']", "found the keys"),
    "map space": (lambda a: pl.latent(a, use_rep="X_x"), KeyError, "obsm['X_x']", "use_rep="),
    "map seed": (lambda a: pl.latent(a, seed=-1), ValueError, "`seed`", "found -1"),
    "dots of no column": (lambda a: pl.markers(a, groupby="x"), KeyError, "obs['x']"),
    "dots of no genes": (lambda a: pl.markers(a, groupby="group", n_genes=0), ValueError, "`n_genes`", "found 0"),
    "dots of a number": (lambda a: pl.markers(a, 3, groupby="group"), TypeError, "found 3", "rank_markers"),
    "violins of text": (lambda a: pl.confidence(a, confidence_key="group"), ValueError, "numbers", "category"),
    "violins of nothing": (lambda a: pl.confidence(a, confidence_key="x"), KeyError, "obs['x']"),
    "violins line": (lambda a: pl.confidence(a, min_confidence=3), ValueError, "from 0 to 1", "found 3"),
    "bars of no column": (lambda a: pl.cluster_sizes(a, groupby="x"), KeyError, "obs['x']"),
    "two groupings": (lambda a: pl.comparison(a, "group", "x"), KeyError, "obs['x']"),
    "no history": (lambda a: pl.history(None), ValueError, "found no history", "model.train()"),
    "no curve": (lambda a: pl.n_clusters(None), ValueError, "found none", "n_clusters=None"),
    "lengths": (lambda a: metrics.ari([1, 2], [1]), ValueError, "found 2 labels and 1 clusters", "same cells"),
    "no labels": (lambda a: metrics.nmi([], []), ValueError, "at least one cell", "found none"),
    "missing labels": (lambda a: metrics.accuracy([1, np.nan], [1, 2]), ValueError, "1 missing of 2", "Drop"),
    "table of labels": (lambda a: metrics.macro_f1([[1, 2]], [[1, 2]]), ValueError, "one-dimensional", "(1, 2)"),
    "matching": (lambda a: metrics.match_clusters([1], [1], method="x"), ValueError, "'hungarian'", "found 'x'"),
    "overlap": (lambda a: metrics.marker_overlap(a, "group", "group", n_top=0), ValueError, "n_top", "found 0"),
    "overlap column": (lambda a: metrics.marker_overlap(a, "x", "group"), KeyError, "obs['x']"),
}


@pytest.mark.parametrize("case", TABLES_AND_PICTURES)
def test_tables_and_pictures_refuse(trained, refused, case):
    act, error, *words = TABLES_AND_PICTURES[case]
    before = plt.get_fignums()
    with refused(trained.adata, error, *words):
        act(trained.adata)
    assert plt.get_fignums() == before


# name: (act with a report in a folder, error, words)
REPORTS = {
    "nothing": (lambda m, p: scgpcl.report(None, m, p / "r.html"), TypeError, "found NoneType"),
    "no model": (lambda m, p: scgpcl.report(m.adata, None, p / "r.html"), TypeError, "`model`", "found NoneType"),
    "suffix": (lambda m, p: scgpcl.report(m.adata, m, p / "r.txt"), InputError, ".html", "r.txt"),
    "folder": (
        lambda m, p: scgpcl.report(m.adata, m, p / "no" / "r.html"),
        InputError,
        "existing folder",
        "Make it first",
    ),
    "column": (lambda m, p: scgpcl.report(m.adata, m, p / "r.html", key="x"), KeyError, "obs['x']", "annotate"),
    "labels": (lambda m, p: scgpcl.report(m.adata, m, p / "r.html", label_key="x"), KeyError, "obs['x']"),
    "markers": (lambda m, p: scgpcl.report(m.adata, m, p / "r.html", markers=3), TypeError, "found 3", "rank_markers"),
    "seed": (lambda m, p: scgpcl.report(m.adata, m, p / "r.html", seed="x"), ValueError, "`seed`", "found 'x'"),
}


@pytest.mark.parametrize("case", REPORTS)
def test_reports_are_refused_and_older_ones_stay(trained, refused, tmp_path, case):
    act, error, *words = REPORTS[case]
    (tmp_path / "r.html").write_text("older")
    with refused([trained.adata, tmp_path], error, *words):
        act(trained, tmp_path)

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

#: Columns with types, genes and weights in the tables of decoupler, PanglaoDB and others, in lower case.
TYPE_COLUMNS = ("source", "cell type", "cell_type", "celltype", "type")
GENE_COLUMNS = ("target", "genesymbol", "official gene symbol", "gene_symbol", "gene", "symbol")
WEIGHT_COLUMN = "weight"


def marker_sets(source: Any, *, n_genes: int = 20) -> dict[str, list[str]]:
    """Read the marker genes of each type from an existing table or model.

    Parameters
    ----------
    source
        A dictionary ``{type: [genes]}``; a table with one row per type and gene, such as the tables of decoupler
        (``source``, ``target``, ``weight``) and PanglaoDB (``cell type``, ``official gene symbol``), or a csv or tsv
        file with such a table; or a CellTypist model, as an object or a ``.pkl`` file. The genes with the largest
        weights are taken from a model. A pickle file can run code when it is read, so only use models that you trust.
    n_genes
        Maximum number of genes per type, if the source has weights.

    Returns
    -------
    Genes of each type, sorted by decreasing weight, or in the order of the source if there are no weights.

    Raises
    ------
    FileNotFoundError
        If the file does not exist.
    ImportError
        If CellTypist is required to read a model but is not installed.
    TypeError
        If the source is none of these.
    ValueError
        If a table lacks a column of types or of genes.
    """
    if isinstance(source, Mapping):
        given: dict[str, Any] = {
            name: genes if isinstance(genes, str) else list(genes) for name, genes in source.items()
        }
        return given
    if isinstance(source, str | Path):
        path = Path(source)
        if not path.is_file():
            msg = f"Expected a table of marker genes, found no file at {path}. Check the path."
            raise FileNotFoundError(msg)
        if path.suffix != ".pkl":
            separator = "\t" if ".tsv" in path.suffixes else ","
            return marker_sets(pd.read_csv(path, sep=separator), n_genes=n_genes)
        try:
            from celltypist.models import Model
        except ImportError as error:
            error.add_note("Models of CellTypist need the package. Install it: pip install 'scgpcl[celltypist]'.")
            raise
        source = Model.load(str(path))
    if hasattr(source, "classifier") and hasattr(source, "cell_types"):
        return _of_weights(source, n_genes)
    if not isinstance(source, pd.DataFrame):
        msg = (
            "Expected marker genes as a dictionary from types to genes, a table, a csv or tsv file, or a CellTypist model, "
            f"found {type(source).__name__}."
        )
        raise TypeError(msg)
    names: dict[str, Any] = {str(name).strip().lower(): name for name in source}
    columns: list[Any] = [
        next((names[each] for each in known if each in names), None) for known in (TYPE_COLUMNS, GENE_COLUMNS)
    ]
    if None in columns:
        msg = (
            f"Expected a column of types ({', '.join(TYPE_COLUMNS)}) and one of genes ({', '.join(GENE_COLUMNS)}), found "
            f"{list(source.columns)}. Rename the columns."
        )
        raise ValueError(msg)
    table = source.dropna(subset=columns)
    if WEIGHT_COLUMN in names:
        table = table.sort_values(names[WEIGHT_COLUMN], ascending=False, kind="stable")
    found = {
        str(name): list(dict.fromkeys(own[columns[1]].astype(str)))
        for name, own in table.groupby(columns[0], sort=False)
    }
    return {name: genes[:n_genes] for name, genes in found.items()} if WEIGHT_COLUMN in names else found


def _of_weights(model: Any, n_genes: int) -> dict[str, list[str]]:
    """Return the genes with the largest weights in a multinomial or one-versus-rest regression."""
    weight = np.atleast_2d(np.asarray(model.classifier.coef_))
    types, genes = [str(name) for name in model.cell_types], np.asarray(model.classifier.features).astype(str)
    if len(weight) == 1 and len(types) == 2:  # two types share one row
        weight = np.stack([-weight[0], weight[0]])
    order = np.argsort(-weight, axis=1, kind="stable")[:, :n_genes]
    return {
        name: [str(genes[gene]) for gene in own if weight[i, gene] > 0]
        for i, (name, own) in enumerate(zip(types, order, strict=True))
    }


def same_type(first: str, second: str) -> bool:
    """Return whether two names denote the same type, or a type and its subtype.

    For example, "B cells" and "Naive B cell" do, but "B cells" and "NK cell" do not.
    """
    words = [
        {re.sub(r"s$", "", word) for word in re.findall(r"[a-z0-9+]+", name.lower())} - {"cell"}
        for name in (first, second)
    ]
    return bool(words[0] and words[1]) and (words[0] <= words[1] or words[1] <= words[0])

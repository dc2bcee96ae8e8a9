from importlib.resources import as_file, files

import anndata as ad
import numpy as np
from scipy import sparse


def pbmc3k() -> ad.AnnData:
    """Peripheral blood mononuclear cells of a healthy donor, with published cell types.

    The file comes with the package; nothing is downloaded. Every call reads it anew, so the result is the caller's own.

    Returns
    -------
    AnnData of 2638 cells and 13714 genes: those seen in at least three of the 2700 cells before quality control, so one
    has no count left.

    `.X`
        Raw UMI counts, CSR float32.
    `.layers["counts"]`
        A copy of the same counts, to keep while `.X` is normalised.
    `.obs["cell_type"]`
        Nine published types (categorical). They come from clustering and marker genes, not from an independent
        measurement, so perfect agreement is neither expected nor proof of quality.
    `.obs_names`, `.var_names`
        Cell barcodes and gene symbols.
    `.uns["source"]`
        Origin, licence and protocol of counts and labels.

    Notes
    -----
    Counts: 10x Genomics, "3k PBMCs from a Healthy Donor", Chromium v1 chemistry, Cell Ranger 1.1.0, licence CC BY 4.0.
    Labels: the guided clustering tutorial of Seurat (Satija lab), also followed by the scanpy tutorial.

    Examples
    --------
    >>> adata = scgpcl.datasets.pbmc3k()
    >>> adata.obs["cell_type"].nunique()
    9
    """
    with as_file(files(__package__) / "data" / "pbmc3k.h5ad") as path:
        adata = ad.read_h5ad(path)
    # The file stores small integers column-wise, which makes it half the size; users expect CSR float32.
    counts = sparse.csr_matrix(adata.X, dtype=np.float32)
    adata.X = counts
    adata.layers["counts"] = counts.copy()
    return adata

from importlib.resources import as_file, files

import anndata as ad
import numpy as np
from scipy import sparse


def pbmc3k() -> ad.AnnData:
    """Peripheral blood mononuclear cells of a healthy donor, with published cell types.

    The file is bundled with the package, so nothing is downloaded. Each call returns a new object.

    Returns
    -------
    AnnData with 2638 cells and 13714 genes. The genes were detected in at least three of the 2700 cells before quality
    control; one of them has no counts in the remaining cells.

    ``.X``
        Raw UMI counts, CSR float32.
    ``.layers["counts"]``
        Copy of the same counts, which stays raw when you normalise ``.X``.
    ``.obs["cell_type"]``
        Nine published types (categorical). They were assigned from clusters and marker genes, not measured
        independently, so perfect agreement is neither expected nor proof of quality.
    ``.obs_names``, ``.var_names``
        Cell barcodes and gene symbols.
    ``.uns["source"]``
        Origin, licence and protocol of the counts and labels.

    Notes
    -----
    Counts: 10x Genomics, "3k PBMCs from a Healthy Donor", Chromium v1 chemistry, Cell Ranger 1.1.0, licence CC BY 4.0.
    Labels: the guided clustering tutorial of Seurat (Satija lab), which the scanpy tutorial follows.

    Examples
    --------
    >>> adata = scgpcl.datasets.pbmc3k()
    >>> adata.obs["cell_type"].nunique()
    9
    """
    return _read("pbmc3k.h5ad")


def worm_neurons() -> ad.AnnData:
    """Neurons of worm larvae, with very sparse counts and ten published cell types.

    The cells are from the second larval stage of *Caenorhabditis elegans*. This is the complete data set used in the
    scDeepCluster and scGPCL papers. The file is bundled with the package, so nothing is downloaded. Each call returns a
    new object.

    Returns
    -------
    AnnData with 4186 cells and 13488 genes.

    ``.X``
        Raw UMI counts, CSR float32. The median cell has 246 counts.
    ``.layers["counts"]``
        Copy of the same counts, which stays raw when you normalise ``.X``.
    ``.obs["cell_type"]``
        Ten published types (categorical), coded as ``type1`` to ``type10``.
    ``.obs_names``, ``.var_names``
        Placeholders. The original file does not name types, genes or cells, so marker genes cannot be looked up.
    ``.uns["source"]``
        Origin, licence and protocol of the counts and labels.

    Notes
    -----
    Counts: GEO series GSE98561, sci-RNA-seq (Cao et al. 2017). The neurons with a published type were collected by Tian
    et al. (2019). Their file, from a repository under the Apache licence 2.0, is stored here in a different format,
    together with the text of the licence.

    References
    ----------
    Cao et al. (2017). Comprehensive single-cell transcriptional profiling of a multicellular organism. Science 357, 661.

    Tian et al. (2019). Clustering single-cell RNA-seq data with a model-based deep learning approach. Nature Machine
    Intelligence 1, 191.

    Examples
    --------
    >>> adata = scgpcl.datasets.worm_neurons()
    >>> adata.shape
    (4186, 13488)
    """
    return _read("worm_neurons.h5ad")


def _read(name: str) -> ad.AnnData:
    with as_file(files(__package__) / "data" / name) as path:
        adata = ad.read_h5ad(path)
    # the file stores small integers by column, which halves its size; users expect CSR float32
    counts = sparse.csr_matrix(adata.X, dtype=np.float32)
    adata.X = counts
    adata.layers["counts"] = counts.copy()
    return adata

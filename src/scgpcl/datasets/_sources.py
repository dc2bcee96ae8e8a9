"""The table of data sets that are downloaded: addresses, readers and published sizes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from . import _readers

if TYPE_CHECKING:
    from collections.abc import Callable

_GEO = "https://ftp.ncbi.nlm.nih.gov/geo/series"
_TENX = "https://cf.10xgenomics.com/samples/cell-exp/2.1.0/pbmc4k"
_FIGSHARE = "https://ndownloader.figshare.com/files"


@dataclass(frozen=True)
class File:
    """A file at an address.

    Parameters
    ----------
    url
        Address.
    name
        Name in the cache.
    sha256
        Its checksum; `None` where it is not known, then that of the first download counts.
    """

    url: str
    name: str
    sha256: str | None = None


@dataclass(frozen=True, kw_only=True)
class Source:
    """A data set, where it comes from, and what is known of it.

    Parameters
    ----------
    files
        Files to download, by the name of the reader's argument.
    reader
        Function from the paths of these files to a table.
    n_cells, n_genes, n_types
        Published numbers, counting only genes with a count; `None` where no source says so.
    in_paper
        Whether Lee et al. (2023) use it.
    accession, paper, protocol
        Where the counts come from.
    remarks
        What a user must know.
    counts
        Whether the values are counts.
    """

    files: dict[str, File]
    reader: Callable[..., _readers.Table]
    n_cells: int
    n_genes: int | None
    n_types: int
    in_paper: bool = True
    accession: str
    paper: str
    protocol: str
    remarks: str = ""
    counts: bool = True


def _geo(accession: str, name: str) -> File:
    return File(f"{_GEO}/{accession[:-3]}nnn/{accession}/suppl/{name}", name)


SOURCES = {
    "camp": Source(
        files={
            "lineage": _geo("GSE81252", "GSE81252_data.cast.log2.lineage.csv.gz"),
            "liverbud": _geo("GSE81252", "GSE81252_data.cast.log2.liverbud.csv.gz"),
        },
        reader=_readers.camp,
        n_cells=777,
        n_genes=None,
        n_types=7,
        accession="GSE81252",
        paper="Camp et al., Nature 546, 533 (2017)",
        protocol="SMARTer",
        remarks="log2 values, not counts: SCGPCL refuses them",
        counts=False,
    ),
    "mouse_es": Source(
        files={"archive": _geo("GSE65525", "GSE65525_RAW.tar")},
        reader=_readers.mouse_es,
        n_cells=2717,
        n_genes=None,
        n_types=4,
        accession="GSE65525",
        paper="Klein et al., Cell 161, 1187 (2015)",
        protocol="inDrop",
        remarks="types are days, each from one library: type and batch cannot be told apart",
    ),
    "mouse_bladder": Source(
        files={
            "archive": File(f"{_FIGSHARE}/10756795?private_link=865e694ad06d5857db4b", "MCA_BatchRemove_dge.zip"),
            "cells": File(f"{_FIGSHARE}/11083451?private_link=865e694ad06d5857db4b", "MCA_CellAssignments.csv"),
        },
        reader=_readers.mouse_bladder,
        n_cells=2746,
        n_genes=None,
        n_types=16,
        accession="GSE108097",
        paper="Han et al., Cell 172, 1091 (2018)",
        protocol="Microwell-seq",
        remarks="types are published clusters, their names are in obs['annotation']",
    ),
    "zeisel": Source(
        files={
            "counts": _geo("GSE60361", "GSE60361_C1-3005-Expression.txt.gz"),
            "cells": File(
                "https://storage.googleapis.com/linnarsson-lab-www-blobs/blobs/cortex/expression_mRNA_17-Aug-2014.txt",
                "expression_mRNA_17-Aug-2014.txt",
            ),
        },
        reader=_readers.zeisel,
        n_cells=3005,
        n_genes=None,
        n_types=9,
        accession="GSE60361",
        paper="Zeisel et al., Science 347, 1138 (2015)",
        protocol="STRT-seq UMI (Fluidigm C1)",
    ),
    "pbmc4k": Source(
        files={
            "matrix": File(
                f"{_TENX}/pbmc4k_filtered_gene_bc_matrices.tar.gz", "pbmc4k_filtered_gene_bc_matrices.tar.gz"
            ),
            "analysis": File(f"{_TENX}/pbmc4k_analysis.tar.gz", "pbmc4k_analysis.tar.gz"),
        },
        reader=_readers.pbmc4k,
        n_cells=4340,
        n_genes=19773,
        n_types=8,
        accession="10x Genomics, 4k PBMCs from a Healthy Donor",
        paper="Zheng et al., Nature Communications 8, 14049 (2017)",
        protocol="10x v2",
        remarks="types are Cell Ranger's clusters of the same counts",
    ),
    "human_kidney": Source(
        files={
            "matrix": File(
                "https://github.com/xuebaliang/scziDesk/raw/master/dataset/Young/data.h5", "scziDesk_Young_data.h5"
            )
        },
        reader=_readers.human_kidney,
        n_cells=5685,
        n_genes=None,
        n_types=11,
        accession="supplementary data of the paper",
        paper="Young et al., Science 361, 594 (2018)",
        protocol="10x",
        remarks="the subset of 5685 cells of the scziDesk authors",
    ),
    "baron_human": Source(
        files={"archive": _geo("GSE84133", "GSE84133_RAW.tar")},
        reader=_readers.baron_human,
        n_cells=8569,
        n_genes=None,
        n_types=14,
        accession="GSE84133",
        paper="Baron et al., Cell Systems 3, 346 (2016)",
        protocol="inDrop",
        remarks="four donors",
    ),
    "baron_mouse": Source(
        files={"archive": _geo("GSE84133", "GSE84133_RAW.tar")},
        reader=_readers.baron_mouse,
        n_cells=1886,
        n_genes=14861,
        n_types=13,
        in_paper=False,
        accession="GSE84133",
        paper="Baron et al., Cell Systems 3, 346 (2016)",
        protocol="inDrop",
        remarks="two mice",
    ),
    "shekhar": Source(
        files={
            "counts": _geo("GSE81904", "GSE81904_BipolarUMICounts_Cell2016.txt.gz"),
            "cells": File(
                "https://scrnaseq-public-datasets.s3.amazonaws.com/manual-data/shekhar/clust_retinal_bipolar.txt",
                "clust_retinal_bipolar.txt",
            ),
        },
        reader=_readers.shekhar,
        n_cells=27499,
        n_genes=13166,
        n_types=19,
        accession="GSE81904",
        paper="Shekhar et al., Cell 166, 1308 (2016)",
        protocol="Drop-seq",
        remarks="one of the 19 published groups is doublets and contaminants; reading takes minutes",
    ),
}

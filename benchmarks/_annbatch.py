"""Cluster the cells of an annbatch collection, in the process that ``benchmarks.million`` measures.

python -m benchmarks._annbatch CELLS.h5ad COLLECTION.zarr LABELS.npy N_CLUSTERS SEED
"""

import sys
import warnings
from pathlib import Path

import numpy as np

import scgpcl


def main() -> None:
    source, collection, labels = (Path(name) for name in sys.argv[1:4])
    warnings.simplefilter("ignore")  # those of scvi-tools, annbatch and zarr about each other
    if not collection.exists():
        scgpcl.SCGPCL.setup_annbatch(str(collection), paths=[str(source)], preload_to_gpu=False)
        return
    datamodule = scgpcl.SCGPCL.setup_annbatch(str(collection), rebuild=False, preload_to_gpu=False)
    model = scgpcl.SCGPCL(registry=datamodule.registry, n_clusters=int(sys.argv[4]), seed=int(sys.argv[5]))
    model.train(datamodule=datamodule, enable_progress_bar=False)
    np.save(labels, model.predict(dataloader=datamodule.inference_dataloader()).astype(str))


if __name__ == "__main__":
    main()

"""Training from the data modules of scvi-tools and from collections: the same as from the cells in memory."""

import inspect
import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from anndata.experimental import AnnCollection
from lightning.pytorch import LightningDataModule

import scgpcl
from scgpcl.data import Cells, CollectionDataModule, DataModuleCounts, _datamodule, row_blocks

TRAIN = {"pretrain_max_epochs": 2, "cluster_max_epochs": 1, "accelerator": "cpu", "enable_progress_bar": False}
SMALL = {"n_clusters": 3, "n_hidden": 16, "n_latent": 8, "n_top_genes": 30, "seed": 3}


@pytest.fixture
def files(adata, tmp_path):
    """Two files with the cells of ``adata``, counts also in a layer."""
    adata.layers["counts"] = adata.X.copy()
    paths = [tmp_path / "a.h5ad", tmp_path / "b.h5ad"]
    for path, part in zip(paths, (adata[:50], adata[50:]), strict=True):
        part.copy().write_h5ad(path)
    return paths


@pytest.fixture
def collection(files):
    return AnnCollection({path.stem: ad.read_h5ad(path, backed="r") for path in files}, label="file")


class Hand(LightningDataModule):
    """What scvi-tools' data modules give: dense counts and codes of batches in an order of their own."""

    def __init__(self, adata, batches=("b", "a"), *, shuffle=False, drop=0, shift=0):
        super().__init__()
        self.x = adata.X.toarray()
        self.codes = pd.Categorical(adata.obs["batch"], categories=list(batches)).codes.astype(np.int64) + shift
        self.n_obs, self.n_vars = self.x.shape
        self.n_given = self.n_obs - drop
        self.rng = np.random.default_rng(0) if shuffle else None
        self.registry = {
            "scvi_version": "1",
            "model_name": "SCVI",
            "setup_method_name": "setup_datamodule",
            "setup_args": {"layer": None, "batch_key": "batch", "labels_key": None},
            "field_registries": {
                "X": {"state_registry": {"n_obs": self.n_obs, "n_vars": self.n_vars, "column_names": adata.var_names}},
                "batch": {"state_registry": {"categorical_mapping": np.array(batches), "original_key": "batch"}},
            },
        }

    def inference_dataloader(self):
        order = np.arange(self.n_given) if self.rng is None else self.rng.permutation(self.n_given)
        for rows in np.array_split(order, 4):
            yield {
                "X": torch.from_numpy(self.x[rows]),
                "batch": torch.from_numpy(self.codes[rows, None]),
                "labels": None,
            }


def trained(datamodule, **train):
    model = scgpcl.SCGPCL(registry=datamodule.registry, **SMALL)
    model.train(**{**TRAIN, **train}, datamodule=datamodule)
    return model


def in_memory(adata, **setup):
    scgpcl.SCGPCL.setup_anndata(adata, **setup)
    model = scgpcl.SCGPCL(adata, **SMALL)
    model.train(**TRAIN)
    return model


@pytest.mark.parametrize("layer", [None, "counts"])
@pytest.mark.parametrize("batch_key", [None, "batch"])
def test_a_collection_of_files_trains_like_its_cells_in_memory(adata, collection, layer, batch_key, monkeypatch):
    monkeypatch.setattr(_datamodule, "READ_ROWS", 32)
    datamodule = CollectionDataModule(collection, layer=layer, batch_key=batch_key)
    model, memory = trained(datamodule), in_memory(adata, layer=layer, batch_key=batch_key)
    wanted = memory.get_latent_representation()
    z = model.get_latent_representation(dataloader=datamodule.inference_dataloader())
    np.testing.assert_array_equal(z, wanted)
    np.testing.assert_array_equal(model.predict(dataloader=datamodule.inference_dataloader()), memory.predict())
    np.testing.assert_array_equal(model.get_latent_representation(adata), wanted)
    assert model.adata is None


def test_the_label_of_a_collection_can_be_the_batch(adata, collection):
    datamodule = CollectionDataModule(collection, batch_key="file")
    model = trained(datamodule)
    adata.obs["file"] = ["a"] * 50 + ["b"] * 70
    memory = in_memory(adata, batch_key="file")
    np.testing.assert_array_equal(model.get_latent_representation(adata), memory.get_latent_representation())
    as_b = model.get_latent_representation(dataloader=datamodule.inference_dataloader(), transform_batch="b")
    np.testing.assert_array_equal(as_b, memory.get_latent_representation(transform_batch="b"))
    np.testing.assert_array_equal(as_b, model.get_latent_representation(adata, transform_batch="b"))


def test_batches_of_a_collection_are_in_the_order_of_their_names(files):
    parts = {name: ad.read_h5ad(path, backed="r") for name, path in zip(["z", "y"], files, strict=True)}
    datamodule = CollectionDataModule(AnnCollection(parts, label="file"), batch_key="file")
    fields = datamodule.registry["field_registries"]
    assert list(fields["batch"]["state_registry"]["categorical_mapping"]) == ["y", "z"]
    codes = np.concatenate([tensors["batch"][:, 0] for tensors in datamodule.inference_dataloader()])
    np.testing.assert_array_equal(codes, [1] * 50 + [0] * 70)


def test_dense_batches_with_codes_in_another_order_train_like_the_cells_in_memory(adata):
    datamodule = Hand(adata)
    adata.obs["batch"] = pd.Categorical(adata.obs["batch"], categories=["b", "a"])
    model, memory = trained(datamodule), in_memory(adata, batch_key="batch")
    z = model.get_latent_representation(dataloader=datamodule.inference_dataloader())
    np.testing.assert_array_equal(z, memory.get_latent_representation())
    soft = model.predict(dataloader=datamodule.inference_dataloader(), soft=True)
    np.testing.assert_array_equal(soft.to_numpy(), memory.predict(soft=True).to_numpy())
    assert list(soft.index) == list(range(120))


def test_annbatch_trains_like_its_cells_in_memory(adata, files, tmp_path):
    annbatch = pytest.importorskip("annbatch")
    if not hasattr(scgpcl.SCGPCL, "setup_annbatch"):
        pytest.skip("this version of scvi-tools has no setup_annbatch")
    if "to_torch" not in inspect.signature(annbatch.Loader).parameters:
        pytest.skip("scvi-tools passes `to_torch` to annbatch, which this version of annbatch does not take")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scvi-tools, annbatch and zarr of each other
        datamodule = scgpcl.SCGPCL.setup_annbatch(
            collection_path=str(tmp_path / "cells.zarr"),
            paths=[str(path) for path in files],
            batch_key="batch",
            preload_to_gpu=False,
        )
    model, memory = trained(datamodule), in_memory(adata, batch_key="batch")
    z = model.get_latent_representation(dataloader=datamodule.inference_dataloader())
    np.testing.assert_array_equal(z, memory.get_latent_representation())


@pytest.mark.parametrize("safe", [False, True])
def test_a_model_of_a_data_module_is_saved_loaded_and_trained_on(adata, tmp_path, safe):
    datamodule = Hand(adata)
    model = trained(datamodule)
    z = model.get_latent_representation(adata)
    model.save(tmp_path / "model", safe=safe)
    alone = scgpcl.SCGPCL.load(tmp_path / "model", adata=False)
    np.testing.assert_array_equal(alone.get_latent_representation(adata), z)
    registered = scgpcl.SCGPCL.load(tmp_path / "model", adata=adata)
    np.testing.assert_array_equal(registered.get_latent_representation(), z)
    np.testing.assert_array_equal(registered.predict(), model.predict(adata))
    with pytest.raises(ValueError, match=r"Expected cells to train on.*`adata=`.*`datamodule`"):
        alone.train(**TRAIN)
    alone.train(**TRAIN, datamodule=datamodule)
    model.train(**TRAIN)  # the same cells again
    np.testing.assert_array_equal(alone.get_latent_representation(adata), model.get_latent_representation(adata))


def test_a_run_from_a_data_module_goes_on_from_its_checkpoint(adata, tmp_path):
    datamodule = Hand(adata)
    whole = trained(datamodule)
    path = tmp_path / "run.ckpt"
    trained(datamodule, pretrain_max_epochs=1, cluster_max_epochs=0, checkpoint=path)
    resumed = trained(datamodule, resume_from=path)
    np.testing.assert_array_equal(*(model.get_latent_representation(adata) for model in (whole, resumed)))


def test_decoder_and_update_take_the_cells_of_the_data_module(adata):
    datamodule, query = Hand(adata, ("a", "b")), adata[:40].copy()
    model, memory = trained(datamodule), in_memory(adata, batch_key="batch")
    kwargs = {"max_epochs": 1, "accelerator": "cpu", "enable_progress_bar": False}
    for each in (model, memory):
        each.train_decoder(**kwargs)
        each.update(query, **kwargs)
    values = [each.get_normalized_expression(query, return_numpy=True) for each in (model, memory)]
    np.testing.assert_array_equal(*values)


def test_annotating_other_cells_leaves_the_model_as_it_is(adata):
    model = trained(Hand(adata))
    model.annotate(adata)
    np.testing.assert_array_equal(adata.obsm["X_scgpcl"], model.get_latent_representation(adata))
    with pytest.raises(ValueError, match=r"Expected an AnnData, found none.*Pass `adata=`"):
        model.annotate()


def test_only_the_genes_of_the_model_are_kept_in_memory(adata):
    counts = DataModuleCounts(Hand(adata))
    assert [block.shape for block in row_blocks(counts)] == [(30, 60)] * 4
    np.testing.assert_array_equal(counts.library, np.asarray(adata.X.sum(1)).ravel())
    source = Cells(counts, np.ones(120), np.array([7, 3]))
    np.testing.assert_array_equal(source.rows(np.array([100, 5])).toarray(), adata.X[[100, 5]][:, [7, 3]].toarray())


@pytest.mark.parametrize(("largest", "bytes_per_entry"), [(255, 2), (256, 3), (2**16, 5), (2**24, 5)])
def test_counts_are_kept_in_the_smallest_types_that_hold_them(adata, largest, bytes_per_entry):
    adata.X[-1, 7] = largest  # in the last block
    datamodule = Hand(adata)
    genes = np.array([7, 3, 20, 21])
    packed = DataModuleCounts(datamodule).columns(genes)
    expected = adata.X[:, genes]
    assert packed.data.itemsize + packed.indices.itemsize == bytes_per_entry
    assert packed.shape == expected.shape
    for rows in (slice(30, 60), np.array([99, 0, 0, 5]), np.arange(0)):
        assert packed[rows].dtype == np.float32
        np.testing.assert_array_equal(packed[rows].toarray(), expected[rows].toarray())


@pytest.mark.parametrize("layout", [torch.sparse_csr, torch.sparse_coo, torch.strided])
def test_tensors_of_any_layout_give_the_counts(counts, layout):
    dense = torch.from_numpy(counts.toarray())
    x = {"X": dense if layout is torch.strided else dense.to_sparse(layout=layout)}
    block, codes = scgpcl.data.tensors_to_counts(x, counts.shape[1])
    np.testing.assert_array_equal(block.toarray(), counts.toarray())
    np.testing.assert_array_equal(codes, np.zeros(counts.shape[0]))


class TestRefused:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"shuffle": True}, r"Expected the data module to give its cells in one order.*without shuffling"),
            ({"drop": 5}, r"Expected the 120 cells of the data module, found 115.*drops none"),
            ({"shift": 1}, r"Expected batch codes from 0 to 1.*found 1 to 2"),
        ],
    )
    def test_loaders_that_cannot_be_trained_from(self, adata, change, message):
        datamodule = Hand(adata, **change)
        model = scgpcl.SCGPCL(registry=datamodule.registry, **SMALL)
        with pytest.raises(ValueError, match=message):
            model.train(**TRAIN, datamodule=datamodule)
        assert not model.is_trained_

    def test_loaders_that_mix_cells_of_one_library_size(self, adata):
        x = adata.X.toarray()
        x[:, 0] += 2.0 * x.sum(1).max() - x.sum(1)
        adata.X = sp.csr_matrix(x)
        assert len(np.unique(x.sum(1))) == 1
        datamodule = Hand(adata, shuffle=True)
        counts = DataModuleCounts(datamodule)
        assert len(list(counts.row_blocks())) == 4
        with pytest.raises(ValueError, match=r"Expected the data module to give its cells in one order"):
            list(counts.row_blocks())
        datamodule.rng = None
        counts = DataModuleCounts(datamodule)
        for _ in range(2):
            list(counts.row_blocks())
        datamodule.codes = datamodule.codes[::-1].copy()
        with pytest.raises(ValueError, match=r"Expected the data module to give its cells in one order"):
            list(counts.row_blocks())

    def test_values_that_are_no_counts(self, adata):
        adata.X = adata.X * 0.5
        datamodule = Hand(adata)
        model = scgpcl.SCGPCL(registry=datamodule.registry, **SMALL)
        with pytest.raises(ValueError, match=r"Expected whole counts in the data module"):
            model.train(**TRAIN, datamodule=datamodule)

    def test_a_data_module_without_a_registry(self, adata):
        model = trained(Hand(adata))
        with pytest.raises(
            TypeError, match=r"Expected a data module with a registry.*found LightningDataModule without"
        ):
            model.train(**TRAIN, datamodule=LightningDataModule())

    @pytest.mark.parametrize("registry", [{}, {"field_registries": {}}, {"field_registries": None, "setup_args": {}}])
    def test_registries_of_something_else(self, registry):
        with pytest.raises(ValueError, match=r"Expected the registry of a data module with genes and batches"):
            scgpcl.SCGPCL(registry={"setup_method_name": "setup_datamodule", **registry}, n_clusters=3)

    def test_repeated_genes(self, adata):
        adata.var_names = ["gene0", *adata.var_names[:-1]]
        with pytest.raises(ValueError, match=r"Expected unique names.*'gene0'"):
            scgpcl.SCGPCL(registry=Hand(adata).registry, n_clusters=3)

    def test_a_data_module_of_other_genes_or_batches(self, adata):
        model = trained(Hand(adata))
        with pytest.raises(ValueError, match=r"Expected the 60 genes of the model in its order"):
            model.train(**TRAIN, datamodule=Hand(adata[:, ::-1]))
        with pytest.raises(ValueError, match=r"Expected the batches of the model, 'b', 'a', .*found 'a', 'b'"):
            model.train(**TRAIN, datamodule=Hand(adata, ("a", "b")))

    def test_a_data_module_beside_an_anndata(self, adata, fit, untouched):
        model = fit(adata, train=TRAIN)
        with untouched(adata), pytest.raises(ValueError, match=r"Expected a model without an AnnData.*registry="):
            model.train(**TRAIN, datamodule=Hand(adata))

    def test_loaders_of_something_else(self, adata):
        model = trained(Hand(adata))
        for dataloader, error, message in (
            ([np.ones((2, 60))], TypeError, r"Expected mini-batches of scvi-tools.*found ndarray"),
            ([{"X": torch.ones(2, 59)}], ValueError, r"Expected cells of 60 genes.*\(2, 59\)"),
            ([{"X": torch.full((2, 60), 0.5)}], ValueError, r"Expected whole counts in the data loader"),
            (
                [{"X": torch.ones(2, 60), "batch": torch.full((2, 1), 2)}],
                ValueError,
                r"Expected batch codes from 0 to 1",
            ),
        ):
            with pytest.raises(error, match=message):
                model.predict(dataloader=dataloader)
        with pytest.raises(ValueError, match=r"Expected `dataloader` alone"):
            model.predict(adata, dataloader=[])
        assert model.get_latent_representation(dataloader=[]).shape == (0, 8)

    def test_a_loader_where_the_model_has_size_factors(self, adata, fit):
        adata.obs["size"] = np.asarray(adata.X.sum(1)).ravel()
        model = fit(adata, setup={"size_factor_key": "size"}, train=TRAIN)
        with pytest.raises(ValueError, match=r"Expected an AnnData, because the model was set up with size factors"):
            model.predict(dataloader=Hand(adata).inference_dataloader())

    def test_collections_without_the_layer_or_the_column(self, collection, adata):
        with pytest.raises(KeyError, match=r"Expected raw counts in `layers\['raw'\]` of all parts.*parts \[0, 1\]"):
            CollectionDataModule(collection, layer="raw")
        with pytest.raises(KeyError, match=r"Expected `batch_key='donor'` to be a column.*'file'"):
            CollectionDataModule(collection, batch_key="donor")
        with pytest.raises(TypeError, match=r"Expected `collection` to be an AnnCollection, found AnnData"):
            CollectionDataModule(adata)

    def test_a_batch_that_is_missing(self, adata):
        adata.obs["donor"] = pd.Series(["a"] * 119 + [None], index=adata.obs_names, dtype=object)
        with pytest.raises(ValueError, match=r"Expected a value for every cell in `obs\['donor'\]`, found 1 missing"):
            CollectionDataModule(AnnCollection([adata]), batch_key="donor")


def test_a_collection_of_dense_parts_is_read(adata):
    dense = adata.copy()
    dense.X = adata.X.toarray()
    datamodule = CollectionDataModule(AnnCollection([dense[:60].copy(), dense[60:].copy()]))
    blocks = sp.vstack(list(DataModuleCounts(datamodule).row_blocks()))
    np.testing.assert_array_equal(blocks.toarray(), dense.X)

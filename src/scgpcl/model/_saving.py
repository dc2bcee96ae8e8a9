"""Models in files: written whole or not at all, read with an error for each way in which a file can be wrong."""

from __future__ import annotations

import inspect
import os
import pickle
import shutil
import tempfile
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch

from scgpcl.model import _checks
from scgpcl.model._base import ModelState
from scgpcl.model._safe_file import JSON_NAME, WEIGHTS_NAME, read_safe, write_safe

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anndata import AnnData

#: Version of the format of saved models; a file of a later one cannot be read.
FORMAT = 1
PICKLE_NAME = "model.pt"
_PARTS = ("model_state_dict", "var_names", "attr_dict")
#: What every saved model has.
_ATTRIBUTES = ("registry_", "init_params_", "n_clusters_", "seed_", "gene_names_", "selected_genes_", "is_trained_")


class Persistence(ModelState):
    """``save`` and ``load``."""

    #: Version of the format and of the package, written with the model.
    file_format_: dict[str, Any] | None = None

    def save(
        self,
        dir_path: str | os.PathLike[str],
        prefix: str | None = None,
        overwrite: bool = False,
        save_anndata: bool = False,
        save_kwargs: dict[str, Any] | None = None,
        *,
        safe: bool = False,
        **anndata_write_kwargs: Any,
    ) -> None:
        """Write the model to a folder; every file appears, or replaces an older one, when it is complete.

        Where several processes have trained the model, the first one writes it and the others do nothing.

        Parameters
        ----------
        dir_path
            The folder; folders around it that do not exist are made.
        prefix
            Start of the names of the files.
        overwrite
            Write into a folder that exists. Other files in it stay.
        save_anndata
            Write the registered AnnData too.
        save_kwargs
            Arguments of :func:`torch.save`.
        safe
            Write weights as safetensors and everything else as JSON instead of a pickle file: reading them runs no
            code, so that models of strangers can be loaded.
        **anndata_write_kwargs
            Arguments of :meth:`anndata.AnnData.write_h5ad`.

        Raises
        ------
        OSError
            If the system refuses, for example for lack of space; files that were there are untouched then.
        ValueError
            If the folder exists and ``overwrite`` is not set.
        """
        folder = Path(dir_path)
        _checks.check_flag(safe, "safe")
        if self.trainer is not None and not self.trainer.is_global_zero:
            return
        if folder.exists() and not (overwrite and folder.is_dir()):
            msg = (
                f"Expected a new folder for the model, found one that already exists at {folder}. "
                "Pass `overwrite=True` to replace the model in it."
            )
            raise ValueError(msg)
        # as the base class does: checkpoints of scvi-tools count on it
        folder.absolute().parent.mkdir(parents=True, exist_ok=True)
        self.file_format_ = {"format": FORMAT, "scgpcl": version("scgpcl")}
        stale = [PICKLE_NAME] if safe else [JSON_NAME, WEIGHTS_NAME]
        with _whole(folder, [f"{prefix or ''}{name}" for name in stale]) as temporary:
            super().save(
                str(temporary),
                prefix=prefix,
                overwrite=True,
                save_anndata=save_anndata,
                save_kwargs=save_kwargs,
                **anndata_write_kwargs,
            )
            if safe:
                file = temporary / f"{prefix or ''}{PICKLE_NAME}"
                write_safe(torch.load(file, map_location="cpu", weights_only=False), temporary, prefix or "")
                file.unlink()

    @classmethod
    def load(
        cls,
        dir_path: str | os.PathLike[str],
        adata: AnnData | bool | None = None,
        accelerator: str = "auto",
        device: int | str = "auto",
        prefix: str | None = None,
        **kwargs: Any,
    ) -> Self:
        """Read a model that :meth:`scgpcl.SCGPCL.save` has written.

        ``model.pt`` is a pickle file, which can run any code when it is read. Load only files you trust, or files that
        were written with ``save(..., safe=True)``, which are recognised by their names.

        Parameters
        ----------
        dir_path
            The folder.
        adata
            Cells to register with the model; ``None`` takes those saved with it, if any, and ``False`` none. Genes are
            matched by name.
        accelerator, device
            Where the model goes.
        prefix
            Start of the names of the files.
        **kwargs
            Further arguments of :meth:`scvi.model.base.BaseModelClass.load`.

        Returns
        -------
        The model.

        Raises
        ------
        FileNotFoundError
            If there is no model.
        TypeError
            If ``adata`` is no AnnData.
        ValueError
            If the file is damaged, or of another class or a later version, or if ``adata`` lacks genes of the model.
        """
        folder, prefix = Path(dir_path), prefix or ""
        if adata is not None and not isinstance(adata, bool):
            _checks.check_is_adata(adata)
        more = {"accelerator": accelerator, "device": device, "prefix": prefix, **kwargs}
        if (folder / f"{prefix}{JSON_NAME}").is_file():
            content = read_safe(folder, prefix)
            with _damage_told(folder):
                cls._check_content(content, adata, folder)
            with tempfile.TemporaryDirectory(prefix="scgpcl-") as temporary:
                # the base class reads pickle files only: this one holds what was read just now
                torch.save(content, Path(temporary) / f"{prefix}{PICKLE_NAME}")
                data = folder / f"{prefix}adata.h5ad"
                if adata is None and data.is_file():
                    os.symlink(data.absolute(), Path(temporary) / data.name)
                return cls._load(temporary, adata, **more)
        path = folder / f"{prefix}{PICKLE_NAME}"
        if path.is_file():
            content = _read_pickle(path)
            with _damage_told(path):
                cls._check_content(content, adata, path)
        elif kwargs.get("backup_url") is None:
            msg = (
                f"Expected a saved model, found no {path.name} or {prefix}{JSON_NAME} in {folder}. "
                "Check the folder and the prefix; `model.save(folder)` writes one."
            )
            raise FileNotFoundError(msg)
        return cls._load(str(folder), adata, **more)

    @classmethod
    def _load(cls, folder: str, adata: Any, **kwargs: Any) -> Self:
        inspect.signature(super().load).bind(folder, adata, **kwargs)
        try:
            with _damage_told(folder):  # what is wrong is found before the AnnData is registered
                alone = super().load(folder, False, **kwargs)
        except RuntimeError as error:
            if "state_dict" not in str(error):
                raise
            first = " ".join(str(error).split())[:300]
            msg = f"Expected the weights of the model in {folder}, found others: {first} Save the model again."
            raise ValueError(msg) from error
        return alone if adata is False else super().load(folder, adata, **kwargs)

    @classmethod
    def _check_content(cls, content: Any, adata: Any, path: Path) -> None:
        """Require a model of this class and version, and its genes in the AnnData."""
        if not isinstance(content, dict) or not all(content.get(name) is not None for name in _PARTS):
            msg = f"Expected a saved model at {path}, found a file of something else. Check the path."
            raise ValueError(msg)
        attributes = content["attr_dict"]
        written = attributes.get("file_format_") or {"format": 0, "scgpcl": "unknown"}
        name = attributes.get("registry_", {}).get("model_name")
        if name is not None and name != cls.__name__:
            msg = f"Expected a model of the class {cls.__name__} at {path}, found one of {name}. Load it with {name}."
            raise ValueError(msg)
        if written["format"] > FORMAT:
            msg = (
                f"Expected a model of format {FORMAT} or lower at {path}, found format {written['format']}, written by "
                f"scgpcl {written['scgpcl']}. Install that version, or a later one."
            )
            raise ValueError(msg)
        missing = [attribute for attribute in _ATTRIBUTES if attribute not in attributes]
        if missing:
            msg = (
                f"Expected a complete model at {path}, found one without {_checks.listed(missing)}, written by scgpcl "
                f"{written['scgpcl']}. Save the model again."
            )
            raise ValueError(msg)
        if adata is not None and not isinstance(adata, bool):
            _check_genes(adata, attributes["gene_names_"], content["var_names"])


def _check_genes(adata: AnnData, trained: np.ndarray | None, registered: Any) -> None:
    """Require the genes that the model was registered with, in any order."""
    genes = np.asarray(registered if trained is None else trained)
    missing = genes[~np.isin(genes.astype(str), adata.var_names.to_numpy(dtype=str))]
    if len(missing) or adata.n_vars != len(genes):
        msg = (
            f"Expected the {len(genes)} genes of the model in `adata.var_names`, found {adata.n_vars} genes, of which "
            f"{len(genes) - len(missing)} are the model's{'; missing: ' + _checks.listed(missing) if len(missing) else ''}. "
            "To label other cells, load with `adata=False` and call `model.predict(cells)`, which matches genes by name."
        )
        raise ValueError(msg)


@contextmanager
def _damage_told(place: str | Path) -> Iterator[None]:
    """Turn what unexpected content ends in into the error of damaged files; errors that say what is expected stay."""
    try:
        yield
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        if str(error).startswith("Expected"):
            raise
        msg = (
            f"Expected a saved model in {place}, found a damaged one: {type(error).__name__}: "
            f"{' '.join(str(error).split())[:300]}. Save the model again."
        )
        raise ValueError(msg) from error


def _read_pickle(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=False)
    except (OSError, EOFError, RuntimeError, pickle.UnpicklingError, AttributeError, ImportError, KeyError) as error:
        msg = (
            f"Expected a saved model at {path}, found a damaged file or one of another kind "
            f"({path.stat().st_size} bytes, {type(error).__name__}). Save the model again."
        )
        raise ValueError(msg) from error


@contextmanager
def _whole(folder: Path, stale: list[str]) -> Iterator[Path]:
    """Temporary folder whose files take their places in another if the block succeeds; stale files there go then."""
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        try:
            temporary.mkdir()
            yield temporary
            if folder.exists():
                for file in sorted(temporary.iterdir()):
                    file.replace(folder / file.name)
                for name in stale:
                    (folder / name).unlink(missing_ok=True)
            else:
                temporary.replace(folder)
        except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
            msg = f"Expected to write the model to {folder}, found: {error} Check the free space and the permissions."
            raise OSError(msg) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)

"""New cells in the shape that scvi-tools' own functions expect."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from scvi.model.base import ArchesMixin, BaseModelClass

from scgpcl import _keys
from scgpcl.model import _checks

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData


class QueryPreparation(BaseModelClass):
    """``prepare_query_anndata``, as scvi-tools' models have it."""

    @staticmethod
    def prepare_query_anndata(
        adata: AnnData,
        reference_model: str | os.PathLike[str] | BaseModelClass,
        return_reference_var_names: bool = False,
        inplace: bool = True,
    ) -> AnnData | pd.Index | None:
        """Give new cells the reference's genes, in its order.

        No getter needs it, since genes are matched by name; it serves code that works on all models of scvi-tools.
        Genes that the reference lacks are dropped. Genes that the query lacks become columns of zeros, as in
        scvi-tools, and are marked in ``var["scgpcl_padded"]``: the model takes a marked column for not measured, not
        for zero, so that results are those of the query itself.

        Parameters
        ----------
        adata
            New cells.
        reference_model
            A model, or the folder that it was saved in.
        return_reference_var_names
            Only return the reference's genes.
        inplace
            Change ``adata``; otherwise return a new one.

        Returns
        -------
        The new AnnData, the genes, or nothing.

        Raises
        ------
        ValueError
            If no gene of the reference is found, or ``adata`` is a view or has repeated genes.
        """
        if not isinstance(reference_model, BaseModelClass):
            reference_model = os.fspath(reference_model)
        if return_reference_var_names:
            return ArchesMixin.prepare_query_anndata(adata, reference_model, return_reference_var_names=True)
        _checks.check_is_adata(adata)
        _checks.check_not_view(adata)
        _checks.check_names(adata.var_names, "var_names")
        measured = adata.var_names
        if _keys.PADDED in adata.var:
            measured = measured[~adata.var[_keys.PADDED].to_numpy(dtype=bool)]
        target = adata if inplace else adata.copy()
        ArchesMixin.prepare_query_anndata(target, reference_model, inplace=True)
        padded = ~target.var_names.isin(measured)
        if padded.any():
            target.var[_keys.PADDED] = padded
        return None if inplace else target

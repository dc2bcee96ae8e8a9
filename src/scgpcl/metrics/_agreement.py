from numpy.typing import ArrayLike
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from ._contingency import encode_pair


def ari(labels: ArrayLike, clusters: ArrayLike) -> float:
    """Adjusted Rand index (Hubert and Arabie 1985): pairs of cells kept together or apart, corrected for chance.

    Parameters
    ----------
    labels
        Known labels, shape (n_cells,).
    clusters
        Clusters of the same cells, shape (n_cells,). Exchanging the two arguments changes nothing.

    Returns
    -------
    At most 1 (the same partition); about 0 for a random partition, which can also be slightly negative.

    Raises
    ------
    ValueError
        For different lengths, missing values, empty or not one-dimensional arrays.
    """
    (label_codes, _), (cluster_codes, _) = encode_pair(labels, clusters)
    return float(adjusted_rand_score(label_codes, cluster_codes))


def nmi(labels: ArrayLike, clusters: ArrayLike) -> float:
    """Normalised mutual information, divided by the arithmetic mean of the two entropies.

    Parameters
    ----------
    labels
        Known labels, shape (n_cells,).
    clusters
        Clusters of the same cells, shape (n_cells,). Exchanging the two arguments changes nothing.

    Returns
    -------
    Between 0 (independent) and 1 (the same partition); not corrected for chance.

    Raises
    ------
    ValueError
        For different lengths, missing values, empty or not one-dimensional arrays.
    """
    (label_codes, _), (cluster_codes, _) = encode_pair(labels, clusters)
    return float(normalized_mutual_info_score(label_codes, cluster_codes))

"""Clusters of points in a plane, such as the beam shifts of a session."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cryoflow.errors import ParameterError

__all__ = ["cluster"]

_GAP = 3.0  # by how much the distances between groups exceed those inside, at least


def cluster(points: ArrayLike, count: int | None = None) -> NDArray[np.int64]:
    """Group of each point (n, 2), numbered from 0 by the distance of the groups' centres from the middle of them all.

    With ``count``: k-means (Lloyd 1982, IEEE Trans. Inf. Theory 28, 129) from centres that lie farthest apart.
    Without: the minimal spanning tree is cut where its edges, by length, make their widest jump (by 3 at least;
    else there is one group).

    Raises
    ------
    ParameterError : ``count`` below 1 or above the number of distinct points, or points that are not finite.

    >>> cluster([[0.0, 0.0], [0.1, 0.0], [5.0, 0.0], [5.1, 0.1]]).tolist()
    [0, 0, 1, 1]
    """
    xy = np.asarray(points, np.float64).reshape(-1, 2)
    if not np.isfinite(xy).all():
        raise ParameterError("cluster", expected="finite points", found="others")
    distinct, inverse = np.unique(xy, axis=0, return_inverse=True)
    if count is not None and not 1 <= count <= len(distinct):
        raise ParameterError("cluster", expected=f"1 to {len(distinct)} groups, the distinct points", found=f"{count}")
    labels = _by_gaps(distinct) if count is None else _k_means(distinct, np.bincount(inverse.reshape(-1)), count)
    return _numbered(xy, labels[inverse.reshape(-1)])


def _by_gaps(points: NDArray[np.float64]) -> NDArray[np.int64]:
    n = len(points)
    if n < 2:
        return np.zeros(n, np.int64)
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components, minimum_spanning_tree

    a, b = _neighbours(points)
    length = np.hypot(*(points[a] - points[b]).T)
    tree = minimum_spanning_tree(coo_matrix((length, (a, b)), shape=(n, n)).tocsr()).tocoo()
    edges = np.sort(tree.data)
    floor = 1e-6 * edges[-1]
    jumps = edges[1:] / np.maximum(edges[:-1], floor)
    # a group has two points at least, on average: a jump among the shortest edges says nothing
    candidates = np.flatnonzero((jumps >= _GAP) & (np.arange(len(jumps)) + 1 >= n // 2))
    if not len(candidates):
        return np.zeros(n, np.int64)
    best = candidates[np.argmax(jumps[candidates])]
    short = tree.data <= edges[best]
    graph = coo_matrix((np.ones(short.sum()), (tree.row[short], tree.col[short])), shape=(n, n))
    return np.asarray(connected_components(graph, directed=False)[1], np.int64)


def _neighbours(points: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs that hold the minimal spanning tree: Delaunay's edges, or neighbours along a line."""
    from scipy.spatial import Delaunay, QhullError

    try:
        triangles = Delaunay(points, qhull_options="QJ Pp").simplices
    except (QhullError, ValueError):  # fewer than three points, or all on a line
        order = np.lexsort((points[:, 1], points[:, 0]))
        return order[:-1], order[1:]
    pairs = np.sort(np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [0, 2]]]), axis=1)
    a, b = np.unique(pairs, axis=0).T
    return a.astype(np.int64), b.astype(np.int64)


def _k_means(points: NDArray[np.float64], weight: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    first = np.argmin(((points - np.average(points, axis=0, weights=weight)) ** 2).sum(axis=1))
    centres = [points[first]]
    nearest = ((points - centres[0]) ** 2).sum(axis=1)
    for _ in range(1, count):
        centres.append(points[np.argmax(nearest)])
        nearest = np.minimum(nearest, ((points - centres[-1]) ** 2).sum(axis=1))
    middle = np.array(centres)
    labels = np.full(len(points), -1, np.int64)
    for _ in range(100):
        new = np.argmin(((points[:, None] - middle[None]) ** 2).sum(axis=2), axis=1)
        if np.array_equal(new, labels):
            break
        labels = new
        for i in np.unique(labels):
            inside = labels == i
            middle[i] = np.average(points[inside], axis=0, weights=weight[inside])
    return labels


def _numbered(points: NDArray[np.float64], labels: NDArray[np.int64]) -> NDArray[np.int64]:
    found, labels = np.unique(labels, return_inverse=True)
    labels = labels.reshape(-1)
    centres = np.stack([points[labels == i].mean(axis=0) for i in range(len(found))])
    offset = centres - (centres.min(axis=0) + centres.max(axis=0)) / 2
    ring = np.hypot(*offset.T)
    order = np.lexsort((np.arctan2(offset[:, 1], offset[:, 0]).round(6), (ring / max(ring.max(), 1e-300)).round(3)))
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    return rank[labels]

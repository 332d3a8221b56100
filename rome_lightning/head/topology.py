"""Boundaries, pieces and cuts of a triangle mesh, in numpy: used once, when a head is loaded."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components, dijkstra

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]


def boundary_loops(faces: IntArray) -> list[IntArray]:
    """Closed boundary loops, in the direction of the faces that they bound.

    Args:
        faces: (f, 3) triangles of a manifold mesh.

    Returns:
        Vertex indices of each loop, longest loop first; the mesh lies to the left of the direction when
        seen from outside.
    """
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    known = {(int(a), int(b)) for a, b in edges}
    following = {a: b for a, b in known if (b, a) not in known}
    loops = []
    while following:
        start = min(following)
        loop = [start]
        while (vertex := following.pop(loop[-1], None)) is not None and vertex != start:
            loop.append(vertex)
        if vertex != start:
            raise ValueError("the mesh is not manifold: two of its boundaries share a vertex")
        loops.append(np.array(loop))
    return sorted(loops, key=len, reverse=True)


def close_loop(loop: IntArray, vertices: FloatArray) -> IntArray:
    """Triangles that close a slit-like boundary loop of n vertices: a strip of n - 2 between its lips.

    Args:
        loop: as ``boundary_loops`` gives it.
        vertices: (v, 3) positions; the corners of the slit are its vertices of smallest and largest x.
    """
    # The new faces run against the loop, because they lie on the other side of its edges.
    ring = loop[::-1]
    ring = np.roll(ring, -int(vertices[ring, 0].argmin()))
    corner = int(vertices[ring, 0].argmax())
    one, other = ring[: corner + 1], np.concatenate([ring[:1], ring[corner:][::-1]])
    triangles: list[tuple[int, int, int]] = []
    i = j = 0
    while len(triangles) < len(ring) - 2:
        gaps = [
            np.linalg.norm(vertices[one[i + 1]] - vertices[other[j]]) if i + 1 < len(one) else np.inf,
            np.linalg.norm(vertices[other[j + 1]] - vertices[one[i]]) if j + 1 < len(other) else np.inf,
        ]
        if gaps[0] <= gaps[1]:
            triangles.append((one[i], one[i + 1], other[j]))
            i += 1
        else:
            triangles.append((one[i], other[j + 1], other[j]))
            j += 1
        if i == 0 or j == 0:
            # From a corner both lips start at the same vertex: the first triangle takes one step on each.
            triangles[-1] = (one[0], one[1], other[1])
            i = j = 1
    return np.array(triangles, dtype=np.int64)


def face_components(faces: IntArray, across_edges: bool = False) -> IntArray:
    """Number of the connected piece of each face.

    Args:
        faces: (f, 3).
        across_edges: count faces as connected only by a common edge, not by a common vertex.
    """
    count = len(faces)
    if across_edges:
        edges = np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), axis=1)
        _, key = np.unique(edges, axis=0, return_inverse=True)
    else:
        key = faces.T.reshape(-1)
    links = coo_matrix((np.ones(3 * count), (np.tile(np.arange(count), 3), key.reshape(-1) + count)))
    size = max(links.shape)
    links.resize(size, size)
    labels = connected_components(links, directed=False)[1][:count]
    return np.unique(labels, return_inverse=True)[1].reshape(-1)


def shortest_path(faces: IntArray, costs: FloatArray, start: int, end: int) -> IntArray:
    """Cheapest path along edges from ``start`` to ``end``.

    Args:
        faces: (f, 3).
        costs: (3 f) cost of the edges (0, 1), then (1, 2), then (2, 0) of each face; infinite forbids.
        start: vertex index.
        end: vertex index.
    """
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    allowed = np.isfinite(costs)
    edges, costs = edges[allowed], costs[allowed]
    pairs, first = np.unique(np.sort(edges, axis=1), axis=0, return_index=True)
    size = int(faces.max()) + 1
    graph = coo_matrix((costs[first], (pairs[:, 0], pairs[:, 1])), shape=(size, size)).tocsr()
    _, previous = dijkstra(graph, directed=False, indices=start, return_predecessors=True)
    path = [end]
    while path[-1] != start:
        step = int(previous[path[-1]])
        if step < 0:
            raise ValueError(f"the mesh has no path from vertex {start} to vertex {end}")
        path.append(step)
    return np.array(path[::-1])


def cut_along(faces: IntArray, path: IntArray, num_vertices: int) -> tuple[IntArray, IntArray]:
    """Open a mesh along a path that starts on its boundary.

    Args:
        faces: (f, 3).
        path: vertex indices; every vertex but the last, the end of the cut, is doubled.
        num_vertices: number of vertices before the cut.

    Returns:
        Faces after the cut, and the doubles: vertex ``num_vertices + i`` is a copy of ``path[i]`` and
        replaces it on the right of the path.
    """
    half_edges = {
        (int(face[k]), int(face[(k + 1) % 3])): index for index, face in enumerate(faces) for k in range(3)
    }
    result = faces.copy()
    on_path = set(zip(path[:-1].tolist(), path[1:].tolist(), strict=True))
    for i, vertex in enumerate(path[:-1].tolist()):
        seeds = [half_edges.get((int(path[i + 1]), vertex))]
        if i > 0:
            seeds.append(half_edges.get((vertex, int(path[i - 1]))))
        pending, right = [seed for seed in seeds if seed is not None], set()
        while pending:
            face = pending.pop()
            if face in right:
                continue
            right.add(face)
            for k in range(3):
                a, b = int(faces[face][k]), int(faces[face][(k + 1) % 3])
                crosses = (a, b) in on_path or (b, a) in on_path
                if vertex in (a, b) and not crosses and (neighbour := half_edges.get((b, a))) is not None:
                    pending.append(neighbour)
        for face in right:
            result[face][faces[face] == vertex] = num_vertices + i
    return result, path[:-1].copy()

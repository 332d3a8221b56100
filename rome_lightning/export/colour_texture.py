"""A complete colour texture from what one photograph shows of a head."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from scipy.sparse import coo_matrix, csr_matrix, diags
from scipy.sparse.linalg import spsolve
from scipy.spatial import cKDTree
from torch import Tensor

from rome_lightning.geometry import unique_edges, vertex_normals
from rome_lightning.head import HeadModel
from rome_lightning.models.interior import interior_colours
from rome_lightning.renderer import UVLayout, push_pull

SKIN = (0.72, 0.55, 0.47)
"""Used only where nothing at all was observed."""

_LEAST_SEEN, _WELL_SEEN = 0.3, 0.8
"""Visibility that counts as nothing and as full."""
_MIRROR_DISTANCE = 0.004
"""Metres; a mirrored point farther than this from the surface answers for nothing."""
_MIRROR_CONFIDENCE = 0.7
_SMOOTHNESS = 0.05
"""Weight of squared differences along edges, relative to a texel that is fully seen."""
_TYPICAL_WORTH = 2e-3
"""Weight of a region's median colour: it takes over about five edges away from what was seen."""
_ACROSS_REGIONS = 0.02
"""Strength of edges between hair, face, neck and shoulders, relative to edges within: colours of one hardly
say anything about another."""
_LUMINANCE = (0.299, 0.587, 0.114)


@torch.no_grad()
def bake_colour_texture(
    head: HeadModel,
    colour: Float[Tensor, "3 s s"],
    visibility: Float[Tensor, "1 s s"],
) -> Float[Tensor, "3 s s"]:
    """Complete an observed texture: no texel stays empty, the border around every chart included.

    What is hidden is taken from the other half of the head where that is seen, with the brightness of
    its new surroundings; the rest of the skin, hair and clothes is continued smoothly along the surface
    (not across the texture, where neighbours may be far apart); eyes, teeth, tongue and the inside of
    the mouth have colours of their own unless they were seen.

    Args:
        head: the head model that the texture belongs to.
        colour: RGB in [0, 1], as ``unproject`` gives it; ignored where ``visibility`` is 0.
        visibility: confidence per texel, [0, 1].
    """
    size = colour.shape[-1]
    if colour.shape != (3, size, size) or visibility.shape != (1, size, size):
        raise ValueError(
            f"wanted colours (3, s, s) and visibility (1, s, s), got {tuple(colour.shape)} and "
            f"{tuple(visibility.shape)}"
        )
    device, layout = colour.device, UVLayout(head.faces, head.uvs, head.uv_faces, size)
    colour, weight = colour.float().cpu(), visibility.float().cpu().clamp(0, 1)
    layout, mask = layout.cpu(), layout.mask.cpu()
    # What is barely seen lies beside the silhouette, where the background shines through.
    weight = ((weight - _LEAST_SEEN) / (_WELL_SEEN - _LEAST_SEEN)).clamp(0, 1) * mask
    inside = _inside_texels(head, layout)
    positions, normals = _surface(head, layout)
    surface = _Surface(head, layout)
    colour, weight = _add_mirror(colour, weight, positions, normals, inside, surface)
    outside = weight * ~inside
    skin = surface.continued(colour, outside, *surface.typical(colour, outside))
    base = torch.where(inside, interior_colours(head, layout, positions), skin)
    complete = torch.lerp(base, colour, weight)
    # The border around the charts repeats them: bilinear sampling and mipmaps reach beyond.
    return push_pull(complete[None], mask[None, None].float())[0].clamp(0, 1).to(device)


def _surface(head: HeadModel, layout: UVLayout) -> tuple[Float[Tensor, "3 s s"], Float[Tensor, "3 s s"]]:
    """Position and normal of each texel on the mean head, metres."""
    vertices = _mean_vertices(head)
    normals = vertex_normals(vertices, head.faces.cpu())
    return layout.gather(vertices)[0], layout.gather(normals)[0]


def _mean_vertices(head: HeadModel) -> Float[Tensor, "1 v 3"]:
    return head.to_vertices(head.template.float().view(-1, 3)).cpu()[None]


def _inside_texels(head: HeadModel, layout: UVLayout) -> Bool[Tensor, "s s"]:
    """Texels of eyeballs and mouth, which have nothing to do with the skin around them."""
    inside = head.region("eyes", "mouth").cpu().float()[None, :, None]
    return layout.gather(inside)[0, 0] > 0.5


def _add_mirror(
    colour: Float[Tensor, "3 s s"],
    weight: Float[Tensor, "1 s s"],
    positions: Float[Tensor, "3 s s"],
    normals: Float[Tensor, "3 s s"],
    inside: Bool[Tensor, "s s"],
    surface: _Surface,
) -> tuple[Float[Tensor, "3 s s"], Float[Tensor, "1 s s"]]:
    """Mix in the colours of the mirrored surface point where the point itself is hidden."""
    mask = surface.layout.mask
    distance, nearest = _mirrored_texels(positions[:, mask].T, normals[:, mask].T, inside[mask])
    here, other = colour[:, mask], colour[:, mask][:, nearest]
    sure = weight[:, mask]
    other_sure = sure[:, nearest] * (distance < _MIRROR_DISTANCE)
    # Light comes from one side: where both halves are seen their ratio is known, and mirrored colours are
    # brightened or darkened by it, less and less with the distance from there.
    luminance = torch.tensor(_LUMINANCE)
    ratio, both = torch.zeros_like(weight), torch.zeros_like(weight)
    ratio[:, mask] = torch.log((luminance @ here + 0.02) / (luminance @ other + 0.02)).clamp(-0.7, 0.7)
    both[:, mask] = (sure * other_sure).square()
    gain = surface.continued(ratio, both * ~inside, torch.zeros(1), torch.tensor(1e-3))
    gain = gain[:, mask].exp()
    added = (1 - sure) * other_sure * _MIRROR_CONFIDENCE
    total = sure + added
    result, result_weight = colour.clone(), weight.clone()
    result[:, mask] = (sure * here + added * (other * gain)) / total.clamp_min(1e-6)
    result_weight[:, mask] = total
    return result, result_weight


def _mirrored_texels(
    positions: Float[Tensor, "n 3"], normals: Float[Tensor, "n 3"], inside: Bool[Tensor, " n"]
) -> tuple[Float[Tensor, " n"], Int[Tensor, " n"]]:
    """For each texel the texel on the other side of the head, and how far off it is, metres."""
    # Normals tell the two sides of a lip apart; eyes and mouth never answer for skin.
    features = torch.cat([positions, 0.01 * normals, 0.05 * inside[:, None]], dim=1).numpy()
    flip = np.array([-1, 1, 1, -1, 1, 1, 1], dtype=features.dtype)
    distance, nearest = cKDTree(features).query(features * flip)
    return torch.from_numpy(distance), torch.from_numpy(nearest)


class _Surface:
    """Smooth continuation of texture values along the mesh."""

    def __init__(self, head: HeadModel, layout: UVLayout) -> None:
        self.layout, self.faces, self.count = layout, head.faces.cpu(), head.num_vertices
        edges = unique_edges(self.faces)
        self.part = torch.zeros(self.count, dtype=torch.long)
        for index, names in enumerate((("scalp",), ("face", "ears"), ("neck",), ("shoulders",)), start=1):
            self.part[head.region(*names).cpu()] = index
        within = self.part[edges[:, 0]] == self.part[edges[:, 1]]
        strength = torch.where(within, 1.0, _ACROSS_REGIONS)
        self.laplacian = _laplacian(edges.numpy(), strength.double().numpy(), self.count)

    def typical(
        self, colour: Float[Tensor, "3 s s"], weight: Float[Tensor, "1 s s"]
    ) -> tuple[Float[Tensor, "v 3"], Float[Tensor, " v"]]:
        """Median colour of each vertex's kind of surface, and how much it is worth as a guess."""
        sure = (weight[0] > 0.9) & (self.layout.face_ids[0] >= 0)
        values = colour[:, sure]
        kind = self.part[self.faces[self.layout.face_ids[0][sure], 0]]
        overall = values.median(dim=1).values if sure.any() else torch.tensor(SKIN)
        colours, worth = overall.repeat(self.count, 1), torch.full((self.count,), 1e-7)
        for index in range(1, 5):
            # A handful of texels is no sample: the neighbouring surface is the better guess then.
            if (kind == index).sum() > 0.01 * sure.sum():
                colours[self.part == index] = values[:, kind == index].median(dim=1).values
                worth[self.part == index] = _TYPICAL_WORTH
        return colours, worth

    def continued(
        self,
        values: Float[Tensor, "c s s"],
        weight: Float[Tensor, "1 s s"],
        guess: Float[Tensor, "*v c"],
        worth: Float[Tensor, "*v"],
    ) -> Float[Tensor, "c s s"]:
        """The smoothest values that agree with those of weight, at every texel.

        Least squares on the vertices: observation weight times squared distance from the observed value,
        plus squared differences along edges, plus ``worth`` times squared distance from ``guess``.
        """
        seen = (self.layout.face_ids[0] >= 0) & (weight[0] > 0)
        corners = self.faces[self.layout.face_ids[0][seen]]
        amount, observed = weight[0][seen].double().square(), values[:, seen].double()
        weights = torch.zeros(self.count, dtype=torch.float64)
        sums = torch.zeros(self.count, len(values), dtype=torch.float64)
        for corner in corners.T:
            weights.index_add_(0, corner, amount)
            sums.index_add_(0, corner, (observed * amount).T)
        confidence = weights.clamp(max=1.0)[:, None]
        prior = worth.double().expand(self.count)[:, None]
        known = confidence * sums / weights.clamp_min(1e-9)[:, None] + prior * guess.double()
        system = diags((confidence + prior)[:, 0].numpy()) + _SMOOTHNESS * self.laplacian
        solution = spsolve(system.tocsc(), known.numpy()).reshape(self.count, -1)
        return self.layout.gather(torch.from_numpy(solution).float()[None])[0]


def _laplacian(edges: NDArray[np.int64], strength: NDArray[np.float64], count: int) -> csr_matrix:
    """Graph Laplacian: the weighted sum of squared differences along edges as a quadratic form."""
    rows, columns = np.concatenate([edges, edges[:, ::-1]]).T
    adjacency = coo_matrix((np.tile(strength, 2), (rows, columns)), shape=(count, count)).tocsr()
    return diags(np.asarray(adjacency.sum(1)).reshape(-1)) - adjacency

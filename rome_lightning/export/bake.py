"""A complete colour texture from what one photograph shows of a head."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from scipy.sparse import coo_matrix, csr_matrix, diags
from scipy.sparse.linalg import spsolve
from scipy.spatial import cKDTree
from torch import Tensor

from rome_lightning.geometry import unique_edges, vertex_normals
from rome_lightning.head import HeadModel
from rome_lightning.head.topology import face_components
from rome_lightning.renderer import UVLayout, push_pull

SCLERA = (0.86, 0.83, 0.81)
IRIS = (0.33, 0.23, 0.16)
PUPIL = (0.05, 0.04, 0.04)
TEETH = (0.85, 0.80, 0.72)
TONGUE = (0.70, 0.40, 0.38)
CAVITY = (0.36, 0.14, 0.13)
"""sRGB colours of what a photograph seldom shows."""

SKIN = (0.72, 0.55, 0.47)
"""Used only where nothing at all was observed."""

_MIRROR_DISTANCE = 0.004
_MIRROR_CONFIDENCE = 0.7
_SMOOTHNESS = 0.05


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
    weight = weight * mask
    inside = _inside_texels(head, layout)
    positions, normals = _surface(head, layout)
    colour, weight = _add_mirror(colour, weight, positions, normals, inside, mask)
    skin = _continue_on_surface(head, layout, colour, weight * ~inside)
    base = torch.where(inside, _inside_colours(head, layout, positions), skin)
    complete = torch.lerp(base, colour, weight)
    # The border around the charts repeats them: bilinear sampling and mipmaps reach beyond.
    return push_pull(complete[None], mask[None, None].float())[0].clamp(0, 1).to(device)


def _surface(head: HeadModel, layout: UVLayout) -> tuple[Float[Tensor, "3 s s"], Float[Tensor, "3 s s"]]:
    """Position and normal of each texel on the mean head, metres."""
    vertices = _mean_vertices(head)
    normals = vertex_normals(vertices, head.faces.cpu())
    return layout.gather(vertices)[0], layout.gather(normals)[0]


def _mean_vertices(head: HeadModel) -> Float[Tensor, "1 v 3"]:
    template = head.template.float().cpu().view(-1, 3)
    if head.midpoints is not None:
        template = torch.cat([template, template[head.midpoints.cpu()].mean(dim=1)])
    return template[None]


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
    mask: Bool[Tensor, "s s"],
) -> tuple[Float[Tensor, "3 s s"], Float[Tensor, "1 s s"]]:
    """Mix in the colours of the mirrored surface point where the point itself is hidden."""
    flip = torch.tensor([-1.0, 1.0, 1.0])
    # Normals tell the two sides of a lip apart; eyes and mouth never answer for skin.
    near = torch.stack(
        [positions[:, mask].T, 0.01 * normals[:, mask].T, 0.05 * inside[mask][:, None].expand(-1, 3)]
    )
    mirrored = near.clone()
    mirrored[:2] *= flip
    tree = cKDTree(near.permute(1, 0, 2).flatten(1).numpy())
    distance, nearest = tree.query(mirrored.permute(1, 0, 2).flatten(1).numpy())
    here, other = colour[:, mask], colour[:, mask][:, nearest]
    sure = weight[:, mask]
    other_sure = sure[:, nearest] * torch.from_numpy(distance < _MIRROR_DISTANCE)
    # Light comes from one side: where both halves are seen their difference is known, and what is known
    # of it nearby brightens or darkens the mirrored colours.
    difference, both = torch.zeros_like(colour), torch.zeros_like(weight)
    difference[:, mask], both[:, mask] = here - other, sure * other_sure
    shading = push_pull(difference[None], both[None])[0][:, mask].clamp(-0.2, 0.2)
    added = (1 - sure) * other_sure * _MIRROR_CONFIDENCE
    total = sure + added
    result, result_weight = colour.clone(), weight.clone()
    result[:, mask] = (sure * here + added * (other + shading)) / total.clamp_min(1e-6)
    result_weight[:, mask] = total
    return result, result_weight


def _continue_on_surface(
    head: HeadModel,
    layout: UVLayout,
    colour: Float[Tensor, "3 s s"],
    weight: Float[Tensor, "1 s s"],
) -> Float[Tensor, "3 s s"]:
    """The smoothest colours of the mesh that agree with what was observed, at every texel.

    Least squares on the vertices: observation weight times distance from the observed colour, plus
    squared differences along edges.
    """
    count, faces = head.num_vertices, head.faces.cpu()
    seen = (layout.face_ids[0] >= 0) & (weight[0] > 0)
    corners = faces[layout.face_ids[0][seen]]
    amount = weight[0][seen].double()
    values = colour[:, seen].double()
    weights = torch.zeros(count, dtype=torch.float64)
    sums = torch.zeros(count, 3, dtype=torch.float64)
    for corner in corners.T:
        weights.index_add_(0, corner, amount)
        sums.index_add_(0, corner, (values * amount).T)
    observed = sums / weights.clamp_min(1e-9)[:, None]
    confidence = weights.clamp(max=1.0).numpy()
    start = observed[weights > 0.5].mean(0) if (weights > 0.5).any() else torch.tensor(SKIN).double()
    prior = 1e-7
    system = diags(confidence + prior) + _SMOOTHNESS * _laplacian(unique_edges(faces).numpy(), count)
    known = confidence[:, None] * observed.numpy() + prior * start.numpy()
    solution = torch.from_numpy(spsolve(system.tocsc(), known)).float()
    return layout.gather(solution[None])[0]


def _laplacian(edges: NDArray[np.int64], count: int) -> csr_matrix:
    """Graph Laplacian: sum of squared differences along edges as a quadratic form."""
    rows, columns = np.concatenate([edges, edges[:, ::-1]]).T
    adjacency = coo_matrix((np.ones(len(rows)), (rows, columns)), shape=(count, count)).tocsr()
    return diags(np.asarray(adjacency.sum(1)).reshape(-1)) - adjacency


def _inside_colours(
    head: HeadModel, layout: UVLayout, positions: Float[Tensor, "3 s s"]
) -> Float[Tensor, "3 s s"]:
    """Colours of eyeballs, teeth, tongue and cavity at every texel; elsewhere arbitrary."""
    colours = torch.tensor(CAVITY).repeat(head.num_vertices, 1)
    labels = torch.from_numpy(face_components(head.faces.cpu().numpy()))
    pieces = torch.zeros(head.num_vertices, dtype=torch.long)
    pieces[head.faces.cpu().flatten()] = labels.repeat_interleave(3)
    mouth, outside = head.region("mouth").cpu(), ~head.region("mouth", "eyes").cpu()
    # Teeth and tongue are pieces of their own; what hangs together with the face is the cavity.
    loose = mouth & ~torch.isin(pieces, pieces[outside].unique())
    colours[loose] = torch.tensor(TEETH)
    if "tongueOut" in head.expression_names:
        move = head.basis[head.num_shape + head.expression_names.index("tongueOut")].view(-1, 3).norm(dim=-1)
        moving = torch.zeros(head.num_vertices, dtype=torch.bool)
        moving[: head.num_carriers] = move.cpu() > 1e-3
        colours[loose & torch.isin(pieces, pieces[loose & moving].unique())] = torch.tensor(TONGUE)
    texels = layout.gather(colours[None])[0]
    eyes = layout.gather(head.region("eyes").cpu().float()[None, :, None])[0, 0] > 0.5
    texels[:, eyes] = _eye_colours(head, positions[:, eyes].T).T
    return texels


def _eye_colours(head: HeadModel, points: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
    """Sclera, iris and pupil by the angle to the forward gaze."""
    joints = head.joint_template.float().cpu().view(5, 3)
    centres = torch.where(points[:, :1] > 0, joints[3], joints[4])
    directions = torch.nn.functional.normalize(points - centres, dim=-1)
    angle = directions[:, 2].clamp(-1, 1).arccos()[:, None]

    def within(limit: float) -> Tensor:
        """1 inside a cone, 0 outside, soft over 3 degrees."""
        return ((limit - angle) / 0.05 + 0.5).clamp(0, 1)

    colours = torch.tensor(SCLERA).expand(len(points), 3)
    for limit, colour in ((0.44, IRIS), (0.17, PUPIL)):
        colours = torch.lerp(colours, torch.tensor(colour).expand_as(colours), within(limit))
    return colours

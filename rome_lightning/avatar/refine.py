"""Avatars on meshes that are fitted to the outlines of their photographs."""

from __future__ import annotations

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor

from rome_lightning.models import AvatarCode, AvatarModel
from rome_lightning.tracking.ears import fit_ears
from rome_lightning.tracking.outline import NUM_STEPS, fit_outline
from rome_lightning.types import Frames


def encode_refined(
    model: AvatarModel,
    source: Frames,
    num_steps: int = NUM_STEPS,
    photos: Frames | None = None,
    one_person: bool = False,
    on_step: Callable[[int], None] | None = None,
) -> AvatarCode:
    """Avatars on meshes whose outlines are those of the photographs.

    Args:
        model: in evaluation mode.
        source: the photographs at the size that the networks know.
        num_steps: see ``refine_offsets``.
        photos: the same photographs as sharp as they are to be carried; ``source`` if not given.
        one_person: all photographs show the same person, who gets one avatar; else each gets its own.
        on_step: called after each step with the number of steps done.

    Returns:
        One avatar, or as many as there are photographs.
    """
    offsets = model.rest_offsets(source)
    if offsets is not None:
        if one_person:
            offsets = offsets.mean(0, keepdim=True)
        offsets = refine_offsets(model, offsets, source, num_steps, on_step)
    if one_person:
        return model.person_appearance(source, offsets, photos)
    return model.appearance(source, offsets, photos)


def refine_offsets(
    model: AvatarModel,
    start: Float[Tensor, "b v 3"],
    source: Frames,
    num_steps: int = NUM_STEPS,
    on_step: Callable[[int], None] | None = None,
) -> Float[Tensor, "b v 3"]:
    """Fit the ears, then move hair, neck and shoulders until the mesh's outline is the person's.

    Departure from ROME, which takes the network's offsets as they are: a network trained on few people
    has not seen every haircut.

    Args:
        model: with offsets at rest; not changed.
        start: offsets at rest to begin with, metres.
        source: the photographs: one per avatar, or all those of one avatar.
        num_steps: of Adam, see ``fit_outline``; 0 keeps the offsets.
        on_step: called after each step with the number of steps done.

    Returns:
        Offsets of the head at rest, metres.
    """
    part = model.offset_network
    if num_steps == 0 or part is None:
        return start
    return fit_outline(
        model.head,
        source,
        model.rasterizer,
        fit_ears(model.head, source, model.rasterizer, start.detach()),
        num_steps,
        model.config.offsets.max_offset,
        part.falloff,
        on_step,
    )

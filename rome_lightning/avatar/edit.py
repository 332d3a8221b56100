"""Changing an avatar's hair, neck and shoulders along the components of a linear basis."""

from __future__ import annotations

import copy
import dataclasses

from rome_lightning.avatar.avatar import Avatar
from rome_lightning.models import LinearBasis


def edit(avatar: Avatar, component: int, amount: float, basis: LinearBasis | None = None) -> Avatar:
    """The same person with one coefficient changed; the avatar given stays as it is.

    The texture stays too: it lies on the surface and moves with it.

    Source: ROME sec. 4.4, editing.

    Args:
        avatar: of a full or a linear model.
        component: index, hair first, see ``LinearBasis.names``.
        amount: standard deviations to add, negative ones to take away.
        basis: from ``rome distill basis``; a linear model brings its own.

    Raises:
        ValueError: there is no such component, the basis belongs to another head, or the avatar's offsets
            depend on the expression.
    """
    basis = own_basis(avatar) if basis is None else basis.check(avatar.model.head)
    if not 0 <= component < len(basis.components):
        raise ValueError(
            f"the basis has components 0 to {len(basis.components) - 1} ({basis.num_hair} of hair, then "
            f"{basis.num_neck} of neck and shoulders), got {component}"
        )
    if avatar.code.offsets is None:
        raise ValueError(
            "this avatar has no offsets at rest to edit: its model finds them for every expression "
            "(offsets.expression_dependent) or not at all (offsets.kind: none)"
        )
    step = amount * basis.std[component] * basis.components[component]
    code = dataclasses.replace(avatar.code, offsets=avatar.code.offsets + step.to(avatar.code.offsets))
    edited = copy.copy(avatar)
    edited.code = code
    return edited


def own_basis(avatar: Avatar) -> LinearBasis:
    """The basis inside a linear model.

    Raises:
        ValueError: the avatar's model is not linear.
    """
    basis = avatar.model.basis
    if basis is None:
        raise ValueError(
            "this avatar's model is not linear; give the basis of `rome distill basis` (--basis FILE)"
        )
    return basis

"""A person's avatar: made from one or several photographs, driven, edited, saved and exported."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Self

import torch

from rome_lightning.avatar.file import avatar_file, read_avatar, write_avatar
from rome_lightning.avatar.refine import encode_refined
from rome_lightning.models import AvatarCode, AvatarModel, HeadMesh, LinearBasis, for_inference
from rome_lightning.models.fusion import fuse, texels_of_the_head
from rome_lightning.models.texture import Observation, observe, surface_of
from rome_lightning.tracking.outline import NUM_STEPS
from rome_lightning.types import Frames, HeadParams, Rendered
from rome_lightning.types.params import at_rest

REFINE_STEPS = NUM_STEPS
"""Default number of steps that fit an avatar's mesh to the outlines."""


class Avatar:
    """One person: a model, the person's code, and the photographs it came from.

    Args:
        model: trained networks, in evaluation mode.
        code: the person (batch of one).
        photos: the tracked photographs with one identity, as sharp as they should be exported; the first is
            the one that is shown and trusted most.
        image_size: side of the images that the model sees, pixels.
        photo_names: file names of the photographs, for the copyright notice of what is exported.
    """

    def __init__(
        self,
        model: AvatarModel,
        code: AvatarCode,
        photos: Frames,
        image_size: int,
        photo_names: Sequence[str] = (),
    ) -> None:
        if len(photos) == 0:
            raise ValueError("an avatar needs at least one photograph")
        self.model, self.code, self.photos, self.network_size = model, code, photos, image_size
        self.photo_names = tuple(photo_names)
        # A carried photograph is as sharp as it was taken.
        drawn = photos.image_size[0] if model.config.decoder.carry else image_size
        self.source = photos[slice(0, 1)].resized(drawn)

    @classmethod
    @torch.no_grad()
    def create(
        cls,
        model: AvatarModel,
        photos: Frames,
        image_size: int | None = None,
        refine_steps: int = REFINE_STEPS,
        on_step: Callable[[int], None] | None = None,
        photo_names: Sequence[str] = (),
    ) -> Self:
        """Encode tracked photographs of one person.

        Args:
            model: trained networks.
            photos: from ``Tracker.track`` (one) or ``track_photos`` (several); may be larger than what the
                model sees, for sharper pictures and a sharper exported texture.
            image_size: side of the images that the networks see, pixels; as trained if not given.
            refine_steps: steps that fit the mesh to the photographs' outlines (see ``refine_offsets``).
            on_step: is told after each of these steps how many are done.
            photo_names: file names of the photographs.
        """
        model = model.eval().requires_grad_(False)
        image_size = image_size or min(model.image_size, photos.image_size[0])
        sources = photos.resized(image_size)
        code = encode_refined(model, sources, refine_steps, photos, one_person=True, on_step=on_step)
        return cls(model, code, photos, image_size, photo_names)

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the rendered images, pixels."""
        return self.source.image_size

    @torch.no_grad()
    def draw(
        self,
        driver: HeadParams,
        batch_size: int = 8,
        background: float = 1.0,
        image_size: tuple[int, int] | None = None,
        corrections: bool = True,
    ) -> Iterator[Rendered]:
        """Draw the person with the driver's expression, pose and camera, in batches.

        Args:
            driver: any number of frames; the driver's own shape is not used.
            batch_size: frames drawn at once.
            background: grey in [0, 1].
            image_size: height and width of the pictures, pixels, at least what the networks know; that of
                the photograph if not given.
            corrections: ``False`` is faster, see ``for_inference``.
        """
        model = self._drawing if corrections else self._quick_drawing
        for start in range(0, len(driver), batch_size):
            part = driver[slice(start, start + batch_size)]
            yield model.render(self.code, part, image_size or self.image_size, background)

    @functools.cached_property
    def _drawing(self) -> AvatarModel:
        """The model's fast copy, made for the first image."""
        return for_inference(self.model)

    @functools.cached_property
    def _quick_drawing(self) -> AvatarModel:
        """The same without the network's corrections."""
        return for_inference(self.model, corrections=False)

    @torch.no_grad()
    def rest_mesh(self) -> HeadMesh:
        """The person's mesh with a neutral expression, unposed, hair and shoulders included."""
        return self.model.deform(self.code, at_rest(self.source.params))

    @torch.no_grad()
    def posed_mesh(self, driver: HeadParams) -> HeadMesh:
        """The person's mesh under the driver's expression and pose (no global rotation)."""
        return self.model.deform(self.code.expand(len(driver)), driver)

    @torch.no_grad()
    def observed_texture(self, size: int = 512) -> Observation:
        """What the photographs show in UV space.

        Args:
            size: side of the texture, texels.
        """
        params, head = self.photos.params, self.model.head
        mesh = self.posed_mesh(params)
        vertices_px = self.model.project(mesh.vertices, params, self.photos.image_size)
        face_ids = self.model.rasterizer.face_ids(vertices_px, head.faces, self.photos.image_size)
        surface = surface_of(head, size)
        observed = observe(self.photos, vertices_px, head.faces, face_ids, surface.layout, surface.completion)
        if len(self.photos) == 1:
            return observed
        return fuse(observed, texels_of_the_head(head, surface.layout))

    @torch.no_grad()
    def edited(self, basis: LinearBasis, amounts: Mapping[int, float]) -> Self:
        """The same person with other hair or shoulders.

        Args:
            basis: of this avatar's head model.
            amounts: standard deviations to add to a component, by its index.

        Raises:
            ValueError: the basis belongs to another head or has no such component, or the avatar's offsets
                depend on the expression, so that there are none to change.
        """
        basis.check(self.model.head)
        if self.code.offsets is None:
            raise ValueError(
                "this avatar has no offsets at rest: its model has none, or computes them per expression; "
                "only models with avatar.offsets.expression_dependent false can be edited"
            )
        unknown = sorted(index for index in amounts if not 0 <= index < len(basis.components))
        if unknown:
            raise ValueError(f"the basis has components 0 to {len(basis.components) - 1}, got {unknown}")
        offsets = self.code.offsets
        basis = basis.to(str(offsets.device))
        for index, amount in amounts.items():
            offsets = offsets + amount * basis.std[index] * basis.components[index]
        # The texture stays where it was observed: it moves with the surface.
        code = dataclasses.replace(self.code, offsets=offsets)
        edited = type(self)(self.model, code, self.photos, self.network_size, self.photo_names)
        # The networks are the same: to make their fast copy takes longer than a picture.
        edited._drawing = self._drawing
        return edited

    def save(self, path: str | Path) -> None:
        """Write one self-contained file: person, photographs and networks; never a pickle.

        Args:
            path: of the file, or of a folder for it.
        """
        write_avatar(self, avatar_file(path))

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what ``save`` or ``rome avatar create`` wrote.

        Args:
            path: of the file or its folder.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is damaged, not an avatar, or made with another version or head model.
        """
        return cls(*read_avatar(avatar_file(path)))

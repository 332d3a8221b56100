"""A person's avatar: made from one photograph, driven, saved and exported."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize
from torch import Tensor

from rome_lightning.avatar.refine import refine_offsets
from rome_lightning.data import Frames, HeadParams, Rendered
from rome_lightning.models import AvatarCode, FullAvatar, HeadMesh
from rome_lightning.models.avatar_model import at_rest
from rome_lightning.models.checkpoint import config_from_dict, load_state
from rome_lightning.models.texture import observe
from rome_lightning.renderer import UVLayout

FORMAT = "rome-avatar/2"
"""Written into every avatar file; other major versions are refused."""


class Avatar:
    """One person: a model, the person's code, and the photograph it came from.

    Args:
        model: trained networks, in evaluation mode.
        code: the person (batch of one).
        photo: the tracked photograph (batch of one), as sharp as it should be exported.
        image_size: side of the images that the model sees and draws, pixels.
    """

    def __init__(self, model: FullAvatar, code: AvatarCode, photo: Frames, image_size: int) -> None:
        if len(photo) != 1:
            raise ValueError(f"an avatar has one source image, got {len(photo)}")
        self.model, self.code, self.photo = model, code, photo
        self.source = photo.resized(image_size)

    @classmethod
    @torch.no_grad()
    def create(
        cls, model: FullAvatar, photo: Frames, image_size: int | None = None, refine_steps: int = 100
    ) -> Avatar:
        """Encode a tracked photograph (see ``rome_lightning.tracking.Tracker``).

        Args:
            model: trained networks.
            photo: batch of one; may be larger than what the model sees, for a sharper exported texture.
            image_size: side of the images that the model was trained on, pixels; the photo's if not given.
            refine_steps: steps that fit the mesh to the photograph's outline (see ``refine_offsets``).
        """
        model = model.eval().requires_grad_(False)
        image_size = image_size or photo.image_size[0]
        source = photo.resized(image_size)
        code = refine_offsets(model, model.encode(source), source, refine_steps)
        return cls(model, code, photo, image_size)

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the photograph as the model sees it, pixels."""
        return self.source.image_size

    @torch.no_grad()
    def animate(self, driver: HeadParams, batch_size: int = 8, background: float = 1.0) -> Iterator[Rendered]:
        """Draw the person with the driver's expression, pose and camera, in batches.

        Args:
            driver: any number of frames; the driver's own shape is not used.
            batch_size: frames drawn at once.
            background: grey in [0, 1].
        """
        for start in range(0, len(driver), batch_size):
            part = driver[slice(start, start + batch_size)]
            code = self.code.repeat_interleave(len(part))
            yield self.model.render(code, part, self.image_size, background)

    @torch.no_grad()
    def rest_mesh(self) -> HeadMesh:
        """The person's mesh with a neutral expression, unposed, hair and shoulders included."""
        return self.model.deform(self.code, at_rest(self.source.params))

    @torch.no_grad()
    def posed_mesh(self, driver: HeadParams) -> HeadMesh:
        """The person's mesh under the driver's expression and pose (no global rotation)."""
        return self.model.deform(self.code.repeat_interleave(len(driver)), driver)

    @torch.no_grad()
    def observed_texture(self, size: int = 512) -> tuple[Float[Tensor, "1 3 s s"], Float[Tensor, "1 1 s s"]]:
        """Colours of the photograph in UV space and how well each texel is seen, [0, 1] each.

        Args:
            size: side of the texture, texels.
        """
        params, head = self.photo.params, self.model.head
        mesh = self.model.deform(self.code, params)
        vertices_px = self.model.project(mesh.vertices, params, self.photo.image_size)
        layout = UVLayout(head.faces, head.uvs, head.uv_faces, size)
        return observe(self.photo, vertices_px, head.faces, layout, self.model.rasterizer)

    def save(self, path: Path) -> None:
        """Write one self-contained file: person, photograph and networks; never a pickle."""
        tensors = {f"model/{key}": value for key, value in self.model.state_dict().items()}
        tensors |= _tensors("code/", self.code) | _tensors("photo/", self.photo)
        config = {
            "format": FORMAT,
            "config": dataclasses.asdict(self.model.config),
            "head": self.model.head.name,
            "image_size": self.image_size[0],
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(path.name + ".tmp")
        # Copies: safetensors refuses tensors that share memory.
        copies = {key: value.contiguous().clone() for key, value in tensors.items()}
        temporary.write_bytes(serialize(copies, {"rome": json.dumps(config)}))
        temporary.replace(path)

    @classmethod
    def load(cls, path: Path) -> Avatar:
        """Read what ``save`` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is damaged, not an avatar, or made with another head model.
        """
        if not path.is_file():
            raise FileNotFoundError(
                f"no avatar at {path}; make one with `rome avatar create PHOTO -o FOLDER`"
            )
        try:
            with safe_open(path, framework="pt") as file:
                header = json.loads((file.metadata() or {}).get("rome", "{}"))
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        except (SafetensorError, json.JSONDecodeError) as error:
            raise ValueError(f"{path} is damaged or not an avatar file: {error}") from error
        if header.get("format") != FORMAT:
            raise ValueError(f"{path} has format {header.get('format')!r}, this version reads {FORMAT!r}")
        model = FullAvatar(config_from_dict(header["config"]))
        if model.head.name != header["head"]:
            raise ValueError(f"{path} needs head {header['head']!r}, {model.head.name!r} is installed")
        load_state(model, _group(tensors, "model/"), path)
        code = _group(tensors, "code/")
        photo = _group(tensors, "photo/")
        params = HeadParams(**_group(photo, "params/"))
        frames = Frames(**{k: v for k, v in photo.items() if "/" not in k}, params=params)
        model.eval().requires_grad_(False)
        restored = AvatarCode(code["texture"], code["shape"], code.get("offsets"))
        return cls(model, restored, frames, header["image_size"])


def _tensors(prefix: str, struct: AvatarCode | Frames | HeadParams) -> dict[str, Tensor]:
    """Tensor fields by name, nested structs with their name as a folder."""
    found: dict[str, Tensor] = {}
    for field in dataclasses.fields(struct):
        value = getattr(struct, field.name)
        if isinstance(value, Tensor):
            found[prefix + field.name] = value
        elif isinstance(value, HeadParams):
            found |= _tensors(f"{prefix}{field.name}/", value)
    return found


def _group(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Entries under a prefix, without it."""
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}

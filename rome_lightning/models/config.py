"""Options of an avatar model: plain data, stored in every checkpoint and avatar file."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

RELEASED_HALVINGS = 3
"""Times that the released networks halve the resolution."""
COMPACT_OFFSET_HALVINGS = 2
"""Times that the compact U-Net of the offsets does."""


@dataclass(frozen=True)
class TextureConfig:
    """Source of the neural texture."""

    source: Literal["unprojected", "direct"] = "unprojected"
    """``unprojected`` carries the source's pixels to UV space through the fitted mesh before a U-Net
    completes them; ``direct`` is ROME's image-to-UV encoder, which has to learn the unwrapping."""
    channels: int = 8
    """Channels of the neural texture."""
    size: int = 256
    """Side of the square texture, texels; ``direct`` gives the size of its input image."""
    width: int = 16
    """Channels of the network's first level; 256 in the release (``direct``)."""
    num_levels: int = 4
    """Resolutions of the U-Net (``unprojected`` only)."""
    mirror: bool = True
    """Complete what a photograph hides from the other side of the head and by region, with generic teeth and
    eyes, before the network sees it; ``false``: a smooth continuation (``unprojected`` only)."""
    prior: bool = True
    """Learn a texture of mouth and eyeballs that all people share, for what sources hide: teeth, tongue, eyes
    behind closed lids (``unprojected`` only)."""


@dataclass(frozen=True)
class OffsetConfig:
    """How vertices leave the parametric head to form hair, neck and shoulders."""

    kind: Literal["network", "basis", "fitted", "none"] = "network"
    """``network``: the full model; ``basis``: the linear one (see ``BasisConfig``); ``fitted``: no network,
    ``rome prepare`` stores offsets with ``fit_outline``, and an avatar gets its own when it is made;
    ``none`` keeps the bare parametric head. ``basis`` and ``fitted`` know none of the options here but
    ``max_offset``."""
    direction: Literal["normal", "elementwise", "free"] = "normal"
    """``normal``: one signed length along the normal (paper); ``elementwise``: three factors times the
    normal's components (release); ``free``: an unconstrained displacement (the paper's ablation)."""
    expression_dependent: bool = False
    """Recompute the offsets from the posed mesh of each frame (ROME), or once per avatar at rest."""
    max_offset: float = 0.12
    """Bound of one component of an offset, metres; ROME's release leaves 1."""
    network: Literal["compact", "release"] = "compact"
    """U-Net over the UV map: our small one, or the released architecture."""
    uv_size: int = 64
    """Side of the UV map that the U-Net sees, texels."""
    width: int = 16
    """Channels of the first level of the U-Net; 128 in the release."""
    latent_channels: int = 32
    """Channels of the latent geometry map."""
    mlp_width: int = 64
    """Hidden width of the per-vertex network; 256 in the release."""
    harmonics: Literal["release", "paper"] = "release"
    """Frequencies 1, 2, 4, ... (release) or 1, 2, 3, ... (paper) of the encoded positions."""


EncoderName = Literal["resnet50", "resnet18", "mobilenet_v2", "mobilenet_v3_small"]
"""Image classifiers of torchvision that can be turned into regressors."""


@dataclass(frozen=True)
class BasisConfig:
    """The linear model's offsets: a basis, and a network that gives its coefficients."""

    num_hair: int = 50
    """Components of the scalp (paper: 50)."""
    num_neck: int = 10
    """Components of neck and shoulders (paper: 10)."""
    encoder: EncoderName = "resnet50"
    """Network that sees the source once per avatar (paper: ResNet-50)."""
    input_size: int = 256
    """Larger sources are downsampled to this side for the network, pixels."""
    image: Literal["person", "raw"] = "person"
    """What it sees: the ``person`` on grey, normalized as for ImageNet, or the ``raw`` picture in [0, 1]
    (release)."""
    turning: bool = True
    """Turn the offsets with the posed skin; the release adds them to the posed head as they are."""


@dataclass(frozen=True)
class DriverConfig:
    """A network that estimates expression, pose and camera from a frame, instead of the tracker."""

    encoder: EncoderName | Literal["none"] = "none"
    """Network that sees every frame of the driver (paper: MobileNetV2); ``none`` leaves it to the tracker."""
    input_size: int = 256
    """Larger frames are downsampled to this side for the network, pixels."""
    image: Literal["normalized", "raw"] = "normalized"
    """What it sees: the frame ``normalized`` as for ImageNet, or ``raw`` in [0, 1] (release)."""


@dataclass(frozen=True)
class DeferredRendererConfig:
    """The deferred renderer: the image network that turns rasterized features into colour and mask."""

    network: Literal["compact", "release"] = "compact"
    """Our small U-Net, or the released architecture."""
    carry: bool = True
    """Draw with the photograph itself, carried by the mesh, and let the network choose between it, the
    texture and its own painting. Departure from ROME, whose pictures are as sharp as its texture is. Needs an
    ``unprojected`` texture and the compact network."""
    network_size: int | None = 256
    """Side at which the network sees larger pictures with ``carry``, pixels: its corrections are enlarged,
    the photograph keeps its resolution. ``null`` for the picture's own size."""
    unshuffle: int = 1
    """Fold blocks of so many by so many pixels into channels before the network (``carry`` only): for 2
    a quarter of the work."""
    width: int = 20
    """Channels of the first level of the U-Net; 128 in the release."""
    num_levels: int = 4
    """Resolutions of the U-Net (``compact`` only)."""
    mask_network: bool = False
    """Give the mask a U-Net of its own, with half the channels (paper); else one network has four outputs
    (release)."""
    pooling: Literal["max", "average"] = "max"
    """How the U-Nets halve the resolution: ``max`` (release) or ``average`` (paper)."""
    upsampling: Literal["nearest", "bilinear"] = "nearest"
    """How they double it: ``nearest`` (release) or ``bilinear`` (paper)."""
    normals: Literal["head", "camera"] = "head"
    """Space of the normals that the network sees: turned back with the head (release), or as the camera sees
    them, so that shading can follow the light of the room."""
    interpolation: Literal["exact", "release"] = "exact"
    """How vertices' values reach pixels: ``exact``, with normals of length 1; or as in the ``release``, whose
    weights sum to a little less than 1 and whose normals, in head space, are shorter inside triangles."""
    normal_frequencies: int = 6
    """Frequencies of the harmonic encoding of the normals."""
    harmonics: Literal["release", "paper"] = "release"
    """Frequencies 1, 2, 4, ... (release) or 1, 2, 3, ... (paper)."""
    extend_outside: bool = True
    """Continue the texture beyond the mesh from the nearest covered pixel, with that distance as an
    input, so that hair can be drawn before the mesh has grown to it. Departure from ROME: zeros there."""
    residual: bool = True
    """Predict corrections, of the colour to the sampled texture's first three channels and of the mask to
    the mesh's own silhouette, instead of both from nothing. Departure from ROME, for ``unprojected``
    textures: unseen people keep their looks and outlines."""


@dataclass(frozen=True)
class AvatarConfig:
    """An avatar model, full or linear."""

    head: str = "open"
    """``open`` for the head that ships with the package, ``flame`` for your own FLAME (asset ``flame``), or
    the path of a FLAME ``generic_model.pkl``."""
    release: str = ""
    """Folder of the ROME release's data (``faces_v2.pth`` ...), whose layout, triangles and moving vertices
    of FLAME are taken then; empty for those that lie beside ``head``."""
    rasterizer: str = "auto"
    """Visibility backend: ``auto``, ``torch``, ``warp``, ``release``, ``pytorch3d``."""
    texture: TextureConfig = field(default_factory=TextureConfig)
    offsets: OffsetConfig = field(default_factory=OffsetConfig)
    decoder: DeferredRendererConfig = field(default_factory=DeferredRendererConfig)
    """The deferred renderer, ``AvatarModel.renderer``; checkpoints and configurations know it by this key."""
    basis: BasisConfig = field(default_factory=BasisConfig)
    driver: DriverConfig = field(default_factory=DriverConfig)
    camera_distance: float | None = None
    """Distance from the camera to the eyes in metres, for perspective, see ``Perspective``; ``None`` for the
    weak perspective of ROME."""

    def __post_init__(self) -> None:
        self._check_perspective()
        renderer = self.decoder
        if not renderer.carry:
            return
        wanted = {
            "texture.source": (self.texture.source, "unprojected"),
            "decoder.network": (renderer.network, "compact"),
            "decoder.mask_network": (renderer.mask_network, False),
            "decoder.extend_outside": (renderer.extend_outside, True),
            "decoder.residual": (renderer.residual, True),
        }
        for name, (value, needed) in wanted.items():
            if value != needed:
                raise ValueError(
                    f"avatar.decoder.carry needs avatar.{name} {needed}, got {value}; set "
                    "avatar.decoder.carry to false"
                )
        if renderer.unshuffle < 1:
            raise ValueError(f"avatar.decoder.unshuffle must be at least 1, got {renderer.unshuffle}")

    def _check_perspective(self) -> None:
        if self.camera_distance is None:
            return
        if self.camera_distance <= 0:
            raise ValueError(f"avatar.camera_distance must be above 0 metres, got {self.camera_distance}")
        if self.offsets.kind != "fitted" or not self.basis.turning:
            raise ValueError(
                "avatar.camera_distance needs avatar.offsets.kind fitted and avatar.basis.turning true: "
                "networks learn their offsets in weak perspective"
            )


def check_sizes(config: AvatarConfig, image_size: int) -> None:
    """Refuse sizes that a network cannot halve as often as it does.

    Args:
        config: of the model.
        image_size: side of source and target images, pixels.

    Raises:
        ValueError: names the setting to change.
    """
    compact = config.decoder.network == "compact"
    halvings = config.decoder.num_levels - 1 if compact else RELEASED_HALVINGS
    known = config.decoder.network_size if config.decoder.carry else None
    fold = config.decoder.unshuffle if config.decoder.carry else 1
    if known is not None and image_size > known:
        _check_size("network_size", known, "decoder", halvings, "avatar.decoder.network_size", fold)
    else:
        _check_size("image_size", image_size, "decoder", halvings, "data.init_args.image_size", fold)
    if config.texture.source == "direct":
        size, setting = image_size, "data.init_args.image_size"
        _check_size("image_size", size, "texture encoder", RELEASED_HALVINGS, setting)
    else:
        halvings, setting = config.texture.num_levels - 1, "avatar.texture.size"
        _check_size("texture.size", config.texture.size, "texture network", halvings, setting)
    if config.offsets.kind == "network":
        halvings = COMPACT_OFFSET_HALVINGS if config.offsets.network == "compact" else RELEASED_HALVINGS
        _check_size("offsets.uv_size", config.offsets.uv_size, "U-Net", halvings, "avatar.offsets.uv_size")


def _check_size(name: str, size: int, network: str, halvings: int, setting: str, fold: int = 1) -> None:
    divisor = fold * 2**halvings
    if size <= 0 or size % divisor:
        raise ValueError(
            f"{name} must be divisible by {divisor} (the {network} halves it {halvings} times), got {size}; "
            f"set {setting}"
        )

"""Options of an avatar model: plain data, stored in each checkpoint and avatar file."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

RELEASED_HALVINGS = 3
"""How often the released networks halve the resolution."""
COMPACT_OFFSET_HALVINGS = 2
"""How often the compact U-Net of the offsets halves it."""


@dataclass(frozen=True)
class TextureConfig:
    """Options of the neural texture."""

    source: Literal["unprojected", "direct"] = "unprojected"
    """``unprojected`` maps the source's pixels to UV space through the fitted mesh, and a U-Net completes
    them; ``direct`` is ROME's image-to-UV encoder, which has to learn the unwrapping."""
    channels: int = 8
    """Channels of the neural texture."""
    size: int = 256
    """Side of the square texture, texels; ``direct`` uses the size of its input image."""
    width: int = 16
    """Channels of the network's first level; 256 in the release (``direct``)."""
    num_levels: int = 4
    """Number of resolutions of the U-Net (``unprojected`` only)."""
    mirror: bool = True
    """Before the network, complete hidden parts from the other side of the head and from their region, with
    generic teeth and eyes; ``false`` extends the colours smoothly (``unprojected`` only)."""
    prior: bool = True
    """Learn a shared texture of mouth and eyeballs for parts that sources hide: teeth, tongue, eyes behind
    closed lids (``unprojected`` only)."""


@dataclass(frozen=True)
class OffsetConfig:
    """Options of the vertex offsets, which form hair, neck and shoulders."""

    kind: Literal["network", "basis", "fitted", "none"] = "network"
    """``network``: the full model; ``basis``: the linear one (see ``BasisConfig``); ``fitted``: no network,
    ``rome prepare`` stores offsets with ``fit_outline``, and an avatar's are fitted when it is created;
    ``none`` keeps the bare parametric head. Of the options below, ``basis`` and ``fitted`` use only
    ``max_offset``."""
    direction: Literal["normal", "elementwise", "free"] = "normal"
    """``normal``: a signed length along the normal (paper); ``elementwise``: three factors for the normal's
    components (release); ``free``: an unconstrained displacement (the paper's ablation)."""
    expression_dependent: bool = False
    """Recompute the offsets from the posed mesh of each frame (ROME) instead of once per avatar at rest."""
    max_offset: float = 0.12
    """Bound on each component of an offset, metres; 1 in ROME's release."""
    network: Literal["compact", "release"] = "compact"
    """U-Net over the UV map: our compact one, or the released architecture."""
    uv_size: int = 64
    """Side of the U-Net's UV map, texels."""
    width: int = 16
    """Channels of the first level of the U-Net; 128 in the release."""
    latent_channels: int = 32
    """Channels of the latent geometry map."""
    mlp_width: int = 64
    """Hidden width of the per-vertex network; 256 in the release."""
    harmonics: Literal["release", "paper"] = "release"
    """Frequencies of the position encoding: 1, 2, 4, ... (release) or 1, 2, 3, ... (paper)."""


EncoderName = Literal["resnet50", "resnet18", "mobilenet_v2", "mobilenet_v3_small"]
"""Torchvision image classifiers that can serve as regressors."""


@dataclass(frozen=True)
class BasisConfig:
    """Options of the linear model's offsets: a basis, and a network that predicts its coefficients."""

    num_hair: int = 50
    """Number of scalp components (paper: 50)."""
    num_neck: int = 10
    """Number of neck and shoulder components (paper: 10)."""
    encoder: EncoderName = "resnet50"
    """Network applied to the source, once per avatar (paper: ResNet-50)."""
    input_size: int = 256
    """Larger sources are downsampled to this side for the network, pixels."""
    image: Literal["person", "raw"] = "person"
    """Its input: the ``person`` on grey, normalized as for ImageNet, or the ``raw`` image in [0, 1]
    (release)."""
    turning: bool = True
    """Rotate the offsets with the posed skin; the release adds them to the posed head unrotated."""


@dataclass(frozen=True)
class DriverConfig:
    """Options of a network that replaces the tracker: it estimates expression, pose and camera."""

    encoder: EncoderName | Literal["none"] = "none"
    """Network applied to each frame of the driver (paper: MobileNetV2); ``none`` uses the tracker."""
    input_size: int = 256
    """Larger frames are downsampled to this side for the network, pixels."""
    image: Literal["normalized", "raw"] = "normalized"
    """Its input: the frame ``normalized`` as for ImageNet, or ``raw`` in [0, 1] (release)."""


@dataclass(frozen=True)
class DeferredRendererConfig:
    """Options of the deferred renderer, which turns rasterized features into colour and mask."""

    network: Literal["compact", "release"] = "compact"
    """Our compact U-Net, or the released architecture."""
    carry: bool = True
    """Warp the photograph with the mesh, and let the network choose between it, the texture and its own
    output. Departure from ROME, whose images are only as sharp as its texture. Needs an ``unprojected``
    texture and the compact network."""
    network_size: int | None = 256
    """With ``carry``, larger images are downsampled to this side for the network, pixels: its corrections are
    upsampled, and the photograph keeps its resolution. ``null`` keeps the image's size."""
    unshuffle: int = 1
    """Fold square blocks of this side into channels before the network (``carry`` only), pixels; 2 costs a
    quarter of the work."""
    width: int = 20
    """Channels of the first level of the U-Net; 128 in the release."""
    num_levels: int = 4
    """Number of resolutions of the U-Net (``compact`` only)."""
    mask_network: bool = False
    """Use a second U-Net with half the channels for the mask (paper) instead of one network with four
    outputs (release)."""
    pooling: Literal["max", "average"] = "max"
    """How the U-Nets halve the resolution: ``max`` (release) or ``average`` (paper)."""
    upsampling: Literal["nearest", "bilinear"] = "nearest"
    """How they double it: ``nearest`` (release) or ``bilinear`` (paper)."""
    normals: Literal["head", "camera"] = "head"
    """Space of the network's normals: that of the head (release), or that of the camera, so that shading can
    follow the room's light."""
    interpolation: Literal["exact", "release"] = "exact"
    """Interpolation at pixels: ``exact``, with unit normals; or as in the ``release``, whose weights sum to
    slightly less than 1 and whose normals, in head space, are shorter inside triangles."""
    normal_frequencies: int = 6
    """Frequencies of the harmonic encoding of the normals."""
    harmonics: Literal["release", "paper"] = "release"
    """Frequencies 1, 2, 4, ... (release) or 1, 2, 3, ... (paper)."""
    extend_outside: bool = True
    """Extend the texture beyond the mesh from the nearest covered pixel, with the distance as an input, so
    that hair can be drawn before the mesh has grown to it. Departure from ROME, which has zeros there."""
    residual: bool = True
    """Predict colour as a correction to the sampled texture's first three channels and the mask as a
    correction to the mesh's silhouette, instead of both from scratch. Departure from ROME, for
    ``unprojected`` textures: unseen people keep their looks and outlines."""


@dataclass(frozen=True)
class AvatarConfig:
    """Options of an avatar model, full or linear."""

    head: str = "open"
    """``open`` for the head that ships with the package, ``flame`` for your own FLAME (asset ``flame``), or
    the path of a FLAME ``generic_model.pkl``."""
    release: str = ""
    """Folder of the ROME release's data (``faces_v2.pth`` ...), for its UV layout, triangles and movable
    vertices of FLAME; empty for the files beside ``head``."""
    rasterizer: str = "auto"
    """Visibility backend: ``auto``, ``torch``, ``warp``, ``release``, ``pytorch3d``."""
    framing: Literal["crop", "ffhq"] = "crop"
    """What the networks see of a source: its ``crop`` as it is, or rotated and scaled like FFHQ's
    photographs (release; ``direct`` textures only)."""
    texture: TextureConfig = field(default_factory=TextureConfig)
    offsets: OffsetConfig = field(default_factory=OffsetConfig)
    decoder: DeferredRendererConfig = field(default_factory=DeferredRendererConfig)
    """The deferred renderer, ``AvatarModel.renderer``; checkpoints and configurations use this key."""
    basis: BasisConfig = field(default_factory=BasisConfig)
    driver: DriverConfig = field(default_factory=DriverConfig)
    camera_distance: float | None = None
    """Distance from the camera to the eyes in metres, for perspective, see ``Perspective``; ``None`` for
    ROME's weak perspective."""

    def __post_init__(self) -> None:
        self._check_perspective()
        if self.framing == "ffhq" and self.texture.source != "direct":
            raise ValueError(
                f"avatar.framing ffhq needs avatar.texture.source direct, got {self.texture.source}: an "
                "unprojected texture is taken from the picture where the head is"
            )
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
    """Raise an error for sizes that a network cannot halve often enough.

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

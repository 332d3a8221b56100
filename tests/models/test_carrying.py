"""The carried photograph: unchanged at its own pose, warped along the surface at others."""

import dataclasses

import pytest
import torch
from carried import carried_to, smooth_photo
from helpers import SIZE, random_frames, small_config

from rome_lightning.models import AvatarModel, carrying, deferred_renderer, photo_canvas, photo_layers
from rome_lightning.models.carrying import OWN_VIEW, VISIBILITY, fragments_beside
from rome_lightning.models.checkpoint import config_from_dict
from rome_lightning.models.photo_canvas import BESIDE, HAIR, KNOWN, MATTE, RGB, crop_of
from rome_lightning.renderer import interpolate, nearest_covered
from rome_lightning.renderer.morphology import dilate
from rome_lightning.types import Frames, Region, Rendered
from rome_lightning.types.landmarks import NOSE_TIP
from rome_lightning.types.params import at_rest


@pytest.fixture(scope="module")
def model() -> AvatarModel:
    torch.manual_seed(0)
    return AvatarModel(small_config(kind="fitted")).eval().requires_grad_(False)


def test_at_its_own_pose_the_photograph_is_itself(model: AvatarModel) -> None:
    photo = smooth_photo(model)
    layers, mask = carried_to(model, photo, photo.params)
    torch.testing.assert_close(layers[:, RGB], photo.image, atol=2e-3, rtol=0)
    assert layers[:, KNOWN].min() == 1
    assert layers[:, BESIDE][mask].max() < 1.5 / SIZE


def test_a_moved_head_takes_its_pixels_along(model: AvatarModel) -> None:
    photo = smooth_photo(model)
    shift = 6 * 2 / SIZE / float(photo.params.camera[0, 0])
    camera = photo.params.camera + torch.tensor([0.0, shift, 0.0])
    layers, _ = carried_to(model, photo, dataclasses.replace(photo.params, camera=camera))
    expected = photo.image.roll(6, -1)[..., 8:-8, 14:-8]
    # Beyond the mesh too: the surroundings of the head move with it.
    torch.testing.assert_close(layers[:, RGB, 8:-8, 14:-8], expected, atol=5e-3, rtol=0)
    # Beyond the photograph it is mirrored, less with the distance.
    torch.testing.assert_close(layers[0, RGB, 8:-8, 2], photo.image[0, :, 8:-8, 4], atol=0.03, rtol=0)
    assert layers[0, KNOWN].min() == 1


def test_what_lies_beside_a_face_moves_like_ears_and_neck(model: AvatarModel) -> None:
    """Beside a cheek that turns outward: extended from the cheek, hair would float beside the face."""
    photo = smooth_photo(model)
    ramp = torch.linspace(0, 1, SIZE).expand(1, 3, SIZE, SIZE)
    photo = dataclasses.replace(photo, image=ramp, params=at_rest(photo.params))
    turned = dataclasses.replace(photo.params, global_pose=torch.tensor([[0.0, 0.6, 0.0]]))
    layers, mask = carried_to(model, photo, turned)
    before, after = (
        model.project(model.head(params), params, (SIZE, SIZE))[0, :, 0] for params in (photo.params, turned)
    )
    moved = before - after
    face = model.head.region("face")
    on_the_right = before > before[face].mean()
    row = int(model.head.landmarks(model.project(model.head(turned), turned, (SIZE, SIZE)))[0, NOSE_TIP, 1])
    beside = int(mask[0, 0, row].nonzero().max()) + 4
    found = float(layers[0, 0, row, beside]) * (SIZE - 1) - beside
    # Near the outline of the face, and as far back as the ears.
    outline = after >= after[face].max() - 2
    cheek, ears = moved[face & outline].mean(), moved[model.head.region("ears") & on_the_right].mean()
    assert abs(cheek - ears) > 6
    assert abs(found - ears) < abs(found - cheek) / 2


def test_the_motion_of_a_plane_is_continued_by_the_affine_map_that_it_is() -> None:
    generator = torch.Generator().manual_seed(0)
    here = torch.rand(2, 40, 2, generator=generator)
    matrix, shift = torch.randn(2, 2, 4, generator=generator), torch.randn(2, 1, 4, generator=generator)
    pixels = carrying._pixel_centres(torch.zeros(2, 5, 7))
    found = carrying._plane_displacement(here, here @ matrix + shift, torch.arange(40), pixels)
    expected = (pixels.flatten(1).T @ matrix + shift).transpose(1, 2).unflatten(2, (5, 7))
    torch.testing.assert_close(found, expected, atol=0.01, rtol=0)


def test_skin_beside_an_outline_stays_with_it_and_hair_does_not(model: AvatarModel) -> None:
    """An ear beside the cheek is not beside the back of the head, the outline after a rotation."""
    photo = smooth_photo(model)
    photo = dataclasses.replace(photo, params=at_rest(photo.params))
    turned = dataclasses.replace(photo.params, global_pose=torch.tensor([[0.0, 1.0, 0.0]]))
    opacity = {}
    for label in (Region.FACE_SKIN, Region.HAIR):
        labelled = dataclasses.replace(photo, regions=torch.full_like(photo.regions, int(label)))
        for name, params in (("own", photo.params), ("turned", turned)):
            layers, mask = carried_to(model, labelled, params)
            row = int(mask[0, 0].any(1).nonzero().min()) + SIZE // 5
            covered = mask[0, 0, row].nonzero()
            beside = [int(covered.min()) - 2, int(covered.max()) + 2]
            opacity[label, name] = float(layers[0, MATTE, row, beside].min())
    assert opacity[Region.FACE_SKIN, "own"] > 0.9
    assert opacity[Region.HAIR, "turned"] > 0.9
    assert opacity[Region.FACE_SKIN, "turned"] < 0.1


def test_the_rim_of_a_face_that_the_mesh_misses_does_not_hang_beside_it(model: AvatarModel) -> None:
    """A jaw broader than the mesh turns with the face; a neck beside it stays behind."""
    size = 4 * SIZE
    photo = smooth_photo(model).resized(size)
    photo = dataclasses.replace(photo, params=at_rest(photo.params))
    bare = model.render(model.encode(photo), photo.params, (size, size)).mesh_mask.float()
    photo = dataclasses.replace(photo, foreground_mask=dilate(bare, 8))

    def drawn(label: Region, yaw: float) -> Rendered:
        labelled = dataclasses.replace(photo, regions=torch.full_like(photo.regions, int(label)))
        turned = dataclasses.replace(photo.params, global_pose=torch.tensor([[0.0, yaw, 0.0]]))
        return model.render(model.encode(labelled), turned, (size, size))

    own = [drawn(label, 0.0).mask for label in (Region.FACE_SKIN, Region.BODY_SKIN)]
    torch.testing.assert_close(own[0], own[1], atol=0.02, rtol=0)
    face, neck = (drawn(label, 0.17) for label in (Region.FACE_SKIN, Region.BODY_SKIN))
    lost = (neck.mask - face.mask)[~face.mesh_mask]
    assert int((lost > 0.25).sum()) > 30
    assert float(lost.min()) > -0.02


def test_the_outline_of_turned_shoulders_is_the_meshs(model: AvatarModel) -> None:
    """Background in the photograph where the mesh has neck and shoulders is valid in its own view only."""
    photo = smooth_photo(model)
    empty = dataclasses.replace(photo, foreground_mask=torch.zeros_like(photo.foreground_mask))
    turned = dataclasses.replace(
        photo.params, global_pose=photo.params.global_pose + torch.tensor([[0.0, 0.7, 0.0]])
    )
    torso = model.head.region("neck", "shoulders").float()[None, :, None]
    found = []
    for params in (photo.params, turned):
        layers, _ = carried_to(model, empty, params)
        rendered = model.render(model.encode(empty), params, (SIZE, SIZE))
        on_torso = interpolate(rendered.vertices_px, model.head.faces, rendered.face_ids, torso) > 0.99
        assert int(on_torso.sum()) > 50
        found.append(layers[:, MATTE][on_torso])
    assert float((found[0] < 0.1).float().mean()) > 0.8
    assert float(found[1].min()) > 0.99


def test_a_mesh_that_is_not_finite_is_seen_in_the_picture_and_crashes_nothing(model: AvatarModel) -> None:
    photo = smooth_photo(model)
    code = model.encode(photo)
    broken = dataclasses.replace(code.carried, vertices=torch.full_like(code.carried.vertices, torch.nan))
    rendered = model.render(dataclasses.replace(code, carried=broken), photo.params, (SIZE, SIZE))
    assert rendered.image.isnan().any()


def cut_photo(model: AvatarModel, label: Region) -> Frames:
    """A photograph whose lower and right quarters were not taken."""
    photo = smooth_photo(model)
    regions = torch.full_like(photo.regions, int(label))
    regions[:, -SIZE // 4 :] = int(Region.OUTSIDE)
    regions[:, :, -SIZE // 4 :] = int(Region.OUTSIDE)
    matte = photo.foreground_mask * (regions != int(Region.OUTSIDE))[:, None]
    return dataclasses.replace(photo, regions=regions, foreground_mask=matte)


def test_a_body_continues_beyond_the_photograph_and_a_head_does_not(model: AvatarModel) -> None:
    """Shoulders that end at the border would leave a step beside the mesh's own."""
    photos = {
        label: cut_photo(model, label)
        for label in (Region.CLOTHES, Region.FACE_SKIN, Region.HAIR, Region.OTHER)
    }
    # Background, whose label does not matter.
    matte = torch.zeros_like(photos[Region.OTHER].foreground_mask)
    photos[Region.OTHER] = dataclasses.replace(photos[Region.OTHER], foreground_mask=matte)
    clothes, face, hair, background = (
        crop_of(model.encode(photo).carried.layers[0, 0]) for photo in photos.values()
    )
    assert clothes[KNOWN].min() == clothes[MATTE].min() == 1
    aside, under = (
        (slice(None, SIZE // 4), slice(-SIZE // 4, None)),
        (slice(-8, None), slice(None, SIZE // 2)),
    )
    for layers in (face, hair):
        for channel in (KNOWN, MATTE):
            assert layers[channel, : SIZE // 4, : SIZE // 2].min() == 1
            assert layers[channel, *aside].max() == 0
    # Hair that hangs below the ears does.
    assert face[KNOWN, *under].max() == 0
    assert hair[KNOWN, *under].min() == 1
    # No body is beside the background at the border, but one may be below it.
    assert background[KNOWN, *aside].min() == 1
    assert background[KNOWN, *under].max() == 0
    assert background[MATTE].max() == 0


def test_shoulders_beyond_the_crop_have_the_colours_of_its_border(model: AvatarModel) -> None:
    photo = smooth_photo(model)
    photo = dataclasses.replace(photo, regions=torch.full_like(photo.regions, int(Region.CLOTHES)))
    up = 12 * 2 / SIZE / float(photo.params.camera[0, 0])
    camera = photo.params.camera + torch.tensor([0.0, 0.0, up])
    layers, mask = carried_to(model, photo, dataclasses.replace(photo.params, camera=camera))
    # They were below the crop.
    shoulders = mask[0, 0, -8:] & (layers[0, VISIBILITY, -8:][0] > 0.5)
    assert shoulders.sum() > 0.8 * mask[0, 0, -8:].sum() > 50
    border = photo.image[0, :, -1:].expand(-1, 8, -1)[:, shoulders]
    found = layers[0, RGB, -8:][:, shoulders]
    # Of columns, which mirroring keeps, and of rows, which it takes from up to 12 rows above.
    torch.testing.assert_close(found[1], border[1], atol=0.03, rtol=0)
    assert (border[0] - found[0]).max() < 12 / SIZE + 0.03
    assert (found[0] - border[0]).max() < 0.03


def test_a_coat_keeps_its_outline_where_the_mesh_folds(model: AvatarModel) -> None:
    """Single vertices of the shoulders turn more than the shoulders do when the head leans."""
    photo = smooth_photo(model)
    photo = dataclasses.replace(
        photo, params=at_rest(photo.params), regions=torch.full_like(photo.regions, int(Region.CLOTHES))
    )
    leaned = dataclasses.replace(photo.params, global_pose=torch.tensor([[0.3, 0.0, 0.0]]))
    layers, mask = carried_to(model, photo, leaned)
    beside = ~mask[0, 0]
    beside[: 2 * SIZE // 3] = False
    assert beside.sum() > 100
    assert layers[0, MATTE][0, beside].min() > 0.99


def test_a_sharper_photograph_keeps_its_resolution(model: AvatarModel) -> None:
    photo = random_frames(model.head, 1)
    sharp = dataclasses.replace(
        photo,
        image=torch.rand(1, 3, 4 * SIZE, 4 * SIZE, generator=torch.Generator().manual_seed(0)),
        foreground_mask=torch.ones(1, 1, 4 * SIZE, 4 * SIZE),
        regions=torch.zeros(1, 4 * SIZE, 4 * SIZE, dtype=torch.uint8),
    )
    code = model.appearance(sharp.resized(SIZE), torch.zeros(1, model.head.num_vertices, 3), sharp)
    drawn = model.render(code, photo.params, (4 * SIZE, 4 * SIZE))
    seen = drawn.mesh_mask & (drawn.normals[:, 2:] > 0.7)
    assert (drawn.rgb - sharp.image).abs().mean(1, keepdim=True)[seen].median() < 0.02


def test_a_view_is_the_photographs_own_until_the_head_turns(model: AvatarModel) -> None:
    photo = smooth_photo(model)
    photo = dataclasses.replace(photo, params=at_rest(photo.params))

    def own_view(yaw: float) -> float:
        turned = dataclasses.replace(photo.params, global_pose=torch.tensor([[0.0, yaw, 0.0]]))
        return float(carried_to(model, photo, turned)[0][:, OWN_VIEW].mean())

    assert own_view(0.0) == pytest.approx(1, abs=1e-3)
    assert 0.3 < own_view(0.1) < 0.9
    assert own_view(0.5) == 0


def test_what_is_thin_beside_a_face_is_the_edge_of_an_ear_and_what_is_wide_is_hair() -> None:
    mask = torch.zeros(1, 1, 200, 200, dtype=torch.bool)
    mask[..., 60:140] = True
    matte = torch.zeros(1, 1, 200, 200)
    matte[..., 100:103, 140:150] = matte[..., 20:60, 140:180] = 1
    fragments = fragments_beside(matte, mask)
    assert fragments[..., 100:103, 142:150].min() == 1
    assert fragments[..., 20:60, 140:180].max() == 0
    assert fragments[mask].max() == 0


def test_each_view_is_rasterized_once_and_its_outline_searched_once(
    model: AvatarModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exactly the steps listed in docs/architecture.md."""
    rasterized, searched = [], []

    def face_ids(*arguments):
        rasterized.append(arguments[2])
        return type(model.rasterizer).face_ids(model.rasterizer, *arguments)

    def search(mask):
        searched.append(tuple(mask.shape[1:]))
        return nearest_covered(mask)

    monkeypatch.setattr(model.rasterizer, "face_ids", face_ids)
    for module in (photo_layers, photo_canvas, deferred_renderer):
        monkeypatch.setattr(module, "nearest_covered", search)
    source = random_frames(model.head, 1)
    sharp = (2 * SIZE, 2 * SIZE)
    code = model.appearance(source, model.rest_offsets(source), source.resized(2 * SIZE))
    assert rasterized == [(SIZE, SIZE), sharp]
    # The mesh's outline, the inside of the photograph's border, and that border on the canvas.
    canvas = tuple(code.carried.layers.shape[-2:])
    assert searched == [sharp, sharp, canvas]
    model.render(code, source.params, (SIZE, SIZE))
    assert rasterized == [(SIZE, SIZE), sharp, (SIZE, SIZE)]
    assert searched == [sharp, sharp, canvas, (SIZE, SIZE)]
    rasterized.clear()
    model.encode(source)
    assert rasterized == [(SIZE, SIZE)]


def test_several_photographs_are_each_carried(model: AvatarModel) -> None:
    photos = smooth_photo(model, 2)
    shape = photos.params.shape[:1].expand(2, -1).contiguous()
    photos = dataclasses.replace(photos, params=dataclasses.replace(photos.params, shape=shape))
    code = model.encode_person(photos)
    assert code.carried.layers.shape[:2] == (1, 2)
    rendered = model.render(code, photos.params[slice(1, 2)], (SIZE, SIZE))
    assert rendered.image.isfinite().all()


def test_models_of_earlier_versions_neither_carry_nor_mirror() -> None:
    config = dataclasses.asdict(small_config())
    for part, name in (("decoder", "carry"), ("texture", "mirror")):
        del config[part][name]
    old = config_from_dict(config)
    assert not old.decoder.carry
    assert not old.texture.mirror


def test_carrying_needs_an_unprojected_texture() -> None:
    config = small_config()
    with pytest.raises(ValueError, match=r"texture\.source unprojected.*decoder\.carry to false"):
        dataclasses.replace(config, texture=dataclasses.replace(config.texture, source="direct"))


def test_a_coat_is_opaque_up_to_the_border_of_its_photograph_and_beyond() -> None:
    """The matte of a photograph that ends within the crop fades at its border."""
    layers = torch.zeros(1, photo_canvas.NUM_STORED, 128, 128)
    layers[:, KNOWN, :, :100] = 1
    # A coat below row 60, hair above row 30, background between.
    layers[:, MATTE, 60:, :100] = 1
    layers[:, MATTE, :30, :100] = layers[:, HAIR, :30, :100] = 1
    layers[:, MATTE, 60:, 98:100] = layers[:, MATTE, :30, 98:100] = 0.4
    # What shows between strands has no label.
    layers[:, HAIR, 14:16, :100] = 0
    continued = crop_of(photo_canvas.widened(layers))
    assert float(continued[:, MATTE, 61:, 90:].min()) > 0.99
    assert float(continued[:, MATTE, 31:59].max()) == 0
    # Translucent hair stays what it is, and ends there.
    assert continued[0, MATTE, :29, 98:100].unique().tolist() == pytest.approx([0.4])
    assert float(continued[:, MATTE, :29, 100:].max()) == 0


def test_a_turned_head_shows_nothing_of_the_background_at_the_rim_of_a_matte(model: AvatarModel) -> None:
    """Mattes include a line of background, and are uncertain at the border of a photograph."""
    photo = smooth_photo(model)
    columns = torch.arange(SIZE).expand(1, 1, SIZE, SIZE)
    person = (columns < SIZE // 2).float()
    # The last column of the person has the background's colour.
    image = torch.where(columns < SIZE // 2 - 1, 0.2, 0.9).expand(1, 3, -1, -1).contiguous()
    photo = dataclasses.replace(photo, params=at_rest(photo.params), image=image, foreground_mask=person)
    turned = dataclasses.replace(photo.params, global_pose=torch.tensor([[0.0, 0.5, 0.0]]))
    layers, mask = carried_to(model, photo, turned)
    taken = mask & (layers[:, VISIBILITY] > 0.5)
    assert taken.sum() > 100
    background = layers[:, RGB].amax(1, keepdim=True) > 0.5
    assert (background & taken).sum() <= 2


def test_the_background_at_a_photographs_border_does_not_become_the_coat(model: AvatarModel) -> None:
    """There the matte of a coat is raised: its pixels that are half background get the coat's own colour."""
    photo = smooth_photo(model)
    regions = torch.full_like(photo.regions, Region.OUTSIDE)
    regions[..., : SIZE - 8] = 0
    rows = torch.arange(SIZE)[:, None].expand(1, 1, SIZE, SIZE)
    coat = (rows >= 40).float()
    # At the border the coat fades.
    coat[..., SIZE - 10 :] *= 0.4
    image = (0.2 * coat + 0.9 * (1 - coat)).expand(1, 3, -1, -1)
    photo = dataclasses.replace(photo, image=image, foreground_mask=coat, regions=regions)
    layers = crop_of(model.encode(photo).carried.layers[:, 0])
    opaque = layers[:, MATTE] > 0.9
    assert opaque[..., 45:, SIZE - 10 : SIZE - 8].all()
    assert float(layers[:, RGB].amax(1, keepdim=True)[opaque].max()) < 0.3

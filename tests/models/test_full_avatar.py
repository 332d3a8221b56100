import copy
import dataclasses

import pytest
import torch
from helpers import SIZE, perturbed, random_frames, random_params, small_config

from rome_lightning.geometry import axis_angle_to_matrix, unique_edges
from rome_lightning.head import HeadModel, load_head
from rome_lightning.head.depth import foreshortening
from rome_lightning.head.moving import MOVING_REGIONS, smooth_mask
from rome_lightning.models import FullAvatar
from rome_lightning.types.params import at_rest


@pytest.fixture(scope="module")
def head() -> HeadModel:
    return load_head("open")


def build(head: HeadModel, **offsets: object) -> FullAvatar:
    torch.manual_seed(0)
    return perturbed(FullAvatar(small_config(**offsets), head)).eval()


@pytest.mark.parametrize("expression_dependent", [False, True])
def test_batch_of_two_equals_two_of_one(head: HeadModel, expression_dependent: bool) -> None:
    model = build(head, expression_dependent=expression_dependent)
    frames, drivers = random_frames(head, 2), random_params(head, 4, seed=1)
    both = model(frames, drivers)
    for i in range(2):
        alone = model(frames[slice(i, i + 1)], drivers[slice(2 * i, 2 * i + 2)])
        # Convolutions sum in another order for another batch: 6e-8, amplified by the norms of some twenty
        # untrained layers to 4e-5 (seen with SSE4.1). Mixed-up images differ by 1e-2 and more.
        torch.testing.assert_close(both.image[2 * i : 2 * i + 2], alone.image, atol=3e-4, rtol=0)
        assert torch.equal(both.face_ids[2 * i : 2 * i + 2], alone.face_ids)


def test_one_avatar_is_shared_by_its_drivers(head: HeadModel) -> None:
    model = build(head, kind="fitted")
    code, drivers = model.encode(random_frames(head, 1)), random_frames(head, 3).params
    with torch.no_grad():
        shared = model.render(code, drivers, (SIZE, SIZE))
        each = model.render(code.repeat_interleave(3), drivers, (SIZE, SIZE))
    torch.testing.assert_close(shared.rgb, each.rgb, atol=1e-6, rtol=0)
    torch.testing.assert_close(shared.mask, each.mask, atol=1e-6, rtol=0)


def test_starts_as_the_bare_head_with_the_observed_colours(head: HeadModel) -> None:
    torch.manual_seed(0)
    config = small_config()
    # With it, hidden eyes and teeth get generic colours.
    config = dataclasses.replace(config, texture=dataclasses.replace(config.texture, mirror=False))
    model = FullAvatar(config, head).eval()
    frames = random_frames(head, 1)
    image, matte = torch.full_like(frames.image, 0.3), torch.ones_like(frames.foreground_mask)
    frames = dataclasses.replace(frames, image=image, foreground_mask=matte)
    rendered = model(frames, frames.params)
    assert rendered.offsets.abs().max() == 0
    # Lips shade what is behind them.
    in_mouth = head.region("mouth")[head.faces[rendered.face_ids.clamp_min(0).long(), 0]]
    inside = (rendered.mesh_mask & ~in_mouth[:, None]).expand_as(rendered.rgb)
    torch.testing.assert_close(
        rendered.rgb[inside], torch.full_like(rendered.rgb[inside], 0.3), atol=1e-3, rtol=0
    )


def test_only_hair_neck_and_shoulders_move_and_within_the_bound(head: HeadModel) -> None:
    model = build(head, max_offset=0.05)
    code = model.encode(random_frames(head, 1))
    mesh = model.deform(code, random_params(head, 1))
    moving = head.region(*MOVING_REGIONS)
    assert mesh.offsets[:, ~moving].abs().max() == 0
    lengths = mesh.offsets[:, moving].norm(dim=-1)
    assert 0 < lengths.max() <= 0.05 + 1e-6


def test_offsets_along_the_normal_are_parallel_to_it_at_rest(head: HeadModel) -> None:
    from rome_lightning.geometry import vertex_normals

    model = build(head)
    frames = random_frames(head, 1)
    mesh = model.deform(model.encode(frames), at_rest(frames.params))
    bare = mesh.vertices - mesh.offsets
    cross = torch.linalg.cross(mesh.offsets, vertex_normals(bare, head.faces))
    assert cross.norm(dim=-1).max() < 1e-6


def test_offsets_turn_with_the_neck(head: HeadModel) -> None:
    model = build(head)
    frames = random_frames(head, 1)
    code = model.encode(frames)
    angle = torch.tensor([[0.0, 0.4, 0.0]])
    turned = dataclasses.replace(at_rest(frames.params), neck_pose=angle)
    offsets = model.deform(code, turned).offsets
    rotation = axis_angle_to_matrix(angle)[0]
    # Vertices bound to the neck alone rotate with it rigidly.
    rigid = (head.skinning_weights[:, 1] > 1 - 1e-6).nonzero().squeeze(1)
    assert code.offsets is not None
    assert code.offsets[0, rigid].norm(dim=-1).max() > 1e-3
    torch.testing.assert_close(offsets[0, rigid], code.offsets[0, rigid] @ rotation.T, atol=1e-6, rtol=0)


def test_driver_shape_is_ignored(head: HeadModel) -> None:
    model, frames = build(head), random_frames(head, 1)
    driver = random_params(head, 1, seed=3)
    other = dataclasses.replace(driver, shape=driver.shape + 1)
    assert torch.equal(model(frames, driver).image, model(frames, other).image)


def test_background_shows_where_the_mask_is_zero(head: HeadModel) -> None:
    model, frames = build(head), random_frames(head, 1)
    code = model.encode(frames)
    size = (SIZE, SIZE)
    black = model.render(code, frames.params, size, 0.0)
    red = model.render(code, frames.params, size, torch.tensor([[1.0, 0.0, 0.0]]))
    expected = black.image.clone()
    expected[:, 0] += 1 - black.mask[:, 0]
    torch.testing.assert_close(red.image, expected)


@pytest.mark.parametrize("direction", ["normal", "elementwise", "free"])
def test_gradients_reach_every_parameter(head: HeadModel, direction: str) -> None:
    from rome_lightning.renderer import coverage

    torch.manual_seed(0)
    model = perturbed(FullAvatar(small_config(direction=direction), head))
    rendered = model(random_frames(head, 1), random_params(head, 1))
    silhouette = coverage(rendered.vertices_px, head.faces, rendered.face_ids)
    (rendered.image.square().sum() + rendered.mask.sum() + silhouette.square().sum()).backward()
    silent = [n for n, p in model.named_parameters() if p.grad is None or p.grad.abs().max() == 0]
    assert silent == []


def test_no_offsets_is_the_parametric_head(head: HeadModel) -> None:
    model = FullAvatar(small_config(kind="none"), head)
    params = random_params(head, 1)
    frames = random_frames(head, 1)
    mesh = model.deform(model.encode(frames), params)
    bare = head(dataclasses.replace(params, shape=frames.params.shape))
    assert torch.equal(mesh.vertices, bare)


def test_smooth_mask_on_a_strip() -> None:
    # Vertices 0..5 in a row of triangles; 2..5 belong.
    faces = torch.tensor([[0, 1, 2], [1, 2, 3], [2, 3, 4], [3, 4, 5]])
    mask = torch.tensor([False, False, True, True, True, True])
    value = smooth_mask(mask, unique_edges(faces), num_rings=1)
    assert torch.equal(value, torch.tensor([0.0, 0.0, 0.5, 0.5, 1.0, 1.0]))


def test_every_tensor_moves_with_the_model(head: HeadModel) -> None:
    # The meta device stands for any other: a plain attribute would stay on the CPU.
    model = FullAvatar(small_config(), copy.deepcopy(head)).to("meta")
    left = [
        f"{name}.{key}"
        for name, module in model.named_modules()
        for key, value in vars(module).items()
        if isinstance(value, torch.Tensor)
    ]
    buffers = [name for name, value in model.named_buffers() if value.device.type != "meta"]
    assert left + buffers == []


def test_fitted_offsets_are_those_of_the_frames(head: HeadModel) -> None:
    model = FullAvatar(small_config(kind="fitted"), head).eval()
    assert model.offset_network is not None
    assert not list(model.offset_network.parameters())
    frames, drivers = random_frames(head, 2), random_params(head, 4, seed=1)
    bare = model.deform(model.encode(frames), frames.params)
    depth = foreshortening(head, head(at_rest(frames.params)))
    torch.testing.assert_close(bare.offsets, head.turn(depth, frames.params))
    offsets = torch.zeros_like(bare.offsets)
    offsets[:, head.region("scalp")] = torch.tensor([[[0.02, 0.0, 0.0]], [[0.0, 0.03, 0.0]]])
    frames = dataclasses.replace(frames, offsets=offsets)
    code = model.encode(frames)
    assert torch.equal(code.offsets, offsets)
    # Each source's offsets serve all of its drivers, rotated with the head.
    mesh = model.deform(code.repeat_interleave(2), drivers)
    torch.testing.assert_close(mesh.offsets, head.turn(offsets.repeat_interleave(2, 0), drivers))
    assert torch.equal(model.reconstruct(frames).offsets, head.turn(offsets, frames.params))


def test_photographs_of_more_pixels_give_a_finer_texture_of_the_same_person(head: HeadModel) -> None:
    torch.manual_seed(0)
    model = FullAvatar(small_config(kind="fitted"), head).eval().requires_grad_(False)
    frames = random_frames(head, 1)
    size = model.config.texture.size
    smooth = torch.nn.functional.interpolate(frames.image[..., ::8, ::8], frames.image_size, mode="bilinear")
    source = dataclasses.replace(
        frames,
        image=smooth,
        foreground_mask=torch.ones_like(frames.foreground_mask),
        regions=torch.zeros_like(frames.regions),
    )
    large = source.resized(4 * size)
    offsets = model.rest_offsets(source)
    coarse, fine = model.appearance(source, offsets), model.appearance(source, offsets, large)
    assert fine.texture.shape[-1] == fine.carried.visibility.shape[-1] == 4 * size
    drawn = [model.render(code, source.params, source.image_size).rgb for code in (coarse, fine)]
    # Without detail in the photograph, both show the same.
    assert (drawn[0] - drawn[1]).abs().mean() < 0.01
    # A photograph without more pixels gives no finer texture.
    assert model.appearance(source, offsets, source).texture.shape == coarse.texture.shape

"""The head model against formulas written out vertex by vertex."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from rome_lightning.head import JOINTS, REGIONS, HeadData, HeadModel, LandmarkEmbedding
from rome_lightning.types import HeadParams

NUM_SHAPE, NUM_EXPRESSION, NUM_CARRIERS = 4, 3, 12
PARENTS = {"neck": "root", "jaw": "neck", "left_eye": "neck", "right_eye": "neck"}


def make_data(pose_correctives: bool = True, midpoints: bool = True) -> HeadData:
    """A random blob, which is enough to test formulas."""
    rng = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=rng)

    count = NUM_CARRIERS + (5 if midpoints else 0)
    faces = torch.tensor([[i, (i + 1) % count, (i + 2) % count] for i in range(count)])
    owner = torch.arange(count) % len(REGIONS)
    return HeadData(
        name="blob",
        template=normal(NUM_CARRIERS, 3),
        shape_basis=normal(NUM_CARRIERS, 3, NUM_SHAPE),
        expression_basis=normal(NUM_CARRIERS, 3, NUM_EXPRESSION),
        expression_names=("jawOpen", "mouthClose", "cheekPuff"),
        joints=normal(5, 3),
        joint_basis=normal(5, 3, NUM_SHAPE + NUM_EXPRESSION),
        skinning_weights=torch.softmax(normal(NUM_CARRIERS, 5), dim=-1),
        faces=faces,
        uvs=torch.rand(3 * count, 2, generator=rng),
        uv_faces=torch.arange(3 * count).view(-1, 3),
        regions={name: owner == i for i, name in enumerate(REGIONS)},
        landmarks={
            "ibug68": LandmarkEmbedding(torch.tensor([2, 0]), torch.tensor([[0.5, 0.25, 0.25], [0, 0, 1.0]]))
        },
        midpoints=torch.tensor([[0, 1], [1, 2], [4, 9], [11, 0], [3, 7]]) if midpoints else None,
        pose_basis=0.3 * normal(36, 3 * NUM_CARRIERS) if pose_correctives else None,
    )


def make_params(batch: int, scale: float = 0.7) -> HeadParams:
    rng = torch.Generator().manual_seed(1)
    return HeadParams.from_packed(
        torch.randn(batch, NUM_SHAPE, generator=rng),
        torch.rand(batch, NUM_EXPRESSION, generator=rng),
        scale * torch.randn(batch, 18, generator=rng),
        torch.ones(batch, 3),
    )


def quaternion_matrix(axis_angle: np.ndarray) -> np.ndarray:
    """Rotation matrix computed through a quaternion."""
    angle = float(np.linalg.norm(axis_angle))
    w, (x, y, z) = math.cos(angle / 2), math.sin(angle / 2) * axis_angle / max(angle, 1e-12)
    return np.array(
        [
            [w * w + x * x - y * y - z * z, 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), w * w - x * x + y * y - z * z, 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), w * w - x * x - y * y + z * z],
        ]
    )


def reference(data: HeadData, params: HeadParams, item: int) -> np.ndarray:
    """Posed vertices of one batch item: chains of 4x4 matrices, one vertex at a time."""
    coefficients = torch.cat([params.shape[item], params.expression[item]]).double().numpy()
    basis = torch.cat([data.shape_basis, data.expression_basis], dim=-1).double().numpy()
    joints = data.joints.double().numpy() + data.joint_basis.double().numpy() @ coefficients
    pose = {"root": np.zeros(3), "neck": params.neck_pose[item], "jaw": params.jaw_pose[item]}
    pose |= {"left_eye": params.eye_pose[item, :3], "right_eye": params.eye_pose[item, 3:]}
    local = {name: quaternion_matrix(np.asarray(value, dtype=np.float64)) for name, value in pose.items()}
    chain: dict[str, np.ndarray] = {}
    for index, name in enumerate(JOINTS):
        parent = PARENTS.get(name)
        step = np.eye(4)
        step[:3, :3] = local[name]
        step[:3, 3] = joints[index] - (joints[JOINTS.index(parent)] if parent else 0)
        # The root shifts, and the neck that hangs on it shifts back.
        shift = params.torso_shift[item].double().numpy()
        step[:3, 3] += {"root": shift, "neck": -shift}.get(name, 0)
        chain[name] = chain[parent] @ step if parent else step
    points, weights = [], [row.double().numpy() for row in data.skinning_weights]
    for v in range(NUM_CARRIERS):
        point = data.template[v].double().numpy() + basis[v] @ coefficients
        if data.pose_basis is not None:
            feature = np.concatenate([(local[name] - np.eye(3)).reshape(-1) for name in JOINTS[1:]])
            point = point + feature @ data.pose_basis[:, 3 * v : 3 * v + 3].double().numpy()
        points.append(point)
    for a, b in [] if data.midpoints is None else data.midpoints.tolist():
        points.append((points[a] + points[b]) / 2)
        weights.append(data.skinning_weights[[a, b]].mean(0).double().numpy())
    posed = np.zeros((len(points), 3))
    for v, point in enumerate(points):
        for index, name in enumerate(JOINTS):
            moved = chain[name] @ np.append(point - joints[index], 1)
            posed[v] += weights[v][index] * moved[:3]
    return posed


@pytest.mark.parametrize("pose_correctives", [True, False])
@pytest.mark.parametrize("midpoints", [True, False])
def test_matches_the_formulas(pose_correctives: bool, midpoints: bool) -> None:
    data = make_data(pose_correctives, midpoints)
    head, params = HeadModel(data), make_params(3)
    vertices = head(params)
    assert vertices.is_contiguous()
    for item in range(3):
        # Single precision, coordinates of order 10.
        np.testing.assert_allclose(vertices[item], reference(data, params, item), atol=2e-5)


def test_double_precision_is_exact() -> None:
    data, params = make_data(), make_params(2).to(torch.float64)
    vertices = HeadModel(data).double()(params)
    assert vertices.dtype == torch.float64
    np.testing.assert_allclose(vertices[1], reference(data, params, 1), atol=1e-12)


def test_a_batch_is_its_items() -> None:
    head, params = HeadModel(make_data()), make_params(4)
    whole = head(params)
    for i in range(4):
        torch.testing.assert_close(whole[i : i + 1], head(params[i : i + 1]))


def test_template_and_bases_are_as_given() -> None:
    data = make_data()
    head = HeadModel(data)
    torch.testing.assert_close(head.template, data.template.flatten())
    assert head.basis.shape == (NUM_SHAPE + NUM_EXPRESSION, 3 * NUM_CARRIERS)
    torch.testing.assert_close(head.basis[1].view(-1, 3), data.shape_basis[..., 1])
    torch.testing.assert_close(head.basis[NUM_SHAPE].view(-1, 3), data.expression_basis[..., 0])
    torch.testing.assert_close(head.pose_basis, data.pose_basis)
    assert HeadModel(make_data(pose_correctives=False)).pose_basis is None


@pytest.mark.gradcheck
def test_gradients() -> None:
    head = HeadModel(make_data()).double()
    params = make_params(2).to(torch.float64)
    inputs = [params.shape, params.expression, params.pose]

    def vertices(shape: Tensor, expression: Tensor, pose: Tensor) -> Tensor:
        packed = HeadParams.from_packed(shape, expression, pose, params.camera)
        return head.to_world(head(packed), packed)

    assert torch.autograd.gradcheck(vertices, [tensor.requires_grad_() for tensor in inputs])


def test_gradients_at_rest_are_finite() -> None:
    head = HeadModel(make_data())
    pose = torch.zeros(1, 15, requires_grad=True)
    neutral = HeadParams.neutral(1, NUM_SHAPE, NUM_EXPRESSION)
    head(
        HeadParams.from_packed(neutral.shape, neutral.expression, pose, neutral.camera)
    ).square().sum().backward()
    assert pose.grad is not None
    assert pose.grad.isfinite().all()
    assert (pose.grad[:, 3:] != 0).all()


def _posed(**pose: list[float]) -> tuple[HeadModel, Tensor]:
    """A head whose carriers 0..4 belong to one joint each, at a rotation of some joints."""
    data = make_data(pose_correctives=False, midpoints=False)
    data.skinning_weights[:5] = torch.eye(5)
    head = HeadModel(data)
    values = {name: torch.tensor([value]) for name, value in pose.items()}
    neutral = HeadParams.neutral(1, NUM_SHAPE, NUM_EXPRESSION)
    params = HeadParams(**{**{f: getattr(neutral, f) for f in neutral.__dataclass_fields__}, **values})
    return head, (head(params) - head(neutral))[0].norm(dim=-1)


def test_each_joint_moves_its_own_and_its_children() -> None:
    quarter = [0.0, 0.5, 0.0]
    for pose, moving in (
        ({"jaw_pose": quarter}, [2]),
        ({"eye_pose": [*quarter, 0, 0, 0]}, [3]),
        ({"eye_pose": [0, 0, 0, *quarter]}, [4]),
        ({"neck_pose": quarter}, [1, 2, 3, 4]),
        ({"global_pose": quarter}, []),
    ):
        _, moved = _posed(**pose)
        assert [i for i in range(5) if moved[i] > 1e-5] == moving


def test_an_eye_turns_about_its_own_joint() -> None:
    data = make_data(pose_correctives=False, midpoints=False)
    data.skinning_weights[:] = torch.eye(5)[3]
    data.template[:] = data.joints[3] + torch.tensor([0.0, 0.0, 1.0])
    head = HeadModel(data)
    params = HeadParams.neutral(1, NUM_SHAPE, NUM_EXPRESSION).map(lambda tensor: tensor)
    params.eye_pose[:, :3] = torch.tensor([0.0, math.pi / 2, 0.0])
    # A left rotation about +y turns the gaze from +z to +x.
    expected = data.joints[3] + torch.tensor([1.0, 0.0, 0.0])
    torch.testing.assert_close(head(params)[0, 0], expected, atol=1e-6, rtol=0)


def test_posing_in_the_world_is_posing_and_turning() -> None:
    head, params = HeadModel(make_data()), make_params(2)
    expected = head.to_world(head(params), params)
    assert (expected - head(params)).abs().max() > 0.01
    torch.testing.assert_close(head(params, in_world=True), expected, atol=1e-5, rtol=0)


def test_the_world_turns_about_the_root() -> None:
    data, params = make_data(), make_params(2)
    head = HeadModel(data)
    root = head.root(params)
    for i in range(2):
        coefficients = torch.cat([params.shape[i], params.expression[i]])
        torch.testing.assert_close(root[i], data.joints[0] + data.joint_basis[0] @ coefficients)
    points = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(2))
    world = head.to_world(points, params)
    matrix = quaternion_matrix(params.global_pose[1].double().numpy())
    expected = (points[1] - root[1]).numpy() @ matrix.T + root[1].numpy()
    np.testing.assert_allclose(world[1], expected, atol=1e-5)


def test_regions_landmarks_and_uvs() -> None:
    data = make_data()
    head = HeadModel(data)
    assert (head.region("face", "neck") == (data.regions["face"] | data.regions["neck"])).all()
    with pytest.raises(ValueError, match=r"unknown head region \['hat'\]; known: face"):
        head.region("hat")
    vertices = head(make_params(2))
    landmarks = head.landmarks(vertices, "ibug68")
    torch.testing.assert_close(landmarks[:, 0], vertices[:, 2] / 2 + vertices[:, 3] / 4 + vertices[:, 4] / 4)
    torch.testing.assert_close(landmarks[:, 1], vertices[:, 2])
    with pytest.raises(ValueError, match="no landmarks 'mediapipe', it has ibug68"):
        head.landmarks(vertices)
    for vertex in (0, 5, 16):
        corners = data.uvs[data.uv_faces[data.faces == vertex]]
        assert (head.vertex_uvs[vertex] == corners).all(-1).any()


def test_nothing_is_stored_in_checkpoints_and_all_moves_with_the_module() -> None:
    head = HeadModel(make_data())
    assert not head.state_dict()
    assert not list(head.parameters())
    assert {buffer.device.type for buffer in head.to("meta").buffers()} == {"meta"}


def test_turn_is_what_skinning_does_to_a_displacement_at_rest() -> None:
    data, params = make_data(), make_params(3)
    model = HeadModel(data)
    vector = torch.randn(NUM_CARRIERS, 3, generator=torch.Generator().manual_seed(4))
    moved = HeadModel(dataclasses.replace(data, template=data.template + vector))
    assert data.midpoints is not None
    turned = model.turn(torch.cat([vector, torch.zeros(5, 3)]).expand(3, -1, -1), params)
    expected = (moved(params) - model(params))[:, :NUM_CARRIERS]
    torch.testing.assert_close(turned[:, :NUM_CARRIERS], expected, atol=1e-5, rtol=1e-5)
    # The same vector everywhere: a midpoint rotates it by the mean of its two carriers.
    same = torch.ones(3, model.num_vertices, 3)
    at_carriers = model.turn(same, params)[:, :NUM_CARRIERS]
    torch.testing.assert_close(
        model.turn(same, params)[:, NUM_CARRIERS:], at_carriers[:, data.midpoints].mean(2)
    )

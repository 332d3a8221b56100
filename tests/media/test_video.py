"""Reading and writing videos and photos, on generated files."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from rome_lightning.media.pictures import read_image
from rome_lightning.media.video import probe, read_video, write_video


def gradient(shift: int = 0, height: int = 64, width: int = 96) -> np.ndarray:
    """An image without symmetry that survives compression."""
    y, x = np.mgrid[:height, :width].astype(float)
    red, green = 255 * x / width, 255 * y / height
    blue = 127 + 120 * np.sin((x + 4 * shift) / 9)
    return np.stack([red, green, blue], -1).astype(np.uint8)


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write_video(tmp_path / "clip.mp4", [gradient(i) for i in range(30)], fps=25.0)


def edit_display_matrix(path: Path, matrix: tuple[int, int, int, int]) -> Path:
    """Write the rotation of ISO 14496-12 into the track header, as phones do."""
    data = bytearray(path.read_bytes())
    start = data.index(b"tkhd") + 4 + 40
    a, b, c, d = (value << 16 for value in matrix)
    data[start : start + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    result = path.with_name("rotated.mp4")
    result.write_bytes(data)
    return result


def write_audio_only(path: Path) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def test_frames_come_back_in_order_and_colour(clip: Path) -> None:
    video = read_video(clip)
    assert video.frames.shape == (30, 64, 96, 3)
    assert video.fps == pytest.approx(25)
    assert video.timestamps == pytest.approx(np.arange(30) / 25)
    assert video.frame_numbers.tolist() == list(range(30))
    for index in (0, 13, 29):
        error = video.frames[index].astype(float) - gradient(index)
        # Compression and chroma at half resolution; a wrong colour matrix shifts the means by more than 4.
        assert np.abs(error).mean() < 5
        assert np.abs(error.mean((0, 1))).max() < 2


def test_colours_survive_both_resolutions_and_tags(tmp_path: Path) -> None:
    """Untagged files follow the rule of their resolution; an independent writer encodes them."""
    for height, matrix in ((240, "ITU601"), (720, "ITU709")):
        path = tmp_path / f"{height}.mp4"
        picture = np.full((height, 320, 3), (200, 40, 60), np.uint8)
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=25, options={"crf": "5"})
            stream.width, stream.height, stream.pix_fmt = 320, height, "yuv420p"
            frame = av.VideoFrame.from_ndarray(picture).reformat(format="yuv420p", dst_colorspace=matrix)
            frame.colorspace = 2
            container.mux(stream.encode(frame))
            container.mux(stream.encode())
        mean = read_video(path).frames.mean((0, 1, 2))
        assert mean == pytest.approx([200, 40, 60], abs=4)


def test_fps_and_limits_choose_frames(clip: Path) -> None:
    assert read_video(clip, fps=5.0).frame_numbers.tolist() == [0, 5, 10, 15, 20, 25]
    assert read_video(clip, fps=10.0).frame_numbers.tolist() == [0, 3, 5, 8, 10, 13, 15, 18, 20, 23, 25, 28]
    assert read_video(clip, fps=60.0).frame_numbers.tolist() == list(range(30))
    assert read_video(clip, max_frames=4, start_s=0.4).frame_numbers.tolist() == [10, 11, 12, 13]
    # A lower rate counts its intervals from the start.
    assert read_video(clip, max_frames=3, start_s=0.4, fps=5.0).frame_numbers.tolist() == [10, 15, 20]
    assert read_video(clip, max_seconds=0.2).frame_numbers.tolist() == [0, 1, 2, 3, 4]
    assert read_video(clip, max_seconds=0.2, start_s=0.4, fps=10.0).frame_numbers.tolist() == [10, 13]
    assert read_video(clip, max_side=48).frames.shape == (30, 32, 48, 3)
    assert read_video(clip, fps=5.0).fps == pytest.approx(5)


@pytest.mark.parametrize(
    ("matrix", "rotation", "quarter_turns"),
    [((0, 1, -1, 0), 270, 3), ((-1, 0, 0, -1), 180, 2), ((0, -1, 1, 0), 90, 1)],
)
def test_rotation_of_the_metadata_is_applied(
    clip: Path, matrix: tuple[int, int, int, int], rotation: int, quarter_turns: int
) -> None:
    stored = read_video(clip).frames
    path = edit_display_matrix(clip, matrix)
    rotated = read_video(path).frames
    assert np.array_equal(rotated, np.rot90(stored, quarter_turns, axes=(1, 2)))
    info = probe(path)
    assert (info.rotation, info.height, info.width) == (rotation, *rotated.shape[1:3])
    # The matrix maps stored (x, y) to displayed (a x + c y, b x + d y), y downwards, up to a shift.
    a, b, c, d = matrix
    y, x = np.mgrid[:64, :96]
    shown_x, shown_y = a * x + c * y, b * x + d * y
    assert np.array_equal(rotated[0][shown_y - shown_y.min(), shown_x - shown_x.min()], stored[0])


def test_variable_frame_rate_keeps_times(tmp_path: Path) -> None:
    path = tmp_path / "vfr.mkv"
    times = [0, 40, 80, 500, 540, 1000, 1400, 1440, 1480, 2000]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for index, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(gradient(index)).reformat(format="yuv420p")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    video = read_video(path)
    assert video.timestamps == pytest.approx(np.array(times) / 1000, abs=2e-3)
    assert read_video(path, fps=2.0).frame_numbers.tolist() == [0, 3, 5, 9]


def test_probe(clip: Path) -> None:
    info = probe(clip)
    assert (info.width, info.height, info.num_frames, info.codec) == (96, 64, 30, "h264")
    assert info.fps == pytest.approx(25)
    assert info.duration_s == pytest.approx(1.2)


def test_audio_only_is_refused(tmp_path: Path) -> None:
    path = write_audio_only(tmp_path / "voice.m4a")
    for function in (probe, read_video):
        with pytest.raises(ValueError, match=r"voice\.m4a has no video stream, only audio"):
            function(path)


def test_zero_length_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "nothing.mp4"
    path.touch()
    with pytest.raises(ValueError, match=r"nothing\.mp4 is empty"):
        read_video(path)


def test_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "notes.mp4"
    path.write_text("not a video\n" * 100)
    with pytest.raises(ValueError, match=r"cannot read .*notes\.mp4 as a video"):
        read_video(path)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"gone\.mp4"):
        read_video(tmp_path / "gone.mp4")
    with pytest.raises(FileNotFoundError, match=r"gone\.png"):
        read_image(tmp_path / "gone.png")


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_truncated_video_is_refused(tmp_path: Path, share: float) -> None:
    """With the index at the front, a truncated file still opens: only missing frames reveal it."""
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 255, (64, 96, 3), dtype=np.uint8) for _ in range(60)]
    data = write_video(tmp_path / "whole.mp4", noise, fps=25.0).read_bytes()
    path = tmp_path / "cut.mp4"
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ValueError, match=r"cut\.mp4 .*(truncated|damaged)") as caught:
        read_video(path)
    assert "\n" not in str(caught.value)


def test_start_behind_the_end(clip: Path) -> None:
    with pytest.raises(ValueError, match="no frame after 9"):
        read_video(clip, start_s=9.0)


@pytest.mark.parametrize("setting", [{"fps": 0.0}, {"max_frames": 0}, {"max_side": -1}, {"max_seconds": 0.0}])
def test_invalid_limits(clip: Path, setting: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        read_video(clip, **setting)


def test_odd_sizes_become_even(tmp_path: Path) -> None:
    path = write_video(tmp_path / "odd.mp4", [gradient(0, 33, 47)] * 3, fps=30.0)
    assert read_video(path).frames.shape == (3, 34, 48, 3)
    with av.open(str(path)) as container:
        assert container.streams.video[0].codec_context.pix_fmt == "yuv420p"
        assert container.streams.video[0].codec_context.name == "h264"


def test_writing_is_all_or_nothing(tmp_path: Path) -> None:
    path = tmp_path / "result.mp4"
    path.write_bytes(b"earlier result")

    def frames():
        yield gradient()
        raise RuntimeError("rendering failed")

    with pytest.raises(RuntimeError, match="rendering failed"):
        write_video(path, frames(), fps=25.0)
    assert path.read_bytes() == b"earlier result"
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(ValueError, match="no frames"):
        write_video(path, [], fps=25.0)
    with pytest.raises(ValueError, match=r"frame 1 .* the first is"):
        write_video(path, [gradient(), gradient(0, 32, 32)], fps=25.0)


def test_fractional_rates_are_exact(tmp_path: Path) -> None:
    path = write_video(tmp_path / "ntsc.mp4", [gradient(i) for i in range(5)], fps=30000 / 1001)
    assert probe(path).fps == pytest.approx(30000 / 1001, abs=1e-6)


@pytest.mark.parametrize("mode", ["RGBA", "L", "CMYK", "P", "I;16", "LA"])
def test_images_of_every_mode_become_rgb(tmp_path: Path, mode: str) -> None:
    picture = Image.fromarray(gradient())
    path = tmp_path / ("photo.tif" if mode == "CMYK" else "photo.png")
    if mode == "I;16":
        Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257).save(path)
    else:
        picture.convert(mode).save(path)
    image = read_image(path)
    assert image.shape == (64, 96, 3)
    assert image.dtype == np.uint8
    grey = np.asarray(picture.convert("L")).astype(float)
    # Palette and CMYK round colours; brightness must survive all of them.
    assert np.abs(np.asarray(Image.fromarray(image).convert("L")) - grey).mean() < 12


def test_transparent_pixels_are_white(tmp_path: Path) -> None:
    rgba = np.zeros((8, 8, 4), np.uint8)
    rgba[:4, :, 3] = 255
    Image.fromarray(rgba).save(tmp_path / "logo.png")
    image = read_image(tmp_path / "logo.png")
    assert image[:4].max() == 0
    assert image[4:].min() == 255


@pytest.mark.parametrize(("orientation", "quarter_turns"), [(1, 0), (3, 2), (6, 3), (8, 1)])
def test_exif_rotation_is_applied(tmp_path: Path, orientation: int, quarter_turns: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(gradient()).save(tmp_path / "phone.png", exif=exif)
    assert np.array_equal(read_image(tmp_path / "phone.png"), np.rot90(gradient(), quarter_turns))


@pytest.mark.parametrize("keep", [0, 10, 700])
def test_damaged_images_are_refused(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "broken.png"
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"cannot read .*broken\.png as an image") as caught:
        read_image(path)
    assert "\n" not in str(caught.value)


def test_reading_is_quiet(clip: Path) -> None:
    code = f"from rome_lightning.media.video import read_video; read_video({str(clip)!r})"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout + result.stderr == ""


@pytest.mark.parametrize(
    "text",
    [
        "ffconcat version 1.0\nfile secret.mp4\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nsecret.mp4\n#EXT-X-ENDLIST\n",
        "[playlist]\nFile1=secret.mp4\n",
    ],
)
@pytest.mark.parametrize("suffix", ["mp4", "mkv", "webm"])
def test_a_list_in_place_of_a_video_reads_no_other_file(tmp_path, text, suffix):
    write_video(tmp_path / "secret.mp4", [np.zeros((32, 32, 3), np.uint8)] * 3, 10)
    (tmp_path / f"list.{suffix}").write_text(text)
    for read in (read_video, probe):
        with pytest.raises(ValueError, match="cannot read"):
            read(tmp_path / f"list.{suffix}")


def test_an_animated_webp_is_no_damaged_video(tmp_path: Path) -> None:
    path = tmp_path / "wave.webp"
    frames = [Image.fromarray(gradient(i)) for i in range(3)]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=40)
    with pytest.raises(ValueError, match=r"wave\.webp is an animated WebP, .*convert it to MP4"):
        read_video(path)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(ValueError, match=r"pipe\.mp4 is not a regular file"):
        read_video(tmp_path / "pipe.mp4")

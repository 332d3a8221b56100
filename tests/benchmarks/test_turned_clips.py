"""The script that repeats the scores of the model card."""

import hashlib
from pathlib import Path

import pytest
import turned_clips


def test_files_that_are_not_the_listed_clips_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = b"a clip"
    (tmp_path / "clip.mp4").write_bytes(content)
    listed = tmp_path / "clips.csv"
    listed.write_text(f"path,sha256\nclip.mp4,{hashlib.sha256(content).hexdigest()}\n")
    monkeypatch.setattr(turned_clips, "CLIPS", listed)
    assert turned_clips.checked_clips(tmp_path) == [tmp_path / "clip.mp4"]
    (tmp_path / "clip.mp4").write_bytes(b"another")
    with pytest.raises(ValueError, match=r"clip\.mp4 is not the clip that was scored"):
        turned_clips.checked_clips(tmp_path)


def test_the_table_has_a_column_per_system() -> None:
    names = [*turned_clips.SHOWN, *turned_clips.OTHERS.values()]
    metrics = {
        task: {name: {"mean": 0.25} for name in names} for task in (*turned_clips.TASKS, *turned_clips.OTHERS)
    }
    table = turned_clips.scores_of(
        {"open-1": {"metrics": metrics}, "spline": {"metrics": metrics}}
    ).as_markdown()
    assert "| 10 to 20 degrees | 0.25 / 0.250 / 0.250 | 0.25 / 0.250 / 0.250 |" in table
    assert "| open mouth, lpips_alex/mouth | 0.250 | 0.250 |" in table

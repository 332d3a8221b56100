"""External names are escaped when shown and used."""

from __future__ import annotations

import csv
import io
import logging
import subprocess
import sys
import warnings

import pytest

from rome_lightning.media.escaping import (
    csv_cell,
    file_name,
    make_messages_printable,
    markdown_cell,
    printable,
)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[31mb", r"a\x1b[31mb"),
        ("one\ntwo\r", r"one\ntwo\r"),
        ("\x9b2J", r"\x9b2J"),
        ("abc\u202egpj.exe", r"abc\u202egpj.exe"),
        ("zero\u200bwidth\u2028line", r"zero\u200bwidth\u2028line"),
        ("\ud800", r"\ud800"),
        ("Jürgen 王 é", "Jürgen 王 é"),
    ],
)
def test_a_terminal_shows_every_character(text, shown):
    assert printable(text) == shown


@pytest.mark.parametrize(
    "text", ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "  =1", "\r=1", "＝1", "\n=1"]
)
def test_no_cell_is_a_formula(text):
    file = io.StringIO()
    csv.writer(file).writerow([csv_cell(text)])
    assert next(csv.reader(io.StringIO(file.getvalue())))[0].lstrip()[0] == "'"


@pytest.mark.parametrize("value", ["-1.5", "+3", "1e-4", "-inf", "name", "a=b", "", -2.5, None])
def test_numbers_and_names_stay(value):
    assert csv_cell(value) == value


def test_markdown_shows_what_is_there():
    assert markdown_cell("a|b") == r"a\|b"
    assert markdown_cell("<script>alert(1)</script>") == "&lt;script&gt;alert(1)&lt;/script&gt;"
    assert markdown_cell("one\n| two") == r"one \| two"
    assert markdown_cell("[click](javascript:x)") == r"[click\](javascript:x)"
    assert not markdown_cell("![x](http://a/b.png)").startswith("![")
    assert markdown_cell("`rm`") == r"\`rm\`"
    for plain in ("val/lpips_vgg", "[+0.100, -0.200]", "no_hair (5)", "12/34/56"):
        assert markdown_cell(plain) == plain


@pytest.mark.parametrize(
    "name", ["../../x", "/etc/passwd", "..", ".", "", "a/b\\c", ".hidden", "-rf", "x" * 400, "nul\0", "C:\\x"]
)
def test_names_of_files_stay_in_their_folder(name, tmp_path):
    made = file_name(name)
    assert made
    assert len(made) <= 100
    path = (tmp_path / made).resolve()
    assert path.parent == tmp_path
    path.write_text("")


def test_warnings_and_logs_are_shown_as_they_are(monkeypatch):
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    monkeypatch.setattr(logging.lastResort, "formatter", None)
    make_messages_printable()
    text = warnings.formatwarning("a\x1b]0;title\x07 file", UserWarning, "x.py", 1)
    assert "\x1b" not in text
    assert r"a\x1b]0;title" in text
    record = logging.LogRecord("x", logging.WARNING, "x.py", 1, "a\x1b[2J", (), None)
    assert logging.lastResort.format(record) == r"a\x1b[2J"


def test_an_error_that_names_a_file_moves_no_cursor(tmp_path):
    bad = tmp_path / "a\x1b[2Jb\nc.mp4"
    code = "from rome_lightning.cli.main import main; import sys; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "shards", "verify", str(bad)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert "\x1b" not in ended.stderr
    assert len(ended.stderr.splitlines()) == 1

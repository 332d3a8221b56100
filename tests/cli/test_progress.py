"""Progress is shown in terminals only, not in log files."""

import pytest

from rome_lightning.cli.progress import counted, shown


def _work():
    with shown("thinking"):
        pass
    return list(counted("abc", "spelling", 3))


def test_a_log_stays_empty(capsys, monkeypatch):
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    assert _work() == ["a", "b", "c"]
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("part", ["thinking", "spelling", "3/3", "left:"])
def test_a_terminal_shows_what_is_running_and_how_long(capsys, monkeypatch, part):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("COLUMNS", "120")
    _work()
    out, err = capsys.readouterr()
    assert out == ""
    assert part in err

"""The benchmark table, and its rule for regressions."""

import json
from dataclasses import asdict
from pathlib import Path

import figures
import pytest
import run
from figures import Figure


def item(ours: float, peer: float, name: str = "pass") -> Figure:
    return Figure(name, "1 thread", ours, {"peer": peer}, {"peer": 2.0}, {"absent": "not installed"})


def test_the_table_says_which_goals_are_met():
    text = figures.table([item(1.0, 2.5), item(1.0, 1.5, "slow")], {("pass", "1 thread"): 0.5})
    met, absent, missed, _ = text.splitlines()[2:]
    assert "| 1 (+100%) | peer | 2.5 | 2.5 | met: 2 |" in met
    assert "absent | - | - | not installed" in absent
    assert "MISSED: 2" in missed
    assert len({line.count("|") for line in text.splitlines()}) == 1


def test_a_lost_lead_is_named_and_a_slower_machine_is_not():
    before = {("pass", "1 thread"): item(1.0, 3.0)}
    assert run.regressions([item(2.0, 6.0)], before) == []
    (line,) = run.regressions([item(2.0, 4.0)], before)
    assert "3 to 2 times peer" in line
    assert run.regressions([item(2.0, 4.0, "new")], before) == []


def test_only_the_same_kind_of_machine_is_compared(tmp_path):
    for number, (processor, ours) in enumerate((("A", 1.0), ("A", 2.0), ("B", 3.0))):
        record = {"device": "cpu", "machine": {"processor": processor}, "figures": [asdict(item(ours, 9.0))]}
        (tmp_path / f"{number}.json").write_text(json.dumps(record))
    found = run.earlier(tmp_path, "cpu", {"processor": "A"})
    assert found["pass", "1 thread"].ours == 2.0
    assert run.earlier(tmp_path, "cpu", {"processor": "C"}) == {}


def test_functions_run_in_turns():
    calls = []
    functions = {name: lambda name=name: calls.append(name) for name in "ab"}
    times = figures.median_ms(functions, most=3)
    assert "".join(calls) == "ab" + "ab" * 3
    assert times.keys() == functions.keys()


@pytest.mark.parametrize(
    "path", sorted(Path(run.__file__).with_name("history").glob("*.json")), ids=lambda path: path.stem
)
def test_kept_records_can_be_read(path):
    record = json.loads(path.read_text())
    assert record["commit"]
    assert record["machine"]["versions"]["torch"]
    assert all(Figure(**row).ours > 0 for row in record["figures"])

from pathlib import Path

import pytest
import yaml
from tiny_protocol import PROTOCOLS

from rome_lightning.cli.main import main
from rome_lightning.evaluation.metric_table import spec_of
from rome_lightning.evaluation.pairs import format_pairs, pairs_of, read_pairs
from rome_lightning.evaluation.protocol import load_protocol
from rome_lightning.types.clip import ClipInfo

NAMES = {
    "demo", "rome_eccv22", "vfhq_self_cross", "fomm_vox256", "geometry_h3ds", "geometry_synthetic", "turned",
    "nersemble_svfr", "open_faces",
}  # fmt: skip
CLIPS = [
    ClipInfo("a-0", "anna", (0, 5, 10, 15), 10),
    ClipInfo("a-1", "anna", (100, 105), 100),
    ClipInfo("b-0", "bob", (0, 4, 8), 4),
]


def changed(tmp_path: Path, **values: object) -> Path:
    content = yaml.safe_load((PROTOCOLS / "demo.yaml").read_text()) | values
    path = tmp_path / "changed.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.mark.parametrize("path", sorted(PROTOCOLS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_protocol_is_complete(path: Path) -> None:
    protocol = load_protocol(path)
    assert protocol.name == path.stem
    assert path.read_text().startswith("# ")
    wanted: set[str] = set()
    for name, task in protocol.tasks.items():
        kind = "geometry" if protocol.mesh else "cross" if name.startswith("cross") else "self"
        for metric in task.metrics:
            spec = spec_of(metric)
            assert kind in spec.tasks, f"{metric} is not defined for {name}"
            wanted |= set(spec.networks)
        assert task.examples_by is None or task.examples_by in task.metrics
    assert set(protocol.networks) == wanted, "networks must list exactly what the metrics use"


def test_all_announced_protocols_are_there() -> None:
    assert {path.stem for path in PROTOCOLS.glob("*.yaml")} == NAMES


def test_hash_names_the_content(tmp_path: Path) -> None:
    demo = load_protocol(PROTOCOLS / "demo.yaml")
    same = load_protocol(changed(tmp_path))
    assert same.hash == demo.hash
    assert load_protocol(changed(tmp_path, background="black")).hash != demo.hash
    assert load_protocol(changed(tmp_path, version=2)).hash != demo.hash


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"format": "rome-protocol/2"}, "this version reads 'rome-protocol/1'"),
        ({"backgrund": "white"}, "backgrund"),
        ({"resolution": "large"}, "resolution"),
        ({"networks": {"sface": "0" * 64}}, "network sface has sha256 000000000000"),
        ({"networks": {"mystery": "0" * 64}}, "unknown network 'mystery'"),
        ({"aggregation": ["frame"]}, "aggregation must be"),
        ({"tasks": {"self": {"metrics": ["psnr"]}}}, "'psnr' must be one of psnr/full"),
        ({"tasks": {"self": {"metrics": ["beauty"]}}}, "unknown metric 'beauty'"),
        ({"tasks": {"cross": {"metrics": ["psnr/full"]}}}, "not defined for"),
    ],
)
def test_wrong_protocols_are_refused(tmp_path: Path, values: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_protocol(changed(tmp_path, **values))


def test_absent_protocol_names_those_that_are_there() -> None:
    with pytest.raises(FileNotFoundError, match=r"there are demo, fomm_vox256"):
        load_protocol(PROTOCOLS / "nothing.yaml")


@pytest.mark.parametrize("name", sorted(NAMES - {"geometry_synthetic"}))
def test_absent_data_say_where_they_are(name: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = PROTOCOLS / f"{name}.yaml"
    arguments = ["evaluate", "--protocol", str(path), "--baseline", "source", "--output", str(tmp_path)]
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert load_protocol(path).dataset.page.split()[0] in error
    assert "--data" in error


def test_rules_choose_the_pairs(tmp_path: Path) -> None:
    protocol = load_protocol(PROTOCOLS / "demo.yaml")
    pairs = pairs_of(protocol, tmp_path, CLIPS)
    own = [(p.clip, p.source, p.frame) for p in pairs if p.task == "self"]
    assert own == [
        ("a-0", 10, 0), ("a-0", 10, 5), ("a-0", 10, 15), ("a-1", 100, 105), ("b-0", 4, 0), ("b-0", 4, 8),
    ]  # fmt: skip
    # The last person drives the first, each with the first clip.
    cross = [
        (p.identity, p.clip, p.driver_identity, p.driver_clip, p.frame) for p in pairs if p.task == "cross"
    ]
    assert cross[0] == ("anna", "a-0", "bob", "b-0", 0)
    assert cross[-1] == ("bob", "b-0", "anna", "a-0", 15)
    assert {p.frame for p in pairs if p.task == "temporal" and p.clip == "b-0"} == {0, 4, 8}


def test_pair_lists_survive_the_round_trip_and_hold_ids_only(tmp_path: Path) -> None:
    pairs = pairs_of(load_protocol(PROTOCOLS / "demo.yaml"), tmp_path, CLIPS)
    text = format_pairs(pairs)
    path = tmp_path / "pairs.txt"
    path.write_text(text)
    assert read_pairs(path, CLIPS) == pairs
    assert text.splitlines()[2] == "self\ta-0\t10\ta-0\t0"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("self\tz-9\t0\tz-9\t5", "names 1 clips or frames that the dataset does not have: z-9"),
        ("self\ta-0\t0\ta-0\t7", "a-0 frame 7"),
        ("self\ta-0\t0\ta-0", "line 3: expected task clip source"),
        ("self\ta-0\tx\ta-0\t5", "line 3"),
    ],
)
def test_pair_lists_that_do_not_fit_are_refused(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "pairs.txt"
    path.write_text(f"# rome-pairs/1\n# head\n{line}\n")
    with pytest.raises(ValueError, match=message):
        read_pairs(path, CLIPS)
    path.write_text("pairs\n")
    with pytest.raises(ValueError, match="is not a pair list"):
        read_pairs(path, CLIPS)


def test_one_person_cannot_be_driven_by_another(tmp_path: Path) -> None:
    pairs = pairs_of(load_protocol(PROTOCOLS / "demo.yaml"), tmp_path, CLIPS[:2])
    assert {pair.task for pair in pairs} == {"self", "temporal"}

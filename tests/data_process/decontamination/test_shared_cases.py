"""The reproductions of reported faults in `../shared/cases` beside the repository; each skips by name where absent."""

from pathlib import Path

import pytest

from data_process.decontamination.guard import main as leakage_main
from data_process.prepare.command import main as prepare_main

CASES = Path(__file__).parents[3].parent / "shared" / "cases"


def case(name: str) -> Path:
    """The folder of a kind of fault."""
    folder = CASES / name
    if not folder.is_dir():
        pytest.skip(f"needs the shared cases: ../shared/cases/{name} is absent")
    return folder


PAIRS = sorted(f.name for f in (CASES / "leakage_false_alarms").glob("*")) or ["absent"]


@pytest.mark.parametrize("pair", PAIRS)
def test_leakage_false_alarms(pair):
    folder = str(case("leakage_false_alarms") / pair)
    assert leakage_main(["--train", folder, "--test", folder]) == 0


@pytest.mark.parametrize("more", [[], ["--train-source", "GeoQA"]])
def test_source_overlap(more, tmp_path, capsys):
    raw, vista, geoqa = case("source_overlap"), tmp_path / "MV", tmp_path / "GEO"
    table = ["--raw", str(raw / "mathvista/testmini.json"), "--images", str(raw / "mathvista/images")]
    assert prepare_main(["mathvista", *table, "--split", "testmini=test", "--out", str(vista)]) == 0
    assert prepare_main(["geoqa", "--raw", str(raw / "geoqa"), "--borrow", f"test={vista}", "--out", str(geoqa)]) == 0
    capsys.readouterr()
    assert leakage_main(["--train", str(geoqa), "--test", str(geoqa), *more]) == 1
    leaks = [line for line in capsys.readouterr().out.splitlines() if line.startswith("LEAK source")]
    assert [line.partition("; ")[2] for line in leaks] == [
        "3 problems of test are from GeoQA+", "3 problems of test are from UniGeo",
    ]  # fmt: skip

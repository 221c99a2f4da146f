"""The table of README is what examples/results has measured, and a package that is missing does not hide it."""

import importlib
import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parent.parent
FOLDER = ROOT / "examples/results"
SCRIPTS = sorted(path.stem for path in FOLDER.glob("*.py") if "recorded.finish(" in path.read_text())


@pytest.fixture
def recorded(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module("recorded")


def test_the_readme_has_the_table_that_was_measured(recorded):
    assert recorded.as_markdown() in (ROOT / "README.md").read_text()


def test_every_script_has_measured_three_seeds(recorded):
    known = recorded.load()
    assert sorted(known) == SCRIPTS
    for result in known.values():
        assert all(len(each.alone) == len(each.distilled) == 3 for each in result.measures)
        assert result.date and result.packages and 0 < result.minutes <= 30  # of one core: 15 minutes on two


def test_the_share_of_a_lead_has_the_direction_of_its_measure(recorded):
    assert recorded.Measure("accuracy", 90.0, [70.0, 74.0], [81.0, 81.0]).share() == "50 %"  # 9 of 18 points
    assert recorded.Measure("Brier", 0.1, [0.3], [0.25], less_is_better=True).share() == "25 %"
    assert recorded.Measure("accuracy", 90.0, [70.0], [65.0]).share() == "-25 %"
    assert recorded.Measure("accuracy", 90.0, [70.0], [91.0]).share() == "> 100 %"
    assert recorded.Measure("accuracy", 90.0, [92.0], [95.0]).share() == "no lead"
    assert recorded.Measure("Brier", 0.3, [0.1], [0.2], less_is_better=True).share() == "no lead"
    assert recorded.Measure("accuracy", 90.0, [90.0], [90.0]).share() == "no lead"


def test_a_measure_of_runs_is_a_share_in_percent(recorded):
    truth, teacher = np.array([0, 1, 2, 3]), np.array([0, 1, 2, 0])
    students = {"alone": [np.array([0, 0, 0, 0])], "distilled": [np.array([0, 1, 0, 0]), truth]}
    found = recorded.of_runs("accuracy, %", teacher, students, truth)
    assert (found.teacher, found.alone, found.distilled) == (75.0, [25.0], [50.0, 100.0])
    assert found.cells() == ["accuracy, %", "75.0", "25.0", "75.0 ± 35.4", "100 %"]


def test_a_result_is_recorded_and_read_again(recorded, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(recorded, "FILE", tmp_path / "measured.json")
    measure = recorded.Measure("accuracy, %", 90.0, [70.0], [80.0])
    result = recorded.Result("a task", "a teacher", "a student", [measure], 2000, 1000, 50.0, 2.0)
    options = recorded.parser("").parse_args(["--record"])
    for name in ("one", "another"):
        recorded.finish(name, result, options, ["numpy"])
        assert recorded.load()[name] == result
    assert list(recorded.load()) == ["another", "one"]
    assert result.packages == {"numpy": np.__version__} and result.command == "python examples/results/another.py"
    assert "| 90.0 | 70.0 | 80.0 | 50 % | 2 kB, 1 kB | 50 µs, 2 µs |" in recorded.as_markdown()


@pytest.mark.parametrize("argument", ["--smoke", "--validation"])
def test_a_part_of_a_run_is_not_recorded(recorded, monkeypatch, tmp_path, argument):
    monkeypatch.setattr(recorded, "FILE", tmp_path / "measured.json")
    result = recorded.Result("a task", "a teacher", "a student", [], 2000, 1000, 50.0, 2.0)
    with pytest.raises(SystemExit, match="Expected --record of a whole run on test data"):
        recorded.finish("one", result, recorded.parser("").parse_args(["--record", argument]), [])
    assert not recorded.FILE.exists()


def test_a_missing_package_is_named_beside_what_was_measured(recorded, capsys):
    name = SCRIPTS[0]
    recorded.require(name, {"json": "json"})
    with pytest.raises(SystemExit) as ended:
        recorded.require(name, {"json": "json", "no_such_module": "some-package", "nor_this": "--no-deps another"})
    first, *others = capsys.readouterr().out.splitlines()
    assert ended.value.code == 0
    assert first == "This needs some-package and another: pip install some-package && pip install --no-deps another"
    assert recorded.load()[name].date in others[1] and recorded.load()[name].task in others[3]


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_without_its_packages_prints_its_row(name):
    code = (
        "import importlib.util, runpy, sys\n"
        "find = importlib.util.find_spec\n"
        "known = set(sys.stdlib_module_names) | {'numpy', 'quiet', 'recorded'}\n"
        "importlib.util.find_spec = lambda name, *more: find(name, *more) if name in known else None\n"
        f"sys.argv = ['{name}.py']\n"
        f"sys.path.insert(0, {str(FOLDER)!r})\n"
        f"runpy.run_path({str(FOLDER / name)!r} + '.py', run_name='__main__')\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    date = json.loads((FOLDER / "measured.json").read_text())[name]["date"]
    assert "pip install" in ended.stdout and f"Measured on {date} by" in ended.stdout

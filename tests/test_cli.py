"""Verbs, exit codes and one clear message for each kind of bad input: no traceback, nothing written."""

import inspect
import json
import shutil

import pytest

from osteobayes import cli
from osteobayes.cli import app, guarded
from osteobayes.fit.run import Settings
from osteobayes.paths import shipped


def run(capfd, *args: str) -> tuple[int, str, str]:
    code = guarded(lambda: app(list(args)))
    out, err = capfd.readouterr()
    return code, out, " ".join(err.split())


def test_calibrate_has_the_defaults_of_the_settings():
    options = inspect.signature(cli.calibrate).parameters
    assert {n: options[n].default for n in ("chains", "draws", "tune", "seed")} == {
        n: getattr(Settings, n) for n in ("chains", "draws", "tune", "seed")
    }


@pytest.fixture
def data(tmp_path):
    """A copy of one shipped study, to be spoilt."""
    folder = tmp_path / "datasets"
    shutil.copytree(shipped("datasets") / "stopeck2010_136", folder / "stopeck2010_136")
    return folder


def spoil(folder, file: str, old: str, new: str) -> None:
    path = folder / "stopeck2010_136" / file
    text = path.read_text()
    assert old in text, f"the fixture changed: {old!r} is not in {file}"
    path.write_text(text.replace(old, new, 1))


CASES = {
    "misspelt column": ("outcomes.csv", ",estimator,", ",estimater,", "estimat"),
    "events above n": ("outcomes.csv", "315,1026", "1315,1026", "events"),
    "unknown agent": ("study.yaml", "denosumab 120 mg q4w", "denosumabb 120 mg q4w", "denosumab"),
    "negative interval": ("study.yaml", "denosumab 120 mg q4w", "denosumab 120 mg q-4w", "interval"),
    "missing dose unit": ("study.yaml", "denosumab 120 mg q4w", "denosumab 120 q4w", "unit"),
    "interval excludes value": ("outcomes.csv", "0.82,ratio,0.71,0.95", "0.82,ratio,0.85,0.95", "low"),
    "missing unit": ("outcomes.csv", "30.7,percent", "30.7,", "unit"),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_one_clear_message(case, data, tmp_path, capfd):
    file, old, new, word = CASES[case]
    spoil(data, file, old, new)
    out = tmp_path / "run"
    code, _, err = run(capfd, "calibrate", "--data", str(data), "--out", str(out))
    assert code == 2
    assert "Traceback" not in err
    assert file in err and word in err
    assert not out.exists()
    assert run(capfd, "validate", str(data))[0] == 2


def test_shipped_data_validate(capfd):
    code, out, _ = run(capfd, "validate")
    assert code == 0 and "16 studies" in out


def test_validate_as_json(capfd):
    code, out, _ = run(capfd, "validate", "--json")
    assert code == 0 and json.loads(out)["problems"] == []


def test_doctor(capfd):
    code, out, _ = run(capfd, "doctor", "--json")
    found = json.loads(out)
    assert code == 0 and found["float64"] is True and found["versions"]["jax"]


def test_a_folder_that_is_no_run(capfd, tmp_path):
    code, _, err = run(capfd, "resume", str(tmp_path))
    assert code == 1 and "manifest.json" in err and "Traceback" not in err


def test_a_bad_overlay_names_file_and_parameter(capfd, tmp_path):
    overlay = tmp_path / "mine.yaml"
    overlay.write_text("format: 1\nparameters:\n  - {name: frailtyy, sd: 1}\n")
    code, _, err = run(capfd, "calibrate", "--overlay", str(overlay), "--out", str(tmp_path / "run"))
    assert code == 2 and "mine.yaml:3" in err and "frailty" in err
    assert not (tmp_path / "run").exists()

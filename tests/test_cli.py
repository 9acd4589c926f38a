"""Verbs, exit codes and one clear message for each kind of bad input: no traceback, nothing written."""

import inspect
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

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
    code, _, err = run(capfd, "calibrate", "--only-data", str(data), "--out", str(out))
    assert code == 2
    assert "Traceback" not in err
    assert file in err and word in err
    assert not out.exists()
    assert run(capfd, "validate", str(data))[0] == 2


def test_shipped_data_validate(capfd):
    code, out, _ = run(capfd, "validate")
    assert code == 0 and out.startswith("no problem in 148 studies with")
    assert "crude: " in out and "the model cannot use" in out and "same_patients: " in out


def test_validate_of_a_small_folder_lists_every_row(capfd, data):
    code, out, _ = run(capfd, "validate", str(data))
    rows = (data / "stopeck2010_136" / "outcomes.csv").read_text().count("\n") - 1
    assert code == 0 and sum(line.startswith("stopeck2010_136/outcomes.csv:") for line in out.splitlines()) == rows
    assert "stopeck2010_136/crude_za: fit, crude" in out


def test_validate_as_json(capfd):
    code, out, _ = run(capfd, "validate", "--json")
    found = json.loads(out)
    assert code == 0 and found["problems"] == []
    by_id = {row["outcome_id"]: row for row in found["rows"]}
    assert by_id["vision/os_hr"]["unusable"] == "" and by_id["vision/os_hr"]["use"] == "fit"
    assert by_id["prevail/os_6_placebo"]["family"] == "landmark" and by_id["prevail/os_6_placebo"]["block"] == "OS"
    assert by_id["latitude/pain_progression_hr"]["unusable"].startswith("no likelihood of hazard_ratio of pain")


def test_validate_says_how_much_the_numbers_of_the_same_patients_would_claim(capfd, data):
    code, out, _ = run(capfd, "validate", str(data))
    assert code == 0 and "nominal over actual SD" in out
    assert "level 1): 1 sets, 0 of them would overstate" in out and "stopeck2010_136 SRE: 0.48" in out


def test_show_prints_a_network(capfd, tmp_path, data):
    code, out, _ = run(capfd, "show", "--cancer", "lung", "--therapy", "pd1_inhibitor", "--years", "2019", "2023")
    assert code == 0 and "cho2023" in out and "landi2019" in out and "stopeck" not in out
    code, out, _ = run(capfd, "show", "--only-data", str(data), "--json")
    found = json.loads(out)
    assert [study["study"] for study in found["studies"]] == ["stopeck2010_136"] and found["network"]["connected"]
    code, _, err = run(capfd, "show", "--html", str(tmp_path / "network.html"), "--without", "zice2014")
    page = (tmp_path / "network.html").read_text()
    assert code == 0 and "stopeck2010_136" in page and "zice2014" not in page
    code, _, err = run(capfd, "show", "--without", "zice")
    assert code == 1 and "did you mean 'zice2014'?" in err


def test_an_added_study_whose_id_is_taken_is_refused(capfd, data, tmp_path):
    for command in (["show"], ["calibrate", "--out", str(tmp_path / "run")]):
        code, _, err = run(capfd, *command, "--data", str(data))
        assert code == 2 and "a study 'stopeck2010_136' is already in" in err and "rename yours" in err


def test_a_new_study_is_a_template(capfd, tmp_path):
    code, _, _ = run(capfd, "new-study", "mine", "--out", str(tmp_path / "data"))
    assert code == 0 and (tmp_path / "data" / "mine" / "study.yaml").is_file()
    assert run(capfd, "validate", str(tmp_path / "data"))[0] == 2  # until it is filled
    assert run(capfd, "new-study", "mine", "--out", str(tmp_path / "data"))[0] == 2


def test_the_worked_example_of_the_readme_validates(capfd, tmp_path):
    """The study that datasets/README.md works through, filled in as it says."""
    text = (shipped("datasets") / "README.md").read_text()
    rows = [line.strip() for line in text.splitlines() if line.startswith(("    outcome_id,", "    my_trial/"))]
    assert len(rows) == 4
    assert run(capfd, "new-study", "my_trial", "--out", str(tmp_path))[0] == 0
    place = tmp_path / "my_trial"
    (place / "outcomes.csv").write_text("\n".join(rows) + "\n")
    yaml = (
        (place / "study.yaml")
        .read_text()
        .replace("id: control, label: FILL as printed, n: 100", "id: control, label: placebo, n: 101")
    )
    (place / "study.yaml").write_text(
        yaml.replace("law: staggered", "law: fixed").replace("horizon_months: null", "horizon_months: 12")
    )
    code, out, err = run(capfd, "validate", str(tmp_path))
    assert (code, err) == (0, "")
    assert "my_trial/crude_za: fit, crude" in out and "my_trial/hr: check (same_patients)" in out


def test_doctor(capfd):
    code, out, _ = run(capfd, "doctor", "--json")
    found = json.loads(out)
    assert code == 0 and found["float64"] is True and found["versions"]["jax"]
    assert found["float64_gflops"] > 0.1 and "chains side by side" in found["use"]


def test_a_folder_that_is_no_run(capfd, tmp_path):
    code, _, err = run(capfd, "resume", str(tmp_path))
    assert code == 1 and "manifest.json" in err and "Traceback" not in err


def test_a_bad_overlay_names_file_and_parameter(capfd, tmp_path):
    overlay = tmp_path / "mine.yaml"
    overlay.write_text("format: 1\nparameters:\n  - {name: frailtyy, sd: 1}\n")
    code, _, err = run(capfd, "calibrate", "--overlay", str(overlay), "--out", str(tmp_path / "run"))
    assert code == 2 and "mine.yaml:3" in err and "frailty" in err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("divergences", "mend"),
    [
        (4, "More draws may mend it: osteobayes resume runs/a --draws 2000"),
        (5, "Shorter steps may mend it: fit again with a --target above 0.9"),
    ],
)
def test_what_may_mend_an_unusable_run(divergences, mend):
    settings = SimpleNamespace(chains=4, sampling=1000, target=0.9)
    run = SimpleNamespace(settings=settings, path=Path("runs/a"), diagnostics={"divergences": divergences})
    assert cli._mend(run) == mend

"""A batch of many tiny fits, one in twenty poisoned: results, sentences, memory after each job, seconds a job.

uv run python benchmarks/many_jobs.py [--json] [--jobs 200] [--out FOLDER]

Two studies, four cells, three priors, two weights, many seeds; the poisoned jobs have priors or data that no fit can use. Tiny fits are too
short for their draws to be used, which their sentences say; that is no failure.
"""

import argparse
import json
import os
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil

from osteobayes.batch import Job, run_batch
from osteobayes.paths import shipped
from osteobayes.precision import enable_compile_cache
from osteobayes.report import batch_page

TINY = dict(
    chains=2,
    draws=30,
    tune=20,
    block=5,
    prior_draws=10,
    starts=1,
    search_iterations=20,
    grid=(28.0, 40, 1),
    processes=1,
)
STUDIES = ("lipton2000", "stopeck2010_136")
PRIORS = {
    "an unknown name": "  - {name: no_such_parameter, median: 1.0, status: expert, rationale: poison, sources: []}\n",
    "a negative scale": "  - {name: sre_between_sd, sd: -1.0, status: expert, rationale: poison, sources: []}\n",
    "far from any data": "  - {name: sre_baseline, mean: 500.0, sd: 0.01, status: expert, rationale: poison, sources: []}\n",
    "half a file": "  - {name: sre_baseline, mean: [\n",
    "code": "  - !!python/object/apply:os.system ['true']\n",
}
DATA = {
    "more events than patients": (
        "lipton2000/outcomes.csv",
        ",64,percent,,,,crude,246,384",
        ",64,percent,,,,crude,446,384",
    ),
    "text for a number": ("lipton2000/outcomes.csv", ",24,month,64,percent", ",24,month,many,percent"),
    "an arm that is not there": (
        "lipton2000/outcomes.csv",
        "crude_24_placebo,placebo,",
        "crude_24_placebo,no_such_arm,",
    ),
    "an unknown endpoint": ("lipton2000/outcomes.csv", "placebo,,SRE_HCM,", "placebo,,HEADACHE,"),
    "a study without its file": ("lipton2000/study.yaml", None, None),
}


def good(folder: Path, count: int) -> list[Job]:
    """Jobs that differ in seed, weights and a prior."""
    shift = folder / "shift.yaml"
    shift.write_text(
        "format: 1\nparameters:\n  - {name: sre_baseline, mean: -0.2, status: expert, rationale: a test, sources: []}\n"
    )
    wide = folder / "wide.yaml"
    wide.write_text(
        "format: 1\nparameters:\n  - {name: sre_baseline, sd: 1.0, status: expert, rationale: a test, sources: []}\n"
    )
    each = [(o, w) for o in (None, shift, wide) for w in ((), (("lipton2000", 0.5),))]
    return [
        Job(seed=i // len(each), overlay=o, settings=TINY | {"weights": w}, data=folder / "datasets", name=f"good {i}")
        for i, (o, w) in ((i, each[i % len(each)]) for i in range(count))
    ]


def poisoned(folder: Path, count: int) -> list[Job]:
    """Jobs that cannot be fitted."""
    jobs = []
    for i in range(count):
        kinds = [*PRIORS, *DATA]
        kind, seed = kinds[i % len(kinds)], i // len(kinds)
        if kind in PRIORS:
            file = folder / f"{kind}.yaml"
            file.write_text(f"format: 1\nparameters:\n{PRIORS[kind]}")
            jobs.append(Job(seed=seed, overlay=file, settings=TINY, data=folder / "datasets", name=kind))
            continue
        data = folder / kind
        if not data.exists():
            shutil.copytree(folder / "datasets", data)
            name, old, new = DATA[kind]
            if old is None:
                (data / name).unlink()
            else:
                text = (data / name).read_text()
                assert old in text, f"{kind}: the shipped study was changed"
                (data / name).write_text(text.replace(old, new))
        jobs.append(Job(seed=seed, settings=TINY, data=data, name=kind))
    return jobs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    enable_compile_cache()
    folder = Path(tempfile.mkdtemp())
    for study in STUDIES:
        shutil.copytree(shipped("datasets") / study, folder / "datasets" / study)
    bad = poisoned(folder, chosen.jobs // 20)
    jobs = good(folder, chosen.jobs - len(bad))
    for i, job in enumerate(bad):  # evenly among the others
        jobs.insert(20 * i + 10, job)
    assert len({job.id for job in jobs}) == chosen.jobs
    process, memory, begun = psutil.Process(os.getpid()), [], time.perf_counter()

    def page(where: Path, table) -> None:
        memory.append(process.memory_info().rss / 2**30)
        if not chosen.json and len(memory) % 10 == 1:
            print(f"{len(memory) - 1} jobs, {time.perf_counter() - begun:.0f} s, {memory[-1]:.2f} GiB", flush=True)

    out = chosen.out or folder / "batch"
    table = run_batch(jobs, out, page=page)
    seconds = time.perf_counter() - begun
    batch_page(out, table)
    files = [sum(p.is_file() for p in (out / i).rglob("*")) for i in table.loc[table["status"] == "finished", "id"]]
    quarter = len(memory) // 4
    found = {
        "jobs": chosen.jobs, "finished": int((table["status"] == "finished").sum()), "failed": int((table["status"] == "failed").sum()),
        "seconds": seconds, "most_files_a_run": max(files),
        "memory_gib": {"after 10": memory[10], "median of the second quarter": float(np.median(memory[quarter : 2 * quarter])),
                       "median of the last quarter": float(np.median(memory[-quarter:])), "most": max(memory)},
        "sentences": dict(table.loc[table["status"] == "failed", ["name", "sentence"]].to_numpy().tolist()),
    }  # fmt: skip
    if chosen.json:
        print(json.dumps(found))
        return
    print(json.dumps({k: v for k, v in found.items() if k != "sentences"}, indent=1))
    for name, sentence in found["sentences"].items():
        print(f"{name}: {sentence}")


if __name__ == "__main__":
    main()

"""Make the digitiser-like points and risk tables of this folder: `python make_points.py reconstructed_ipd.csv`.

The input is an export of raredd/kmdata with the columns dataset, arm, time_months, event. Written beside this file:
`<figure>/<endpoint>.<arm>.csv` and `<figure>/<endpoint>.<arm>.risk.csv`.
"""

import csv
import sys
import zlib
from pathlib import Path

import numpy as np

from osteobayes.survival import kaplan_meier

SEED = 20261126
CLICKS = 120  # readings an arm
NOISE = 0.125  # of one reading, in percent of survival: SD of a normal law; 0.25, two SDs, is a pixel of a small figure

FIGURES = {  # folder: figure of kmdata, endpoint, months between printed numbers at risk, months that a pixel stands for
    "comet1_os": ("COMET1_2A", "OS", 3, 0.05),
    "comet1_pfs": ("COMET1_2B", "PFS", 3, 0.05),
    "prevail_pfs": ("PREVAIL_1A", "PFS", 3, 0.05),
    "prevail_os": ("PREVAIL_1B", "OS", 3, 0.05),
    "couaa302_os": ("COUAA202_2", "OS", 3, 0.1),
    "bolero2_os": ("BOLERO2_1", "OS", 3, 0.1),
    "azure_dfs": ("AZURE_2A", "DFS", 12, 0.1),
    "azure_os": ("AZURE_4", "OS", 12, 0.1),
}


def clicks(time, survival, end):
    """Places along the drawn steps at equal distances on the page (a square frame), and the end of the curve."""
    corners_t = np.append(np.repeat(time, 2)[1:], end)
    corners_s = np.repeat(survival, 2)
    length = np.append(0.0, np.cumsum(np.hypot(np.diff(corners_t) / end, np.diff(corners_s))))
    at = np.linspace(0.0, length[-1], CLICKS)
    return np.interp(at, length, corners_t), np.interp(at, length, corners_s)


def read(time, survival, pixel, rng):
    """What the digitiser notes down: time to a pixel, percent to a tenth with an error of reading."""
    noise = rng.normal(0.0, NOISE, time.size)
    noise[0] = 0.0
    t = np.round(np.round(time / pixel) * pixel, 2)
    s = np.clip(np.round(100 * survival + noise, 1), 0.0, 100.0)
    order = np.argsort(t, kind="stable")
    return t[order], s[order]


def write(path, header, *columns):
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(zip(*columns, strict=True))


def main(source):
    with open(source, newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    for folder, (figure, endpoint, every, pixel) in FIGURES.items():
        place = Path(__file__).parent / folder
        place.mkdir(exist_ok=True)
        for arm in sorted({row["arm"] for row in rows if row["dataset"] == figure}):
            mine = [row for row in rows if row["dataset"] == figure and row["arm"] == arm]
            time = np.array([float(row["time_months"]) for row in mine])
            km = kaplan_meier(time, [int(row["event"]) for row in mine])
            steps = np.append(True, np.diff(km.survival) < 0)
            rng = np.random.default_rng([SEED, zlib.crc32(f"{figure}/{arm}".encode())])
            t, s = read(*clicks(km.time[steps], km.survival[steps], time.max()), pixel, rng)
            risk = np.arange(0, t[-1], every)
            write(place / f"{endpoint}.{arm}.csv", ("time", "survival"), t, s)
            at_risk = np.sum(time[:, None] >= risk, axis=0)
            write(place / f"{endpoint}.{arm}.risk.csv", ("time", "n_at_risk"), risk, at_risk)


if __name__ == "__main__":
    main(sys.argv[1])

"""Runs of the same shapes sampled side by side, by one program over lanes (:mod:`osteobayes.fit.lanes`), each into its own folder."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import jax

from osteobayes.fit.hmc import Sampler
from osteobayes.fit.lanes import Lanes, LaneSampler, equal
from osteobayes.fit.programs import Programs
from osteobayes.fit.run import Run, Settings, find_start, note_prior_only, sample, sampled
from osteobayes.fit.stop import Stop
from osteobayes.fit.store import write_json
from osteobayes.model import Model

OWN = ("observed", "rows", "weights", "hyper", "fixed")
"""Parts of the data of which every run has its own; programs do not depend on what differs in them."""


def places(lanes: int, chains: int) -> int:
    """Runs whose chains go through the program in one call."""
    return max(1, lanes // chains)


def fitting(model: Model, settings: Settings) -> int:
    """Lanes that the devices' memory holds (:meth:`osteobayes.fit.lanes.Lanes.fitting`)."""
    with jax.default_device(jax.devices("cpu")[0]):
        return Lanes(settings.sampler(model), [model.sampling_data], None, own=OWN).width


def sample_all(
    runs: Sequence[Run],
    programs: Programs,
    report: Callable[[str], None],
    advance: Callable[[int, int, str], None],
    stop: Stop,
) -> list[Sampler | Exception | None]:
    """Search and sample those runs that have the shapes of the first, to their last block.

    Parameters
    ----------
    runs
        Runs that are locked; at most :func:`places`.
    programs
        Programs of runs before; those of these are kept there.
    report, advance, stop
        As of :func:`osteobayes.fit.calibrate`; ``advance`` hears of the first run.

    Returns
    -------
    list
        Of each run its sampler, what its fit raised, or None if its shapes are others.

    Raises
    ------
    Interrupted
        If ``stop`` says so; blocks that are done are kept.
    RunError
        If the devices' memory does not hold so many lanes.
    """
    begun = time.time()
    with jax.default_device(jax.devices("cpu")[0]):  # what is not in lanes is small
        first = runs[0]
        sampler = programs.enter(first.model, first.settings, first.settings.sampler, first.manifest["prior_only"])
        out: list[Sampler | Exception | None] = [None] * len(runs)
        mine = [
            i for i, run in enumerate(runs)
            if i == 0 or (programs.has(run.model, run.settings) and _same_design(first, run))
        ]  # fmt: skip
        for i in mine:
            programs.enter(runs[i].model, runs[i].settings, runs[i].settings.sampler)
            note_prior_only(runs[i])
            runs[i]._memory["programs"], out[i] = programs.kept, sampler
        left = [i for i in mine if not sampled(runs[i])]
        if not left:
            return out
        data = [runs[i].model.sampling_data for i in left]
        width, room = first.settings.lanes or 1, places(first.settings.lanes or 1, first.settings.chains)
        lanes: Lanes | None = programs.kept.get("lanes")
        if lanes is None or (lanes.asked, lanes.places) != (width, room):
            report(f"compiling a program over {width} lanes (some minutes)")
            lanes = Lanes(sampler, data, width, own=OWN, places=room)
            lanes.compile()
            programs.kept["lanes"] = lanes
        else:
            lanes.load(data)
        report(f"{len(left)} runs side by side, {lanes.width} lanes a call")
        found = lanes.run(
            [_fit(runs[i], x, report if k == 0 else _silent, advance if k == 0 else _still, stop) for k, (i, x) in enumerate(zip(left, data, strict=True))]
        )  # fmt: skip
    share = (time.time() - begun) / len(left)
    for i, result in zip(left, found, strict=True):
        run = runs[i]
        if isinstance(result, Exception):
            out[i] = result
            continue
        timings = dict(run.manifest["timings"])
        for name in ("sampling_s", "wall_s"):
            timings[name] = timings.get(name, 0.0) + share
        write_json(run.path / "manifest.json", run.manifest | {"timings": timings | {"side_by_side": len(left)}})
        run.__dict__.pop("manifest", None)
    return out


def _same_design(first: Run, run: Run) -> bool:
    """Whether the data are equal but for what is every run's own."""
    a, b = ({k: v for k, v in r.model.data.items() if k not in OWN} for r in (first, run))
    return all(map(equal, jax.tree.leaves(a), jax.tree.leaves(b)))


def _silent(text: str) -> None:
    pass


def _still(done: int, total: int, text: str) -> None:
    pass


def _fit(run: Run, data: Any, report: Callable, advance: Callable, stop: Stop) -> Callable[[LaneSampler], None]:
    def fit(mine: LaneSampler) -> None:
        find_start(run, mine, data, run.settings, report)
        sample(run, mine, mine.chains, data, run.settings, advance, stop)

    return fit

"""Seconds to validate, load and read the uses of the shipped evidence: medians of repeats in one run, and their ratios.

uv run python benchmarks/evidence.py [REPEATS]
"""

import platform
import statistics
import sys
import time
from importlib import metadata

import yaml

from osteobayes.evidence import Evidence, validate
from osteobayes.paths import shipped
from osteobayes.schema import reading


def timed(name, function, repeats):
    """Call once, then print and return the median seconds of the repeats."""
    function()
    seconds = []
    for _ in range(repeats):
        begun = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - begun)
    median = statistics.median(seconds)
    print(f"{name:40s} median {1e3 * median:8.1f} ms   min {1e3 * min(seconds):8.1f} ms", flush=True)
    return median


def main(repeats: int) -> None:
    print(platform.platform(), platform.machine(), {p: metadata.version(p) for p in ("pyyaml", "pydantic", "pandas")})
    folder = shipped("datasets")
    evidence = Evidence.load(folder)
    files = [path.read_text(encoding="utf-8-sig") for path in sorted(folder.glob("*/study.yaml"))]
    print(
        f"{len(evidence.studies)} studies, {len(evidence.outcomes)} rows; libyaml {yaml.__with_libyaml__}; {repeats} repeats"
    )
    parts = {
        "validate": timed("validate", lambda: validate(folder), repeats),
        "load": timed("load", lambda: Evidence.load(folder), repeats),
        "uses": timed("uses", evidence.uses, repeats),
    }
    total = sum(parts.values())
    shares = ", ".join(f"{name} {100 * seconds / total:.0f} %" for name, seconds in parts.items())
    print(f"what `osteobayes validate` does: {1e3 * total:.0f} ms ({shares})")

    class Pure(yaml.SafeLoader):
        yaml_implicit_resolvers = reading._Loader.yaml_implicit_resolvers

    fast = timed("study.yaml alone, as read", lambda: [yaml.load(text, reading._Loader) for text in files], repeats)
    slow = timed("study.yaml alone, PyYAML's own parser", lambda: [yaml.load(text, Pure) for text in files], repeats)
    print(
        f"PyYAML's own parser / as read: {slow / fast:.1f}; validate / study.yaml alone: {parts['validate'] / fast:.1f}"
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 7)

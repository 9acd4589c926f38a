"""Float64, the compilation cache and the devices: what every entry point sets up before the first computation."""

import hashlib
import os
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jax
import jaxlib
from jax.experimental.compilation_cache import compilation_cache

from osteobayes.errors import OsteobayesError

OFF = ("off", "0", "none")
"""Values of the environment variable OSTEOBAYES_CACHE that mean: keep no compiled programs."""


def require_float64() -> None:
    """Refuse to go on in single precision.

    Raises
    ------
    OsteobayesError
        If JAX computes in 32-bit floats: something turned `jax_enable_x64` off after `import osteobayes`.
    """
    if not jax.config.jax_enable_x64:  # pyright: ignore[reportAttributeAccessIssue]
        raise OsteobayesError(
            "JAX is set to 32-bit floats and osteobayes computes in 64: `import osteobayes` turned float64 on and "
            'something turned it off later; remove that, or call jax.config.update("jax_enable_x64", True).'
        )


def _cpu_description() -> str:
    """Model and instruction-set flags of this CPU, sorted, as one text (no more than the platform's name elsewhere)."""
    keys = ("vendor_id", "model name", "flags", "cpu family", "model", "CPU implementer", "CPU part", "Features")
    found: dict[str, str] = {}
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() in keys:
                found.setdefault(key.strip(), " ".join(sorted(value.split())))
    except OSError:
        pass
    return "\n".join(f"{key}={found[key]}" for key in sorted(found)) or platform.processor()


def cpu_tag() -> str:
    """Name the kind of CPU, such as `x86_64-3f1c2a9b04`.

    Equal on machines with the same model and instruction-set flags. A program that XLA compiled for one CPU can end
    the process with an illegal instruction on another, so compiled programs are kept apart by this tag.
    """
    machine = platform.machine() or "unknown"
    return f"{machine}-{hashlib.sha256(_cpu_description().encode()).hexdigest()[:10]}"


def _user_cache() -> Path:
    """Folder where this platform's programs keep what can be made again."""
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


def enable_compile_cache(folder: str | os.PathLike[str] | None = None) -> Path | None:
    """Keep compiled programs on disk, so that the next process does not compile them again.

    Does not start a JAX backend. Tracing (seconds) is still paid.

    Parameters
    ----------
    folder
        Where to keep them. Default: the environment variable OSTEOBAYES_CACHE, else `osteobayes` in the user's cache
        folder. A subfolder is named after the versions of jaxlib and the kind of CPU, see `cpu_tag`.

    Returns
    -------
    pathlib.Path or None
        The subfolder in use; None if OSTEOBAYES_CACHE is `off` (or `0`, `none`) and no folder was given, or if the
        folder cannot be written, which warns and is no error: only time is lost.
    """
    setting = os.environ.get("OSTEOBAYES_CACHE", "")
    if folder is None and setting.lower() in OFF:
        return None
    root = Path(folder or setting or _user_cache() / "osteobayes").expanduser()
    path = root.absolute() / f"jax-{jaxlib.__version__}-{cpu_tag()}"
    try:
        path.mkdir(parents=True, exist_ok=True)
        writable = os.access(path, os.W_OK)
    except OSError:
        writable = False
    if not writable:
        warnings.warn(
            f"compiled programs are not kept: {path} cannot be written; set OSTEOBAYES_CACHE to another folder",
            stacklevel=2,
        )
        return None
    if jax.config.jax_compilation_cache_dir not in (None, str(path)):  # pyright: ignore[reportAttributeAccessIssue]
        compilation_cache.reset_cache()  # JAX keeps the first folder open until told
    jax.config.update("jax_compilation_cache_dir", str(path))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    return path


def jit[**P, R](function: Callable[P, R]) -> Callable[P, R]:
    """``jax.jit`` for the package's large programs, with the compiler's settings for them. Starts the backend.

    On a CPU LLVM optimises at level 1 instead of 3: the programs are thousands of loops over some forty numbers. Level 3 took
    nearly twice as long to compile them, and the gradient a third longer to run (``docs/design/step1.md`` has the figures).

    Parameters
    ----------
    function
        A function of arrays that is not called inside another compiled one (JAX raises ValueError there: compiler settings
        are for outermost functions).
    """
    options = {"xla_backend_optimization_level": 1} if jax.default_backend() == "cpu" else None
    return jax.jit(function, compiler_options=options)  # pyright: ignore[reportReturnType]


@dataclass(frozen=True)
class Devices:
    """What a computation runs on; `str()` is one line for a log, `dataclasses.asdict` is for a manifest."""

    backend: str
    """JAX's name of the default backend: `cpu`, `gpu` or `tpu`."""
    kind: str
    """Kind of device, as the driver names it."""
    count: int
    """Number of devices."""
    cores: int
    """CPU cores that this process may use."""
    cpu: str
    """See `cpu_tag`."""
    jax: str
    """Version of jax."""
    jaxlib: str
    """Version of jaxlib."""
    float64: bool
    """Whether 64-bit floats are on."""

    def __str__(self) -> str:
        return (
            f"{self.count} x {self.backend} ({self.kind}), {self.cores} CPU cores, jax {self.jax}, "
            f"{'float64' if self.float64 else 'float32'}"
        )


def devices() -> Devices:
    """Describe what JAX computes on. Starts the backend."""
    found = jax.devices()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Devices(
        backend=found[0].platform,
        kind=found[0].device_kind,
        count=len(found),
        cores=cores,
        cpu=cpu_tag(),
        jax=jax.__version__,
        jaxlib=jaxlib.__version__,
        float64=bool(jax.config.jax_enable_x64),  # pyright: ignore[reportAttributeAccessIssue]
    )


GRADIENT_S = {"core": 0.020, "accelerator": 0.12}
"""Seconds of a gradient of the breast designs on one CPU core, and of up to some 2000 side by side on an H100 (``docs/design/step5.md``,
"On an accelerator"): there they are launches of small programs, whatever is in them."""


def throughput(size: int = 1024, repeats: int = 5) -> float:
    """Float64 operations a second (in 1e9) of the default device: the median of some products of two square matrices.

    Parameters
    ----------
    size, repeats
        Rows of the matrices, and how many products.
    """
    x = jax.random.normal(jax.random.key(0), (size, size), dtype="float64")
    product = jax.jit(lambda a: a @ a)
    jax.block_until_ready(product(x))
    seconds = []
    for _ in range(repeats):
        begun = time.perf_counter()
        jax.block_until_ready(product(x))
        seconds.append(time.perf_counter() - begun)
    return 2e-9 * size**3 / statistics.median(seconds)


def advice(found: Devices) -> str:
    """What a calibration uses of these devices, and from how many chains side by side an accelerator wins."""
    pays = round(found.cores * GRADIENT_S["accelerator"] / GRADIENT_S["core"])
    if found.backend == "cpu":
        return (
            f"calibrations run their chains in {found.cores} processes, one a core; an accelerator would win from about {pays} chains "
            "side by side (many fits, not one)"
        )
    return (
        f"programs run on the {found.backend}; it wins over these {found.cores} cores from about {pays} chains side by side, "
        "so run one calibration on the CPU (JAX_PLATFORMS=cpu) and many fits here"
    )

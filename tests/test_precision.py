"""`precision`: float64 is required, compiled programs are kept apart by CPU, and kept at all."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import jax
import pytest

import osteobayes  # noqa: F401
from osteobayes import precision
from osteobayes.errors import OsteobayesError

COMPILE = """
import os, sys, jax
from osteobayes.precision import enable_compile_cache
path = enable_compile_cache(sys.argv[1])
hits = []
jax.monitoring.register_event_listener(lambda event, **_: hits.append(event) if event.endswith("/cache_hits") else None)
jax.jit(lambda x: jax.numpy.sin(x) @ x)(jax.numpy.ones((3, 3))).block_until_ready()
print(path, len(hits))
"""


@pytest.fixture
def cache_setting(monkeypatch):
    """Leaves JAX's cache as it was."""
    names = (
        "jax_compilation_cache_dir",
        "jax_persistent_cache_min_compile_time_secs",
        "jax_persistent_cache_min_entry_size_bytes",
    )
    before = {name: getattr(jax.config, name) for name in names}
    monkeypatch.delenv("OSTEOBAYES_CACHE", raising=False)
    yield monkeypatch
    for name, value in before.items():
        jax.config.update(name, value)
    precision.compilation_cache.reset_cache()


def test_float64_is_required():
    precision.require_float64()
    jax.config.update("jax_enable_x64", False)
    try:
        with pytest.raises(OsteobayesError, match="32-bit"):
            precision.require_float64()
    finally:
        jax.config.update("jax_enable_x64", True)


def test_cache_folder_is_named_after_jaxlib_and_cpu(tmp_path, cache_setting):
    path = precision.enable_compile_cache(tmp_path)
    assert path.parent == tmp_path and path.is_dir()
    assert path.name == f"jax-{jax.lib.__version__}-{precision.cpu_tag()}"
    assert jax.config.jax_compilation_cache_dir == str(path)
    cache_setting.setattr(precision, "_cpu_description", lambda: "flags=sse2")
    assert precision.enable_compile_cache(tmp_path) != path


def test_cache_folder_from_the_environment(tmp_path, cache_setting):
    cache_setting.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    cache_setting.setattr(sys, "platform", "linux")
    assert precision.enable_compile_cache().parent == tmp_path / "user" / "osteobayes"
    cache_setting.setenv("OSTEOBAYES_CACHE", str(tmp_path / "own"))
    assert precision.enable_compile_cache().parent == tmp_path / "own"
    cache_setting.setenv("OSTEOBAYES_CACHE", "off")
    assert precision.enable_compile_cache() is None


def test_a_folder_that_cannot_be_written_costs_only_time(tmp_path, cache_setting):
    (tmp_path / "file").write_text("")
    with pytest.warns(UserWarning, match="cannot be written"):
        assert precision.enable_compile_cache(tmp_path / "file") is None


def test_a_second_process_does_not_compile_again(tmp_path):
    def run():
        done = subprocess.run(
            [sys.executable, "-c", COMPILE, str(tmp_path)], capture_output=True, text=True, timeout=240, check=True
        )
        path, hits = done.stdout.split()
        assert "machine" not in done.stderr.lower(), done.stderr  # XLA warns when a program is of another CPU
        return Path(path), int(hits)

    path, first = run()
    assert first == 0 and any(path.iterdir())
    assert run()[1] >= 1


def test_devices():
    found = precision.devices()
    assert found.count >= 1 and found.cores >= 1 and found.float64
    assert found.backend in str(found) and "float64" in str(found)


def test_advice_says_where_many_fits_and_where_one_should_run():
    found = precision.devices()
    one, many = dataclasses.replace(found, backend="cpu", cores=2), dataclasses.replace(found, backend="gpu", cores=16)
    assert "2 processes" in precision.advice(one) and "about 12 chains" in precision.advice(one)
    assert "one calibration on the CPU" in precision.advice(many) and "about 96 chains" in precision.advice(many)

"""What every test session sets: options, markers, a compilation cache of its own, repeatable hypothesis examples.

Environment: OSTEOBAYES_CACHE keeps compiled programs there between sessions (default: a temporary folder of the session).
OSTEOBAYES_CI=1 fails the session if a test was skipped for want of a package.
"""

import functools
import os
import shutil
import tempfile

import hypothesis
import pytest

hypothesis.settings.register_profile(
    "osteobayes",
    deadline=None,
    max_examples=40,
    derandomize=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("osteobayes")

_temporary: list[tempfile.TemporaryDirectory] = []
_lacking: list[str] = []


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="run the tests marked slow too")


def pytest_configure(config):
    # `import osteobayes` alone must be enough for float64, here and in every child process
    os.environ.pop("JAX_ENABLE_X64", None)
    if "PYTEST_XDIST_WORKER" in os.environ:
        os.environ["NPROC"] = (
            "1"  # XLA's threads: one process a core is faster, and the chains' processes are like that too
        )
    import osteobayes  # noqa: F401
    from osteobayes.precision import enable_compile_cache

    if not os.environ.get("OSTEOBAYES_CACHE"):
        _temporary.append(tempfile.TemporaryDirectory(prefix="osteobayes-cache-"))
        os.environ["OSTEOBAYES_CACHE"] = _temporary[0].name
    enable_compile_cache()


def pytest_unconfigure(config):
    for folder in _temporary:
        os.environ.pop("OSTEOBAYES_CACHE", None)
        folder.cleanup()
    _temporary.clear()


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--slow"):
        for item in items:
            if "slow" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="slow: give --slow to run it"))


@pytest.fixture(scope="session")
def tiny_model():
    """The same cycle code on the breast studies with a 14-day grid."""
    from osteobayes.cycle import Grid
    from osteobayes.evidence import Evidence
    from osteobayes.model import Model
    from osteobayes.paths import shipped
    from osteobayes.priors import PriorSet

    evidence = Evidence.load(shipped("datasets")).choose("core").select(cancer="breast")
    return Model.build(evidence, PriorSet.load(), Grid(14.0, 80, 2))


@pytest.fixture(scope="session")
def two_studies(tmp_path_factory):
    """Folder of two breast studies."""
    from osteobayes.paths import shipped

    folder = tmp_path_factory.mktemp("datasets")
    for study in ("lipton2000", "stopeck2010_136"):
        shutil.copytree(shipped("datasets") / study, folder / study)
    return folder


@functools.cache
def _accelerator() -> bool:
    import jax

    return jax.default_backend() != "cpu"


def pytest_runtest_setup(item):
    if item.get_closest_marker("gpu") and not _accelerator():
        pytest.skip("gpu: JAX found no accelerator")


def _note_lacking(report):
    reason = report.longrepr[2] if report.skipped and isinstance(report.longrepr, tuple) else ""
    if "could not import" in reason:
        _lacking.append(f"{report.nodeid}: {reason}")


def pytest_runtest_logreport(report):
    _note_lacking(report)


def pytest_collectreport(report):
    _note_lacking(report)


def pytest_sessionfinish(session, exitstatus):
    if _lacking and os.environ.get("OSTEOBAYES_CI") == "1":
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter):
    if _lacking and os.environ.get("OSTEOBAYES_CI") == "1":
        terminalreporter.section("OSTEOBAYES_CI: skipped for want of a package, so this session fails")
        for line in _lacking:
            terminalreporter.line(line)

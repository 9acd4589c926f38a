"""Where the data files that come with osteobayes are."""

from pathlib import Path
from typing import Literal

from osteobayes.errors import OsteobayesError

_PACKAGE = Path(__file__).resolve().parent


def shipped(kind: Literal["datasets", "priors"], package: Path = _PACKAGE) -> Path:
    """Folder of the datasets or priors that come with osteobayes.

    In a checkout that is the folder at the root of the repository; in an installed wheel it lies beside the package.

    Parameters
    ----------
    kind
        ``datasets`` or ``priors``.
    package
        Folder of the package; only tests give it.

    Raises
    ------
    OsteobayesError
        If neither layout holds the folder.
    """
    if kind not in ("datasets", "priors"):
        raise OsteobayesError(f"no shipped folder is called {kind!r}: ask for 'datasets' or 'priors'")
    installed = package / "_shipped" / kind
    root = package.parents[1]
    checkout = root / kind
    if installed.is_dir():
        return installed
    if (root / "pyproject.toml").is_file() and checkout.is_dir():
        return checkout
    raise OsteobayesError(f"the {kind} that come with osteobayes are neither in {installed} nor in {checkout}")

"""Run every notebook from its own folder, as a reader would, and refuse one that is committed with outputs.

Nothing is written back. The size is the notebooks' own matter: they read OSTEOBAYES_NOTEBOOK_SIZE.
Usage: python .ci/notebooks.py [NOTEBOOK ...]
"""

import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

CELL_SECONDS = 600


def check(path: Path) -> str | None:
    """Execute one notebook; what is wrong with it, or None."""
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    if any(cell.outputs or cell.execution_count is not None for cell in code):
        return "is committed with outputs: clear them"
    client = NotebookClient(
        notebook, timeout=CELL_SECONDS, kernel_name="python3", resources={"metadata": {"path": str(path.parent)}}
    )
    try:
        client.execute()
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        return f"failed:\n{error}"
    return None


def main(names: list[str]) -> int:
    """Check the notebooks named, by default all."""
    folder = Path(__file__).resolve().parent.parent / "notebooks"
    paths = [Path(name).resolve() for name in names] or sorted(folder.glob("*.ipynb"))
    if not paths:
        print(f"no notebook in {folder.name}/")
        return 1
    failed = 0
    for path in paths:
        start = time.monotonic()
        problem = check(path)
        failed += problem is not None
        print(f"{path.name}: {problem or 'ran'} ({time.monotonic() - start:.0f} s)", flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

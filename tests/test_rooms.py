"""The rooms: imports run one way, third parties stay with their owner, importing the package does next to nothing."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

import osteobayes

ROOMS = (
    "schema survival priors cycle solve evidence observe model fit predict batch check twin score patterns recovery sbc report cli"
).split()
COMMON = {"errors", "paths", "precision"}
SOURCE = Path(osteobayes.__file__).parent
FILES = sorted(SOURCE.rglob("*.py"))

OWNED = {"diffrax": {"solve"}, "pymc": {"model", "fit"}, "pytensor": {"model", "fit"}}
INSIDE_FUNCTIONS_ONLY = {"pymc", "pytensor"}
NOT_AT_IMPORT_ABOVE_FIT = {"arviz", "arviz_base", "arviz_stats", "arviz_plots", "matplotlib"}
ABOVE_FIT = ROOMS[: ROOMS.index("fit")]


class Import(NamedTuple):
    module: str
    line: int
    at_import: bool
    """Runs when the file is imported: not in a function, not under TYPE_CHECKING."""


def room_of(module: str) -> str:
    """`osteobayes.cycle.cells` -> `cycle`; the package itself -> the empty text."""
    return module.partition(".")[2].partition(".")[0]


def module_of(path: Path, source: Path = SOURCE) -> str:
    parts = path.relative_to(source.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(tree: ast.AST, package: str) -> list[Import]:
    """Every import in a tree, relative ones resolved from `package`, `import_module("...")` of a constant included."""
    found = []

    def visit(node, at_import):
        if isinstance(node, ast.Import):
            found.extend(Import(alias.name, node.lineno, at_import) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")
                base = ".".join([*parents[: len(parents) - node.level + 1], *([base] if base else [])])
            if base == "osteobayes":  # `from osteobayes import paths`: the names are what is imported
                found.extend(Import(f"osteobayes.{alias.name}", node.lineno, at_import) for alias in node.names)
            else:
                found.append(Import(base, node.lineno, at_import))
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__"):
            first = node.args[0] if node.args else None
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                found.append(Import(first.value, node.lineno, at_import))
        inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        typing = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for child in ast.iter_child_nodes(node):
            visit(child, at_import and not inside and not (typing and child in node.body))

    visit(tree, True)
    return found


def misplaced(module: str, found: list[Import]) -> list[str]:
    """Sentences about the imports that a module of the package may not have."""
    room, wrong = room_of(module), []
    for name, line, at_import in found:
        place, owner = f"{module}:{line}", name.split(".")[0]
        target = room_of(name)
        if owner == "osteobayes" and room and target != room:
            if target in COMMON or target.startswith("__"):
                pass
            elif target not in ROOMS:
                wrong.append(f"{place} imports {name}, which is no room (order: tests/test_rooms.py)")
            elif room in COMMON:
                wrong.append(f"{place} imports the room {target}: {sorted(COMMON)} import only each other")
            elif ROOMS.index(target) > ROOMS.index(room):
                wrong.append(f"{place} imports {name} against the direction: {target} is below {room}")
        if owner == "osteobayes" and not room and at_import and target not in ("", *COMMON):
            wrong.append(f"{place} imports {name} at once: public names are loaded on first use")
        if owner in OWNED and room not in OWNED[owner]:
            wrong.append(f"{place} imports {name}, which belongs to {sorted(OWNED[owner])}")
        if owner in INSIDE_FUNCTIONS_ONLY and at_import:
            wrong.append(f"{place} imports {name} outside a function")
        if owner in NOT_AT_IMPORT_ABOVE_FIT and at_import and room in {"", *ABOVE_FIT, *COMMON}:
            wrong.append(f"{place} imports {name} at import time above fit")
    return wrong


def unsafe(tree: ast.AST) -> list[str]:
    """Calls and imports that could run what a file says."""
    wrong = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name in ("eval", "exec", "yaml.load", "yaml.unsafe_load", "yaml.full_load", "yaml.load_all"):
                wrong.append(f"line {node.lineno}: {name}")
            if any(word.arg == "allow_pickle" and ast.unparse(word.value) != "False" for word in node.keywords):
                wrong.append(f"line {node.lineno}: allow_pickle")
        if isinstance(node, ast.Attribute) and "pickle" in node.attr and node.attr != "allow_pickle":
            wrong.append(f"line {node.lineno}: {node.attr}")
        names = [name.name for name in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
        module = node.module or "" if isinstance(node, ast.ImportFrom) else ""
        for name in (module, *names):
            if name.split(".")[0] in ("pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"):
                wrong.append(f"line {node.lineno}: {name}")
    return wrong


def child(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("path", FILES, ids=lambda path: module_of(path))
def test_imports_run_one_way(path):
    module = module_of(path)
    assert room_of(module) in {"", "__main__", *COMMON, *ROOMS}, (
        f"{module} is no room: add it to the order in this file"
    )
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found = imports(ast.parse(path.read_text(encoding="utf-8")), package)
    if room_of(module) == "__main__":  # `python -m osteobayes` stands below all rooms
        found = []
    assert misplaced(module, found) == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: module_of(path))
def test_nothing_read_from_a_file_is_executed(path):
    assert unsafe(ast.parse(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    "module, line, sentence",
    [
        ("osteobayes.cycle.cells", "from osteobayes.model import Model", "against the direction"),
        ("osteobayes.cycle.cells", "from ..solve import solve", "against the direction"),
        ("osteobayes.cycle", "from .. import fit", "against the direction"),
        ("osteobayes.schema", "def f():\n  import osteobayes.cli", "against the direction"),
        ("osteobayes.schema", "if TYPE_CHECKING:\n  from osteobayes.fit import Run", "against the direction"),
        ("osteobayes.schema", "importlib.import_module('osteobayes.fit')", "against the direction"),
        ("osteobayes.paths", "from osteobayes.schema import Study", "only each other"),
        ("osteobayes.fit", "from osteobayes.utilities import helper", "no room"),
        ("osteobayes", "from osteobayes.fit import Run", "first use"),
        ("osteobayes.cycle", "def f():\n  import diffrax", "belongs to"),
        ("osteobayes.model", "import pymc as pm", "outside a function"),
        ("osteobayes.check", "def f():\n  from pytensor import tensor", "belongs to"),
        ("osteobayes.priors", "import matplotlib.pyplot as plt", "above fit"),
        ("osteobayes.model", "try:\n  import arviz\nexcept ImportError:\n  pass", "above fit"),
    ],
)
def test_the_check_sees_a_wrong_import(module, line, sentence):
    package = module if module.count(".") < 2 else module.rpartition(".")[0]
    wrong = misplaced(module, imports(ast.parse(line), package))
    assert len(wrong) == 1 and sentence in wrong[0]


@pytest.mark.parametrize(
    "module, line",
    [
        (
            "osteobayes.solve",
            "import diffrax\nfrom osteobayes.cycle.dynamics import field\nfrom .errors import RunError",
        ),
        ("osteobayes.model.emit", "def pymc():\n  import pymc\n  from osteobayes.observe import curves"),
        ("osteobayes.fit", "import arviz as az\nfrom osteobayes import __version__"),
        ("osteobayes.priors", "def plot():\n  import matplotlib.pyplot as plt"),
        ("osteobayes", "if TYPE_CHECKING:\n  from osteobayes.fit import Run"),
    ],
)
def test_the_check_lets_a_right_import_pass(module, line):
    assert misplaced(module, imports(ast.parse(line), module.rpartition(".")[0] or module)) == []


@pytest.mark.parametrize(
    "line",
    [
        "eval('1')",
        "exec(text)",
        "import pickle",
        "from pickle import load",
        "yaml.load(f)",
        "frame.to_pickle(f)",
        "np.load(f, allow_pickle=True)",
    ],
)
def test_the_check_sees_what_is_unsafe(line):
    assert len(unsafe(ast.parse(line))) == 1
    assert unsafe(ast.parse("yaml.safe_load(f); model.evaluate(x); re.compile(x); np.load(f)")) == []


def test_import_turns_on_float64_and_starts_no_backend():
    code = (
        "import os; os.environ.pop('JAX_ENABLE_X64', None)\n"
        "import osteobayes, jax, sys\n"
        "jax.config.update('jax_num_cpu_devices', 2)  # JAX refuses this once a backend has started\n"
        "heavy = {'numpyro', 'pymc', 'arviz', 'matplotlib', 'pandas', 'diffrax'} & set(sys.modules)\n"
        "print(jax.config.jax_enable_x64, len(jax.devices()), jax.numpy.ones(1).dtype, sorted(heavy))"
    )
    assert child(code) == "True 2 float64 []"


def test_the_witness_of_a_started_backend():
    code = "import osteobayes, jax; jax.devices()\njax.config.update('jax_num_cpu_devices', 2)"
    with pytest.raises(AssertionError, match="before backends are initialized"):
        child(code)


def test_rooms_above_fit_load_no_plots_and_no_second_engine():
    there = [room for room in ABOVE_FIT if (SOURCE / room).is_dir() or (SOURCE / f"{room}.py").is_file()]
    heavy = sorted(INSIDE_FUNCTIONS_ONLY | NOT_AT_IMPORT_ABOVE_FIT)
    code = f"import sys, importlib\nfor room in {there}: importlib.import_module('osteobayes.' + room)\n"
    assert child(code + f"print([name for name in {heavy} if name in sys.modules])") == "[]"


# --- the public names -------------------------------------------------------------------------------------------------

PUBLIC = sorted(set(osteobayes.__all__) - {"__version__"})


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_is_what_its_room_defines(name):
    room = osteobayes._ROOM[name]
    module = importlib.import_module(f"osteobayes.{room}")  # binds the room to the package, as any import of it does
    assert getattr(osteobayes, name) is getattr(module, name)
    assert callable(getattr(osteobayes, name)) and name in dir(osteobayes)


def test_a_function_wins_over_the_room_of_its_name():
    """As if `osteobayes.predict` were this stand-in: importing the room must not hide the function."""
    code = (
        "import osteobayes, sys, types\n"
        "room = types.ModuleType('osteobayes.predict'); room.predict = lambda: 'function'\n"
        "sys.modules['osteobayes.predict'] = room\n"
        "setattr(osteobayes, 'predict', room)  # what the import system does after loading a submodule\n"
        "from osteobayes.predict import predict\n"
        "setattr(osteobayes, 'schema', room)\n"
        "print(osteobayes.predict(), predict(), osteobayes.schema is room)"
    )
    assert child(code) == "function function True"


def test_an_unknown_name_is_refused():
    with pytest.raises(AttributeError, match="'osteobayes' has no attribute 'Modle'"):
        _ = osteobayes.Modle


def test_version():
    assert osteobayes.__version__[0].isdigit()

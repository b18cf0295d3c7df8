"""The architecture, held by parsing the source: ranks, purity, cycles, and what the house counts."""

from __future__ import annotations

import ast
import io
import json
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterable, Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
NAME = "jaxprop"

# A module imports only lower ranks; rooms of one rank never import each other; inside a room, siblings may.
RANKS = {
    "types": 0, "errors": 0, "version": 0,
    "untrusted": 0.5,  # files and patterns that may be anyone's, for all who read any
    "config": 1, "core": 1,
    "code": 1.5,  # reads the sections of config, and is called by the rooms that build what they name
    "data": 2, "models": 2, "losses": 2, "metrics": 2, "parallel": 2, "checkpoint": 2, "sinks": 2,
    "health": 3,
    "train": 4,
    "tasks": 5,
    "run": 6,
    "tools": 7, "report": 7, "bench": 7,
    "cli": 8, "__init__": 8,
    "__main__": 9,
}  # fmt: skip
FILES = {"types", "errors", "version", "__init__", "__main__"}  # all that lies beside the rooms
PURE = {"types", "errors", "version", "core", "models", "losses", "metrics", "health", "train"}
IO_MODULES = {"io", "logging", "os", "pathlib", "shutil", "socket", "subprocess", "sys", "tempfile", "time"}
IO_CALLS = {"input", "open", "print"}
# The object around the step announces a slow call; as a warning it would end a run in which warnings are errors.
LOGS = {("train/compiled", "logging")}
# These load jax: config/ must answer without any of them.
JAX = {"chex", "equinox", "flax", "jax", "jaxlib", "optax", "orbax"}
DYNAMIC = {"__init__", "code/modules"}  # may import by a name in a string: public names, user code
SUPPRESSION = re.compile(r"#\s*(noqa|type:\s*ignore|pragma|pylint:|mypy:|ruff:\s*noqa|pyright:)")

# How many calls of ours stand between `main` and the differentiation of the loss; it may only shrink.
FRAMES = 15

# Test files of no module's name, and why.
UNMIRRORED = {
    "checkpoint/test_traps.py": "of `checkpoint/checkpoints.py`: what goes wrong with Orbax by itself, on a real disk",
    "cli/test_cli.py": "of `cli/__init__.py`, since test_init.py is that of the command `init`",
    "core/test_tap_rules.py": "of `core/taps.py`, whose own test file is at its limit of 500 lines",
    "data/readers/test_bad_input.py": "of every reader with every bad input, in one table",
    "models/adapters/test_adapters.py": "of what all adapters keep, in one table",
    "models/adapters/test_third_party.py": "of models of every framework against loops written by hand",
    "models/test_overrides.py": "of every built-in model under overrides of the precision",
    "report/test_assets.py": "of the files in `report/assets`, which are no modules",
    "report/test_browser.py": "of the whole page, in a browser",
    "run/test_loop_responses.py": "of `run/loop.py`, whose own test file holds what has no responses",
    "run/test_loop_scale.py": "of `run/loop.py`: the responses to a loss scale that is stuck",
    "run/test_quantized.py": "of `models/quantized.py`: what is done with a run whose products are in 8 bits",
    "run/test_train_meshes.py": "of `run/train.py`: the alerts of a run on meshes, against one device",
    "run/test_train_processes.py": "of `run/train.py`: the same run in one, two and four processes",
    "train/test_optimizer_groups.py": "of `train/optimizers.py`: optimizers of groups against optax by hand",
    "train/test_step_meshes.py": "of `train/step.py`: meshes of every kind against one device",
    "train/test_step_optimizers.py": "of `train/step.py`: any optimizer and any gradient against loops written by hand",
    "train/test_step_precision.py": "of `train/step.py`: training in every precision",
    "train/test_step_transformations.py": "of `train/step.py`: what JAX may do to a step",
}

# -- the checker ----------------------------------------------------------------------------------


class Edge(NamedTuple):
    """One import: of a module of the package, or of another package's top level."""

    target: str
    line: int
    typing_only: bool


class Module(NamedTuple):
    """One parsed file; `name` is its path in the package without `.py`."""

    name: str
    source: str
    tree: ast.Module
    internal: list[Edge]
    external: list[Edge]

    @property
    def unit(self) -> str:
        return self.name.split("/")[0]


def parse(package: Path) -> dict[str, Module]:
    files = {path.relative_to(package).with_suffix("").as_posix(): path for path in sorted(package.rglob("*.py"))}
    return {name: _module(name, path.read_text(encoding="utf-8"), files) for name, path in files.items()}


def _module(name: str, source: str, known: Iterable[str]) -> Module:
    tree = ast.parse(source)
    internal, external = [], []
    for node, typing_only in _walk(tree):
        for dotted in _imported(node, name, tree):
            edge = Edge(dotted, node.lineno, typing_only)
            if dotted.split(".")[0] != NAME:
                external.append(edge._replace(target=dotted.split(".")[0]))
            elif (target := _file_of(dotted, known)) is not None:
                internal.append(edge._replace(target=target))
    return Module(name, source, tree, internal, external)


def _walk(node: ast.AST, typing_only: bool = False) -> Iterator[tuple[ast.AST, bool]]:
    yield node, typing_only
    for child in ast.iter_child_nodes(node):
        guarded = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test) and child in node.body
        yield from _walk(child, typing_only or guarded)


def _imported(node: ast.AST, name: str, tree: ast.Module) -> list[str]:
    """Dotted names an import statement stands for; `import jaxprop` stands for what is then read of it."""
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
        return [f"{NAME}.{read}" for read in _read_of_root(tree)] if names == [NAME] else names
    if not isinstance(node, ast.ImportFrom):
        return []
    base = node.module or ""
    if node.level:
        here = [NAME, *name.split("/")][: -node.level]
        base = ".".join([*here, *([base] if base else [])])
    return [f"{base}.{alias.name}" for alias in node.names] if base.split(".")[0] == NAME else [base]


def _read_of_root(tree: ast.Module) -> list[str]:
    reads = (n for n in ast.walk(tree) if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name))
    return [node.attr for node in reads if node.value.id == NAME]


def _file_of(dotted: str, known: Iterable[str]) -> str | None:
    """The file that defines a dotted name; None for the version, which anyone may read."""
    parts = dotted.split(".")[1:]
    if parts == ["__version__"]:
        return None
    while parts:
        for candidate in ("/".join(parts), "/".join([*parts, "__init__"])):
            if candidate in known:
                return candidate
        parts.pop()
    return "__init__"


def rank_problems(modules: dict[str, Module]) -> Iterator[str]:
    for module in modules.values():
        if "/" not in module.name and module.name not in FILES:
            yield f"{module.name}: lies beside the rooms; put it into one"
            continue
        if module.unit not in RANKS:
            yield f"{module.name}: has no rank; give it one in RANKS and in the design"
            continue
        for edge in module.internal:
            target = modules[edge.target].unit
            if target != module.unit and RANKS.get(target, 99) >= RANKS[module.unit]:
                way = "sideways" if RANKS.get(target) == RANKS[module.unit] else "upward"
                yield f"{module.name}:{edge.line}: imports {edge.target}, {way}"


def cycle_problems(modules: dict[str, Module]) -> Iterator[str]:
    try:
        TopologicalSorter({name: {e.target for e in m.internal} for name, m in modules.items()}).prepare()
    except CycleError as error:
        yield "import cycle: " + " -> ".join(error.args[1])


def purity_problems(modules: dict[str, Module]) -> Iterator[str]:
    for module in (m for m in modules.values() if m.unit in PURE):
        for edge in module.external:
            if edge.target in IO_MODULES and (module.name, edge.target) not in LOGS:
                yield f"{module.name}:{edge.line}: imports {edge.target}"
        for call in (n for n in ast.walk(module.tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)):
            if call.func.id in IO_CALLS:
                yield f"{module.name}:{call.lineno}: calls {call.func.id}"


def config_problems(modules: dict[str, Module]) -> Iterator[str]:
    """Modules that load jax and that importing something of config/ would load, at whatever distance."""
    waiting, seen = [name for name in modules if name.startswith("config/")], set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        parents = [f"{parent.as_posix()}/__init__" for parent in Path(name).parents if parent != Path(".")]
        waiting += [edge.target for edge in modules[name].internal if not edge.typing_only]
        waiting += [parent for parent in ["__init__", *parents] if parent in modules]
        for edge in modules[name].external:
            if edge.target in JAX and not edge.typing_only:
                yield f"{name}:{edge.line}: imports {edge.target}, and config/ needs {name}"


def dynamic_problems(modules: dict[str, Module]) -> Iterator[str]:
    for module in (m for m in modules.values() if m.name not in DYNAMIC):
        for call in (n for n in ast.walk(module.tree) if isinstance(n, ast.Call)):
            if ast.unparse(call.func).split(".")[-1] in ("import_module", "__import__"):
                yield f"{module.name}:{call.lineno}: imports by a string, which no check sees"


def size_problems(modules: dict[str, Module], file_lines: int = 500, function_lines: int = 60) -> Iterator[str]:
    for module in modules.values():
        lines = len(module.source.splitlines())
        if lines > file_lines:
            yield f"{module.name}: {lines} lines, more than {file_lines}"
        for node in ast.walk(module.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and _length(node) > function_lines:
                yield f"{module.name}:{node.lineno}: {node.name} has {_length(node)} lines, more than {function_lines}"


def _length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function without its docstring, which is as long as its arguments are many."""
    assert function.end_lineno is not None
    first = function.body[0]
    documented = ast.get_docstring(function) is not None and first.end_lineno is not None
    return function.end_lineno - function.lineno + 1 - (documented and first.end_lineno - first.lineno + 1)


def suppressions(sources: Iterable[str]) -> tuple[int, int]:
    """Counts checker suppressions, and lines."""
    found = lines = 0
    for source in sources:
        lines += len(source.splitlines())
        tokens = tokenize.generate_tokens(io.StringIO(source).readline)
        found += sum(token.type == tokenize.COMMENT and bool(SUPPRESSION.search(token.string)) for token in tokens)
    return found, lines


def unmirrored(tests: Path, modules: Iterable[str]) -> Iterator[str]:
    """Test files in a room's folder that are named after no module of that room."""
    for path in sorted(tests.rglob("test_*.py")):
        file = path.relative_to(tests)
        names = {file.with_name(name).as_posix() for name in (file.stem[5:], f"__{file.stem[5:]}__")}
        if len(file.parts) > 1 and not names & set(modules):
            yield file.as_posix()


CHECKS = {
    "ranks": rank_problems,
    "cycles": cycle_problems,
    "purity": purity_problems,
    "config without jax": config_problems,
    "imports by string": dynamic_problems,
    "sizes": size_problems,
}

# -- the package ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def modules():
    found = parse(ROOT / NAME)
    assert len(found) > 50
    return found


@pytest.mark.parametrize("check", CHECKS)
def test_the_package_keeps_the_rules(modules, check):
    assert list(CHECKS[check](modules)) == []


@pytest.mark.parametrize("folder", [NAME, "tests", "scripts"])
def test_checkers_are_hardly_ever_suppressed(folder):
    found, lines = suppressions(path.read_text(encoding="utf-8") for path in (ROOT / folder).rglob("*.py"))
    assert found * 1000 <= lines, f"{found} suppressions in {lines} lines"


def test_tests_lie_where_the_modules_do(modules):
    assert list(unmirrored(ROOT / "tests", modules)) == sorted(UNMIRRORED)


@pytest.fixture(scope="module")
def counted():
    command = [sys.executable, str(ROOT / "scripts" / "count_path.py"), "--json"]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


def test_the_way_from_the_command_line_to_the_gradient_only_gets_shorter(counted):
    frames = [f"{file}:{line} {function}" for file, line, function in counted["frames"]]
    assert frames[0].startswith("cli/__init__.py:")
    assert frames[-1].startswith("train/gradients.py:")
    assert len(frames) <= FRAMES, frames
    assert {frame.split(":")[0] for frame in frames} <= set(counted["files"])


def test_the_guide_says_how_long_the_way_is(counted):
    """Within a twentieth, so that not each line added has to be counted again."""
    guide = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    row = re.search(r"\| every file that has run, imports included \| ([\d,]+) \| ([\d,]+) \|", guide)
    told = [int(number.replace(",", "")) for number in row.groups()]
    found = [len(counted["files"]), sum(counted["files"].values())]
    assert told == pytest.approx(found, rel=0.05), "run: python scripts/count_path.py --write"


# -- the checker itself ---------------------------------------------------------------------------

CLEAN = {
    "__init__.py": "__version__ = '1'\n",
    "types.py": "import jax\n",
    "errors.py": "",
    "config/__init__.py": "",
    "config/load.py": "import os\nfrom jaxprop.config.schema import A\nfrom jaxprop.errors import E\n",
    "config/schema.py": "import pydantic\n",
    "train/step.py": "import jax\nfrom jaxprop import types\n",
    "run/train.py": "import jaxprop\nfrom jaxprop.train.step import f\nprint(jaxprop.__version__)\n",
}
PLANTED = [
    ("ranks", {"types.py": "from jaxprop.train.step import f\n"}, "types:1: imports train/step, upward"),
    ("ranks", {"errors.py": "from jaxprop import types\n"}, "errors:1: imports types, sideways"),
    ("ranks", {"errors.py": "from . import types\n"}, "errors:1: imports types, sideways"),
    ("ranks", {"config/load.py": "from ..train.step import f\n"}, "config/load:1: imports train/step, upward"),
    (
        "ranks",
        {"config/load.py": "from .schema import A\nfrom ..train import step\n"},
        "config/load:2: imports train/step, upward",
    ),
    ("ranks", {"errors.py": "import jaxprop.train.step as s\n"}, "errors:1: imports train/step, upward"),
    ("ranks", {"errors.py": "def f():\n  from jaxprop.train import step\n"}, "errors:2: imports train/step, upward"),
    (
        "ranks",
        {"errors.py": "if TYPE_CHECKING:\n  import jaxprop.train.step\n"},
        "errors:2: imports train/step, upward",
    ),
    ("ranks", {"train/step.py": "import jaxprop\njaxprop.make_train_step\n"}, "train/step:1: imports __init__, upward"),
    (
        "ranks",
        {"train/step.py": "import jaxprop\njaxprop.run.train.train()\n"},
        "train/step:1: imports __init__, upward",
    ),
    ("ranks", {"train/step.py": "from jaxprop import make_train_step\n"}, "train/step:1: imports __init__, upward"),
    ("ranks", {"novelty/one.py": ""}, "novelty/one: has no rank; give it one in RANKS and in the design"),
    ("ranks", {"novelty.py": ""}, "novelty: lies beside the rooms; put it into one"),
    (
        "ranks",
        {"tools/a.py": "from jaxprop.report import x\n", "report/__init__.py": ""},
        "tools/a:1: imports report/__init__, sideways",
    ),
    ("cycles", {"config/schema.py": "from jaxprop.config import load\n"}, "import cycle: config/"),
    (
        "cycles",
        {"config/__init__.py": "from .load import f\n", "config/schema.py": "from . import f\n"},
        "import cycle",
    ),
    ("purity", {"train/step.py": "import os.path\n"}, "train/step:1: imports os"),
    ("purity", {"models/mlp.py": "def f():\n  from time import time\n"}, "models/mlp:2: imports time"),
    ("purity", {"core/trees.py": "\nprint(1)\n"}, "core/trees:2: calls print"),
    ("purity", {"losses/huber.py": "with open('x') as f: pass\n"}, "losses/huber:1: calls open"),
    ("config without jax", {"config/schema.py": "import jax.numpy\n"}, "config/schema:1: imports jax, and"),
    ("config without jax", {"config/load.py": "def f():\n  import optax\n"}, "config/load:2: imports optax, and"),
    ("config without jax", {"errors.py": "import flax\n"}, "errors:1: imports flax, and config/ needs errors"),
    ("config without jax", {"__init__.py": "import jaxprop.types\n"}, "types:1: imports jax, and config/ needs types"),
    ("imports by string", {"train/step.py": "importlib.import_module('os')\n"}, "train/step:1: imports by a string"),
    ("sizes", {"train/step.py": "\n" * 501}, "train/step: 501 lines, more than 500"),
    ("sizes", {"train/step.py": "def f():\n" + "  x = 1\n" * 60}, "train/step:1: f has 61 lines, more than 60"),
]


def write(folder, files):
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return parse(folder)


@pytest.mark.parametrize("check", CHECKS)
def test_the_checker_lets_a_clean_tree_pass(tmp_path, check):
    assert list(CHECKS[check](write(tmp_path, CLEAN))) == []


@pytest.mark.parametrize(("check", "files", "problem"), PLANTED)
def test_the_checker_finds_what_is_planted(tmp_path, check, files, problem):
    found = list(CHECKS[check](write(tmp_path, CLEAN | files)))
    assert len(found) == 1
    assert found[0].startswith(problem)


def test_typing_only_imports_do_not_load_jax(tmp_path):
    guarded = {"__init__.py": "if TYPE_CHECKING:\n  from jaxprop import types\n"}
    assert list(config_problems(write(tmp_path, CLEAN | guarded))) == []


def test_docstrings_do_not_make_a_function_long(tmp_path):
    long = {"step.py": 'def f():\n  """' + "text\n" * 100 + '"""\n  return 1\n'}
    assert list(size_problems(write(tmp_path, long))) == []


def test_a_test_file_of_no_module_is_found(tmp_path):
    for name in ("test_top.py", "run/test_init.py", "run/test_loop.py", "run/test_lost.py", "run/helper.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert list(unmirrored(tmp_path, ["run/__init__", "run/loop"])) == ["run/test_lost.py"]


def test_only_comments_count_as_suppressions():
    comment = "x = 1  # type: " + "ignore\n"
    assert suppressions([comment, "y = 2\n", 'z = "# noqa"\n']) == (1, 3)

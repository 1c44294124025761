"""The shape of the source: who imports whom, what every module comes with, and how long a file may be.

Packages import downwards only:

    _fast <- shm, runtime <- security <- config, mcp, telemetry, demo <- admin, worker <- supervisor <- cli

- `_fast` knows nothing of agw outside itself; its stubs may name types of the plan;
- `config` is known to the command line, `explain` and the supervisor only: workers get a plan;
- the control channel is the one module of the supervisor that its children share.
"""

from __future__ import annotations

import ast
import os
import re
from collections import defaultdict
from itertools import chain
from pathlib import Path

import pytest

from agw.config import load_file
from agw.runtime.compile import compile_plan
from agw.runtime.snapshot import LabelIndex, Labels

ROOT = Path(__file__).resolve().parents[1]
AGW = ROOT / "agw"
PYTHON = sorted(AGW.rglob("*.py"))
PYX = sorted((AGW / "_fast").glob("*.pyx"))
FAST = sorted(chain((AGW / "_fast").glob("*.pyx"), (AGW / "_fast").glob("*.pxd")))
OURS = [
    path
    for folder in (AGW, ROOT / "tests", ROOT / "bench", ROOT / "config", ROOT / "docs")
    for path in sorted(folder.rglob("*"))
    if path.suffix in (".py", ".pyx", ".pxd", ".pyi", ".md", ".yaml", ".sh", ".lua", ".tmpl")
    and not {"__pycache__", ".venv", "vectors", "node_modules", "results"} & set(path.parts)
    and not any(part.startswith(".") for part in path.relative_to(ROOT).parts)
]

MAY_IMPORT = {
    "_fast": set(),
    "shm": {"_fast"},
    "runtime": {"_fast"},
    "config": {"_fast", "runtime", "security"},
    "telemetry": {"shm"},
    "demo": {"admin"},
    "admin": {"_fast", "demo", "runtime", "security", "shm", "telemetry"},
    "mcp": {"_fast", "runtime", "security", "__init__"},
    "security": {"_fast", "runtime", "shm"},
    "worker": {"_fast", "mcp", "runtime", "security", "shm"},
    "supervisor": {"_fast", "admin", "config", "runtime", "shm", "telemetry", "worker"},
    "explain": {"config", "explain_rules", "runtime"},
    "explain_rules": {"_fast", "runtime", "security"},
    "cli": {"_fast", "config", "explain", "runtime", "supervisor", "telemetry"},
    "__main__": {"cli"},
    "__init__": set(),
}
"""By package or module directly under agw: what else of agw it may import."""

SHARED = {
    ("admin.helper", "supervisor.channel"): "a child's end of the control channel",
    ("worker.worker", "supervisor.channel"): "a child's end of the control channel",
    ("config.mcp_backends", "mcp.revisions"): "the methods a time-out can be for",
}
"""Single modules that may, and why."""

NARROW = {
    ("demo", "admin"): {"admin.guard", "admin.http", "admin.message"},
    ("admin", "demo"): {"demo.server"},
}
"""Of these packages only these modules: the demo is served by the helper's HTTP server and started by the helper."""

MAX_LINES = 700
LONGER = {
    "agw/_fast/http1.pyx": 1100,
    "agw/_fast/exchange.pyx": 1450,
    "agw/_fast/downstream.pyx": 800,
    "tests/integration/http/test_forwarding.py": 900,
    "tests/integration/http/test_upstream_faults.py": 900,
}
"""Files that are two concepts long and not split yet; nobody may join them."""


def module_of(path: Path) -> str:
    """`worker.worker` for agw/worker/worker.py."""
    parts = path.relative_to(AGW).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def for_types_only(tree: ast.AST) -> set[int]:
    """The nodes below `if TYPE_CHECKING:`, by identity."""
    blocks = [node for node in ast.walk(tree) if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"]
    return {id(inner) for block in blocks for part in block.body for inner in ast.walk(part)}


def imported(path: Path, *, types: bool = True) -> set[str]:
    """Modules of agw that a Python file imports anywhere, without the leading `agw.`; `from agw import x` is no edge.

    `types` False leaves out what only the type checker sees.
    """
    found: set[str] = set()
    tree = ast.parse(path.read_text())
    left_out: set[int] = set() if types else for_types_only(tree)
    for node in ast.walk(tree):
        if id(node) in left_out:
            continue
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            base = node.module or ""
            folder = ROOT / base.replace(".", "/")
            modules = {file.stem for file in folder.glob("*.py*")} if folder.is_dir() else set()
            names = [f"{base}.{alias.name}" if alias.name in modules else base for alias in node.names]
        else:
            continue
        found |= {name.removeprefix("agw.") for name in names if name.startswith("agw.")}
    return found


EDGES = {(module_of(path), target) for path in PYTHON for target in imported(path)}
LOADED = {(module_of(path), target) for path in PYTHON for target in imported(path, types=False)}


def package(module: str) -> str:
    return module.partition(".")[0]


# ------------------------------------------------------------------------------------------------------ import graph


def test_the_graph_is_seen() -> None:
    assert len(EDGES) > 80
    assert {package(module) for module, _ in EDGES} <= MAY_IMPORT.keys()
    assert ("worker.worker", "_fast.acceptor") in EDGES
    assert ("cli", "supervisor.supervisor") in EDGES


def test_imports_point_one_way() -> None:
    wrong = [
        f"{module} imports {target}"
        for module, target in sorted(EDGES)
        if package(target) != package(module) and package(target) not in MAY_IMPORT[package(module)] and (module, target) not in SHARED
    ]
    assert wrong == []


def test_exceptions_are_in_use_and_lead_to_a_leaf() -> None:
    assert SHARED.keys() <= EDGES
    for _, target in SHARED:
        assert [edge for edge in EDGES if edge[0] == target] == []


def test_packages_that_know_each_other_do_so_through_few_modules() -> None:
    for (importer, target), allowed in NARROW.items():
        used = {t for m, t in EDGES if package(m) == importer and package(t) == target}
        assert used <= allowed, (importer, used - allowed)


def test_no_circle_of_modules() -> None:
    # Within one package two modules may name each other's types: a session and the view it belongs to, say. Loading goes one way.
    following = defaultdict(set)
    for module, target in EDGES:
        if (module, target) in LOADED or package(module) != package(target):
            following[module].add(target)
    done: set[str] = set()

    def walk(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join((*path[path.index(module) :], module))
        if module not in done:
            for target in sorted(following[module]):
                walk(target, (*path, module))
            done.add(module)

    for module in sorted(following):
        walk(module, ())


def test_the_configuration_is_for_those_who_load_it() -> None:
    known = {package(module) for module, target in EDGES if package(target) == "config"} - {"config"}
    assert known == {"cli", "explain", "supervisor"}


@pytest.mark.parametrize("path", FAST, ids=lambda p: p.name)
def test_compiled_modules_import_nothing_of_agw_outside_themselves(path: Path) -> None:
    targets = re.findall(r"^\s*(?:from\s+(agw[\w.]*)\s+c?import|c?import\s+(agw[\w.]*))", path.read_text(), re.MULTILINE)
    assert [name for pair in targets for name in pair if name and not name.startswith("agw._fast")] == []


# ------------------------------------------------------------------------------------------------- compiled modules


@pytest.mark.parametrize("path", PYX, ids=lambda p: p.name)
def test_every_compiled_module_has_a_manual(path: Path) -> None:
    manual = path.with_suffix(".pyi")
    assert manual.exists()
    assert len(ast.get_docstring(ast.parse(manual.read_text())) or "") > 60
    assert f"{path.stem}.pyi for the manual" in "\n".join(path.read_text().splitlines()[:3])


def test_every_manual_documents_what_it_names() -> None:
    """Public classes, functions and methods have docstrings; constants are followed by one. Constructors whose class says it all may go without."""
    bare = []
    for path in PYX:
        tree = ast.parse(path.with_suffix(".pyi").read_text())
        owners: list[ast.Module | ast.ClassDef] = [tree, *(node for node in tree.body if isinstance(node, ast.ClassDef))]
        for owner in owners:
            for i, node in enumerate(owner.body):
                following = owner.body[i + 1] if i + 1 < len(owner.body) else None
                name = getattr(node, "name", "")
                if isinstance(node, ast.ClassDef) or (isinstance(node, ast.FunctionDef) and owner is tree):
                    documented = ast.get_docstring(node) is not None
                elif isinstance(node, ast.AnnAssign) and owner is tree:
                    name = ast.unparse(node.target)
                    documented = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
                else:
                    continue
                if not documented and not name.startswith("_"):
                    bare.append(f"{path.stem}.{name}")
    assert bare == []


def test_what_is_cimported_has_a_contract() -> None:
    targets = {name for path in FAST for name in re.findall(r"^from agw\._fast\.(\w+) cimport", path.read_text(), re.MULTILINE)}
    assert targets
    assert {name for name in targets if not (AGW / "_fast" / f"{name}.pxd").exists()} == set()


def test_the_package_is_typed() -> None:
    assert (AGW / "py.typed").exists()


# --------------------------------------------------------------------------------------------------------- all files


@pytest.mark.parametrize("path", PYTHON, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_module_says_what_it_is_for(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text()))


def test_every_folder_of_modules_is_a_package() -> None:
    assert {path.parent for path in PYTHON if not (path.parent / "__init__.py").exists()} == set()


def test_no_file_is_too_long() -> None:
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in OURS if path.suffix in (".py", ".pyx", ".pxd", ".pyi")}
    assert {name: n for name, n in lengths.items() if n > LONGER.get(name, MAX_LINES)} == {}
    assert [name for name in LONGER if lengths.get(name, 0) <= MAX_LINES] == [], "short enough now: take it off the list"


def test_nothing_is_left_to_do() -> None:
    words = re.compile(r"\b(" + "TO" + "DO|FIX" + r"ME)\b")
    assert [str(path.relative_to(ROOT)) for path in OURS if words.search(path.read_text())] == []


def test_names_say_what_is_inside() -> None:
    vague = {"utils", "util", "common", "helpers", "misc", "manager"}
    assert [str(path.relative_to(ROOT)) for path in (*PYTHON, *FAST) if path.stem in vague] == []


@pytest.mark.parametrize("path", sorted((ROOT / "config" / "examples").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_example_loads_and_compiles(path: Path) -> None:
    loaded = load_file(str(path), os.environ)
    snapshot = compile_plan(loaded.plan, 1, LabelIndex(Labels()))
    assert snapshot.binds
    assert path.read_text().startswith("#"), "an example begins with what it shows"

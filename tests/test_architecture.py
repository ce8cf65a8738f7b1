"""The rings, the homes of libraries, the purity of core: read from the sources with ast."""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LINES_MAX = 400
FUNCTION_LINES_MAX = 70

# The composition root and its small relatives: each builds a whole of parts, or says how. The command
# line may use them; those that need less than everything are named below.
ROOTS = {
    *("admission", "alerting", "app", "certify", "demo", "facts", "farming", "offline", "opening"),
    *("provisioning", "replay", "transfer", "upkeep", "vitals", "wiring"),
}
# ring → rings it may import; every ring may import itself and gateway.errors.
RINGS: dict[str, set[str]] = {
    "core": set(),
    "errors": set(),
    "ports": {"core"},
    "store": {"core"},
    "services": {"core", "store", "ports"},
    "drivers": {"core", "ports"},
    "web": {"core", "store", "ports"},
    "config": {"core"},
    "supervisor": {"core", "ports"},
    "cli": {*ROOTS, "config", "core"},
    "__main__": {"cli", *ROOTS, "config", "core"},
    "__init__": set(),
}
RINGS |= {root: {*RINGS, *ROOTS} - {"cli", "__main__"} for root in ROOTS}
RINGS |= {
    "admission": {"core", "drivers", "store"},
    "certify": {"config", "core", "drivers"},
    "farming": {"config", "core", "store"},
    "offline": {"config", "core", "store"},
    "provisioning": {"config", "core", "store"},
    "transfer": {"config", "core", "drivers", "ports", "store", "wiring"},
    "upkeep": {"config", "core", "store"},
    "vitals": {"drivers", "ports", "services", "store", "supervisor"},
}

# library → the only paths below gateway/ that may import it
HOMES: dict[str, tuple[str, ...]] = {
    "amqtt": ("drivers/broker/",),
    "gpiozero": ("drivers/panel", "drivers/relays"),
    "lgpio": ("drivers/panel", "drivers/relays"),
    "sqlite3": ("store/",),
    "tinydb": ("store/",),
    "schedule": ("services/",),
    "aiomqtt": ("drivers/",),
    "paho": ("drivers/",),
    "aiohttp": ("web/", "drivers/"),
    "apprise": ("drivers/",),
    "cryptography": ("drivers/certificates",),
    "websockets": ("drivers/broker/websocket",),
    "zeroconf": ("drivers/",),
    "numpy": ("core/", "store/", "services/"),
    "yaml": ("config/",),
    "typer": ("cli/", "__main__"),
    "rich": ("cli/", "__main__"),
    "segno": ("cli/",),
    "sensor_sim": ("cli/", "app", "demo"),  # the demo; the wire format is the only other bond
}

# What core may use of the standard library: nothing that waits, reads, writes, logs or rolls dice.
# hmac is hashlib with a key, and compares in constant time; secrets, which rolls dice, stays out.
# fmt: off
CORE_MODULES = frozenset({
    "__future__", "abc", "array", "base64", "binascii", "bisect", "collections", "copy",
    "dataclasses", "datetime", "decimal", "enum", "fractions", "functools", "gzip", "hashlib",
    "heapq", "hmac", "ipaddress", "itertools", "json", "math", "operator", "re", "statistics", "string",
    "struct", "types", "typing", "unicodedata", "zlib", "msgspec", "numpy",
})
# fmt: on
CORE_FORBIDDEN_CALLS = frozenset({"open", "print", "input", "exec", "eval", "breakpoint"})
CORE_FORBIDDEN_METHODS = frozenset(
    {"now", "utcnow", "today", "tofile", "fromfile", "loadtxt", "savetxt", "save"}
)
CORE_FORBIDDEN_NUMPY = frozenset({"random", "memmap"})

BROAD = frozenset({"Exception", "BaseException"})
MAY_CATCH_ALL = ("supervisor", "services/detect", "services/jobs")  # a task, a detector, a job


def modules(package: str) -> dict[str, ast.Module]:
    """Path below the package, without .py → its tree."""
    base = ROOT / package
    return {
        path.relative_to(base).with_suffix("").as_posix(): ast.parse(path.read_text(encoding="utf-8"))
        for path in sorted(base.rglob("*.py"))
    }


def imports(tree: ast.AST, module: str, package: str = "gateway") -> Iterator[str]:
    """Dotted names of everything imported, anywhere in a module; relative ones resolved."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = [package, *module.split("/")][: -node.level]
                base = ".".join([*parts, base] if base else parts)
            yield from (f"{base}.{alias.name}" for alias in node.names)


def ring_of(module: str) -> str:
    return module.split("/", 1)[0]


def ring_faults(module: str, tree: ast.AST) -> list[str]:
    allowed = RINGS[ring_of(module)] | {ring_of(module), "errors"}
    found = []
    for name in imports(tree, module):
        parts = name.split(".")
        if parts[0] == "gateway" and len(parts) > 1 and parts[1] in RINGS and parts[1] not in allowed:
            found.append(f"{module} imports {name}")
    return found


def private_faults(module: str, tree: ast.AST) -> list[str]:
    """Names with an underscore that belong to another module of ours."""
    found = [
        f"{module} imports {name}"
        for name in imports(tree, module)
        if name.startswith("gateway.") and _private(name.rpartition(".")[2])
    ]
    ours = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").startswith("gateway"))
        for alias in node.names
    }
    return found + [
        f"{module}:{node.lineno} uses {node.value.id}.{node.attr}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id in ours
        and _private(node.attr)
    ]


def _private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def home_faults(module: str, tree: ast.AST) -> list[str]:
    return [
        f"{module} imports {name}"
        for name in imports(tree, module)
        if (homes := HOMES.get(name.split(".")[0])) and not module.startswith(homes)
    ]


def purity_faults(module: str, tree: ast.AST) -> list[str]:
    found = [
        f"{module} imports {name}"
        for name in imports(tree, module)
        if name.split(".")[0] not in CORE_MODULES | {"gateway"}
    ]
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = node.func
            if isinstance(called, ast.Name) and called.id in CORE_FORBIDDEN_CALLS:
                found.append(f"{module}:{node.lineno} calls {called.id}")
            if isinstance(called, ast.Attribute) and called.attr in CORE_FORBIDDEN_METHODS:
                found.append(f"{module}:{node.lineno} calls .{called.attr}")
        if (
            isinstance(node, ast.Attribute)
            and node.attr in CORE_FORBIDDEN_NUMPY
            and isinstance(node.value, ast.Name)
            and node.value.id in {"np", "numpy"}
        ):
            found.append(f"{module}:{node.lineno} uses numpy.{node.attr}")
    return found


def catch_all_faults(module: str, tree: ast.AST) -> list[str]:
    """Broad handlers that swallow; one that raises again or hands the error to a future does not."""
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.ExceptHandler):
            continue
        caught = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
        names = {one.id for one in caught if isinstance(one, ast.Name)}
        passes_on = isinstance(node.body[-1], ast.Raise) or any(
            isinstance(one, ast.Attribute) and one.attr == "set_exception" for one in ast.walk(node)
        )
        if (node.type is None or names & BROAD) and not passes_on and not module.startswith(MAY_CATCH_ALL):
            found.append(f"{module}:{node.lineno} catches everything")
    return found


def cycles(graph: dict[str, set[str]]) -> list[str]:
    """Modules that reach themselves, by taking away those that import nothing more."""
    left = {name: set(needs) & set(graph) - {name} for name, needs in graph.items()}
    while free := [name for name, needs in left.items() if not needs]:
        for name in free:
            del left[name]
        left = {name: needs - set(free) for name, needs in left.items()}
    while ends := [name for name in left if not any(name in needs for needs in left.values())]:
        for name in ends:
            del left[name]
    return sorted(left)


def without_type_checking(tree: ast.Module) -> ast.Module:
    """The tree less what only a type checker runs: two types may know each other."""

    class Drop(ast.NodeTransformer):
        def visit_If(self, node: ast.If) -> ast.AST | None:
            typing = isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
            return None if typing else self.generic_visit(node)

    return Drop().visit(copy.deepcopy(tree))  # type: ignore[no-any-return]


def import_graph() -> dict[str, set[str]]:
    sources = modules("gateway")
    names = {f"gateway.{module.replace('/', '.')}".removesuffix(".__init__"): module for module in sources}
    graph: dict[str, set[str]] = {}
    for name, module in names.items():
        needs = set()
        for imported in imports(without_type_checking(sources[module]), module):
            if imported in names:
                needs.add(imported)
            elif imported.rpartition(".")[0] in names:
                needs.add(imported.rpartition(".")[0])
        graph[name] = needs
    return graph


GATEWAY = modules("gateway")


def test_every_module_belongs_to_a_ring() -> None:
    assert {ring_of(module) for module in GATEWAY} <= set(RINGS)


@pytest.mark.parametrize(
    "check",
    [ring_faults, home_faults, private_faults, catch_all_faults],
    ids=lambda check: check.__name__,
)
def test_gateway(check: object) -> None:
    assert callable(check)
    assert [fault for module, tree in GATEWAY.items() for fault in check(module, tree)] == []


def test_core_is_pure() -> None:
    core = {module: tree for module, tree in GATEWAY.items() if ring_of(module) == "core"}
    assert core
    assert [fault for module, tree in core.items() for fault in purity_faults(module, tree)] == []


def test_no_module_imports_itself_in_a_circle() -> None:
    assert cycles(import_graph()) == []


def test_the_simulator_knows_nothing_of_the_gateway() -> None:
    sources = modules("sensor_sim")
    faults = [
        f"{module} imports {name}"
        for module, tree in sources.items()
        for name in imports(tree, module, "sensor_sim")
        if name.split(".")[0] == "gateway"
    ]
    assert faults == []


@pytest.mark.parametrize("package", ["gateway", "sensor_sim"])
def test_files_and_functions_stay_small(package: str) -> None:
    """A smoke alarm, not a target: what grows past it has more than one reason to change."""
    faults = []
    for path in sorted((ROOT / package).rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        where = path.relative_to(ROOT)
        if (count := text.count("\n")) > LINES_MAX:
            faults.append(f"{where}: {count} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > FUNCTION_LINES_MAX:
                    faults.append(f"{where}:{node.lineno} {node.name}: {length} lines")
    assert faults == []


@pytest.mark.parametrize("package", ["gateway", "sensor_sim"])
def test_every_module_says_what_it_is_for(package: str) -> None:
    assert [module for module, tree in modules(package).items() if not ast.get_docstring(tree)] == []


def test_no_module_is_a_drawer_for_everything() -> None:
    drawers = {"utils", "util", "helpers", "helper", "common", "manager", "misc"}
    names = {
        part
        for package in ("gateway", "sensor_sim")
        for module in modules(package)
        for part in module.split("/")
    }
    assert names & drawers == set()


# --- the checks themselves bite ---------------------------------------------------------


@pytest.mark.parametrize(
    ("check", "module", "source"),
    [
        (ring_faults, "core/x", "from gateway.store import database"),
        (ring_faults, "store/x", "import gateway.ports"),
        (ring_faults, "services/x", "from gateway.drivers.panel import make"),
        (ring_faults, "services/x", "from ..drivers import panel"),
        (ring_faults, "drivers/broker/x", "def f():\n    from gateway.services import ingest"),
        (ring_faults, "web/x", "from gateway import app"),
        (ring_faults, "cli/x", "from gateway.store.database import Database"),
        (ring_faults, "transfer/x", "from gateway.services import ingest"),
        (ring_faults, "upkeep", "from gateway.web import api"),
        (private_faults, "store/x", "from gateway.store.rollups import _encode"),
        (private_faults, "store/x", "from gateway.store import rollups as r\nr._encode()"),
        (private_faults, "store/x", "from . import rollups\nrollups._encode()"),
        (home_faults, "services/x", "import sqlite3"),
        (home_faults, "drivers/uplink", "from amqtt.client import MQTTClient"),
        (home_faults, "drivers/uplink", "import gpiozero.pins.mock"),
        (home_faults, "app", "import schedule"),
        (purity_faults, "core/x", "import asyncio"),
        (purity_faults, "core/x", "from pathlib import Path"),
        (purity_faults, "core/x", "import logging"),
        (purity_faults, "core/x", "from datetime import datetime\nT = datetime.now()"),
        (purity_faults, "core/x", "import numpy as np\nR = np.random.default_rng(1)"),
        (purity_faults, "core/x", "open('/etc/passwd')"),
        (catch_all_faults, "services/x", "try:\n    pass\nexcept (ValueError, Exception):\n    pass"),
        (catch_all_faults, "store/x", "try:\n    pass\nexcept:\n    pass"),
    ],
)
def test_a_breach_is_found(check: object, module: str, source: str) -> None:
    assert callable(check)
    assert len(check(module, ast.parse(source))) == 1


@pytest.mark.parametrize(
    ("check", "module", "source"),
    [
        (
            ring_faults,
            "services/x",
            "from gateway.core.readings import Reading\nfrom gateway.errors import StoreError",
        ),
        (ring_faults, "app", "from gateway.drivers import panel"),
        (private_faults, "store/x", "from gateway import __version__\nimport os\nos._exit(0)"),
        (home_faults, "store/database", "import sqlite3"),
        (home_faults, "drivers/panel_pins", "import gpiozero"),
        (purity_faults, "core/x", "import numpy as np\nfrom datetime import UTC, datetime"),
        (catch_all_faults, "store/x", "try:\n    pass\nexcept BaseException:\n    undo()\n    raise"),
        (catch_all_faults, "store/x", "try:\n    pass\nexcept BaseException as e:\n    f.set_exception(e)"),
        (catch_all_faults, "services/detect", "try:\n    pass\nexcept Exception:\n    pass"),
    ],
)
def test_what_is_allowed_is_not_found(check: object, module: str, source: str) -> None:
    assert callable(check)
    assert check(module, ast.parse(source)) == []


def test_circles_are_found() -> None:
    assert cycles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == ["b", "c"]
    assert cycles({"a": {"b"}, "b": {"c"}, "c": set()}) == []

"""Imports go down only, libraries stay in their rooms, and nobody keeps state in a module."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "cortex"

FLOORS = {
    0: {"causes", "errors", "events", "ask", "places", "catalogue", "units", "demo"},
    1: {"config", "wire"},
    2: {"router", "evictor", "translator", "text"},
    3: {"ledger", "metrics", "logs", "keys", "weights", "openapi"},
    4: {"dispatch", "harness", "web", "hub", "notify", "workers"},
    5: {"gateway", "neuron", "status", "connect"},
    6: {"cli"},
    7: {"__main__"},
}
FLOOR = {room: floor for floor, rooms in FLOORS.items() for room in rooms}

# Which files may import a library; a folder stands for all its files. None: floors 4 to 6.
HOMES: dict[str, set[str] | None] = {
    "trio": None,
    "logging": {"logs"},
    "quart": {"web/application", "gateway/app", "neuron/app"},
    "quart_trio": {"web/application", "gateway/app", "neuron/app"},
    "werkzeug": {"web/application"},
    "hypercorn": {"web/control"},
    "httpx": {"harness/upstream", "hub/client", "hub/reach", "status"},
    "typer": {"cli"},
    "tomlkit": {"config/editing", "connect/formats/toml_text"},
    "yaml": {"connect/formats/yaml_text"},
    "rich": {"cli", "status/view"},
    "prometheus_client": {"metrics"},
    "jinja2": {"text/template", "text/sandbox", "text/budget"},
    "tokenizers": {"harness"},
    "httptools": {"web"},
    "dns": {"gateway/discovery"},
    "huggingface_hub": {"hub"},
    "psutil": {"neuron/devices", "neuron/doctor", "cli"},
    "pynvml": {"neuron/devices"},
    "torch": {"harness/exllamav2"},
    "exllamav2": {"harness/exllamav2"},
    "triton": {"harness/exllamav2"},
    "llguidance": {"harness/exllamav2"},
    "numpy": {"harness/exllamav2"},
    "xllamacpp": {"harness/llamacpp"},
    "msgspec": {
        "events",
        "config",
        "wire",
        "translator",
        "text",
        "hub/client",
        "web",
        "weights",
        "harness",
        "gateway",
        "neuron",
        "openapi",
        "status",
        "connect",
        "workers",
        "cli",
    },
}


# What a host that has no such engine may lack.
ENGINE_LIBRARIES = {"torch", "exllamav2", "triton", "xllamacpp", "tokenizers", "llguidance", "numpy"}

# What computes attention imports torch at its top, and is imported by the thread of a device alone.
ON_A_DEVICE = {
    f"harness/exllamav2/{name}" for name in ("agreement", "flash", "kernels", "masked", "paged", "tiled")
}


def modules() -> list[Path]:
    return sorted(ROOT.rglob("*.py"))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).with_suffix("").as_posix()


def room_of(path: Path) -> str:
    return name_of(path).split("/")[0]


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def imports(path: Path) -> Iterator[tuple[str, int, bool]]:
    """(dotted name, line, whether it is imported only when a function is called, or for types alone),
    relative imports excluded by style."""
    tree = tree_of(path)
    inside = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.FunctionDef | ast.AsyncFunctionDef) or for_types(block)
        for node in ast.walk(block)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno, id(node) in inside
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute"
            if node.module == "cortex":
                for alias in node.names:
                    yield f"cortex.{alias.name}", node.lineno, id(node) in inside
            else:
                yield node.module or "", node.lineno, id(node) in inside


def for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def floor_of(path: Path) -> int | None:
    return FLOOR.get(room_of(path))


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_a_module_imports_only_from_its_own_room_and_the_floors_below(path: Path) -> None:
    if path == ROOT / "__init__.py":
        assert not list(imports(path))
        return
    floor = floor_of(path)
    assert floor is not None, f"{name_of(path)} stands on no floor"
    for name, line, _ in imports(path):
        parts = name.split(".")
        if parts[0] != "cortex" or len(parts) == 1:
            continue
        room = parts[1]
        if room == room_of(path) or room == "__version__":
            continue
        if floor == 0 and FLOOR.get(room) == 0:
            continue  # words are made of words
        below = FLOOR.get(room)
        assert below is not None, f"{path}:{line}: cortex.{room} stands on no floor"
        assert below < floor, f"{path}:{line}: floor {floor} imports {name} of floor {below}"


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_a_library_is_imported_only_where_it_lives(path: Path) -> None:
    name = name_of(path)
    for dotted, line, _ in imports(path):
        library = dotted.split(".")[0]
        if library == "cortex" or (library in sys.stdlib_module_names and library != "logging"):
            continue
        assert library in HOMES, f"{path}:{line}: {library} has no home"
        homes = HOMES[library]
        allowed = (
            (floor_of(path) or 0) >= 4
            if homes is None
            else any(name == home or name.startswith(home + "/") for home in homes)
        )
        if library == "logging" and (floor_of(path) or 0) >= 4:
            allowed = True
        assert allowed, f"{path}:{line}: {library} does not belong in {name}"


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_an_engine_library_is_imported_inside_functions_only(path: Path) -> None:
    if name_of(path) in ON_A_DEVICE:
        return
    for dotted, line, inside in imports(path):
        if dotted.split(".")[0] in ENGINE_LIBRARIES:
            assert inside, f"{path}:{line}: {dotted} would be imported on hosts that lack it"


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_what_imports_torch_at_its_top_is_imported_inside_functions_only(path: Path) -> None:
    if name_of(path) in ON_A_DEVICE:
        return
    for node in tree_of(path).body:
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                for dotted in (node.module or "", f"{node.module}.{alias.name}"):
                    name = dotted.removeprefix("cortex.").replace(".", "/")
                    assert name not in ON_A_DEVICE, f"{path}:{node.lineno}: {dotted} imports torch"


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_nothing_below_the_machinery_is_async(path: Path) -> None:
    if (floor_of(path) or 0) >= 4:
        return
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.AsyncFunctionDef) and node.name != "__call__" and room_of(path) != "metrics":
            pytest.fail(f"{path}:{node.lineno}: async def {node.name}")


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_no_module_keeps_state(path: Path) -> None:
    tree = tree_of(path)
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Global)]
    for node in tree.body:
        if isinstance(node, ast.AnnAssign) and "Final" in ast.unparse(node.annotation):
            continue
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            names = ast.unparse(node.targets[0] if isinstance(node, ast.Assign) else node.target)
            mutable = isinstance(
                node.value, ast.List | ast.Dict | ast.Set | ast.ListComp | ast.DictComp | ast.SetComp
            )
            assert names == "__all__" or not mutable, (
                f"{path}:{node.lineno}: {names} is mutable; Final says it is not"
            )


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_every_module_says_what_it_is(path: Path) -> None:
    assert ast.get_docstring(tree_of(path)), path


def test_no_file_has_a_name_that_says_nothing() -> None:
    banned = {"utils", "common", "helpers", "misc", "manager", "types", "core", "handlers"}
    assert not [path for path in modules() if path.stem in banned]
    assert [name_of(path) for path in modules() if path.stem == "base"] in ([], ["harness/base"])

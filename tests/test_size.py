"""Files, functions and argument lists stay under their ceilings."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILE_LINES, FUNCTION_LINES, ARGUMENTS = 400, 50, 6

MODULES = sorted((ROOT / "cortex").rglob("*.py"))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def on_a_gpu(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """A launch takes no struct: whatever the GPU is told comes as arguments."""
    return any(ast.unparse(each) == "triton.jit" for each in function.decorator_list)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_file_fits_in_one_head(path: Path) -> None:
    ceiling = 80 if path.name == "__init__.py" and path.parent.name != "cortex" else FILE_LINES
    assert len(path.read_text().splitlines()) <= ceiling


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_function_fits_on_one_screen(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            assert lines <= FUNCTION_LINES, f"{path}:{node.lineno}: {node.name} has {lines} lines"


@pytest.mark.parametrize("path", [path for path in MODULES if path.name != "cli.py"], ids=name_of)
def test_a_function_takes_few_arguments(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not on_a_gpu(node):
            arguments = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
            counted = [a.arg for a in arguments if a.arg not in {"self", "cls", "task_status"}]
            # A constructor of an error or of a service may name more facts than a verb may.
            ceiling = ARGUMENTS + 2 if node.name == "__init__" else ARGUMENTS
            assert len(counted) <= ceiling, f"{path}:{node.lineno}: {node.name}({', '.join(counted)})"

"""The house rules: layering, stubs, versions, file sizes, no pickles, and examples that run."""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import rdprune_core
from rdprune_core import _core

ROOT = Path(__file__).parents[2]
CORE = ROOT / "rdprune_core"
TORCH_LAYER = ROOT / "python" / "rdprune"

pytestmark = pytest.mark.skipif(
    not (CORE / "_core.pyi").exists(), reason="needs the source tree around the tests"
)


def sources(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.py"))


def imported(tree: ast.AST) -> Iterator[str]:
    """Every module that a file imports, wherever in it; `from a import b` gives a and a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def top_level(tree: ast.Module) -> ast.Module:
    """Without the bodies of functions and `if TYPE_CHECKING`, which do not run at import."""

    class Drop(ast.NodeTransformer):
        def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
            return None

        def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
            return None

        def visit_If(self, node: ast.If) -> ast.AST | None:
            return None if "TYPE_CHECKING" in ast.dump(node.test) else self.generic_visit(node)

    stripped = Drop().visit(tree)
    assert isinstance(stripped, ast.Module)
    return stripped


def module_name(path: Path) -> str:
    base = ROOT if path.is_relative_to(CORE) else ROOT / "python"
    parts = path.relative_to(base).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def core_modules() -> list[str]:
    return [module_name(path) for path in sources(CORE)]


def test_only_the_bindings_know_python() -> None:
    """In csrc, bindings.cpp alone includes pybind11 or Python's headers."""
    pattern = re.compile(r'#\s*include\s*[<"](pybind11/|Python\.h|numpy/)')
    found = [p.name for p in sorted((ROOT / "csrc").iterdir()) if pattern.search(p.read_text())]
    assert found == ["bindings.cpp"]


@pytest.mark.parametrize("path", sources(CORE), ids=lambda path: path.name)
def test_the_core_imports_nothing_above_it(path: Path) -> None:
    """rdprune_core takes from the standard library, numpy and itself, and nothing else."""
    for name in imported(ast.parse(path.read_text())):
        package = name.split(".")[0]
        assert package in {*sys.stdlib_module_names, "numpy", "rdprune_core"}, name


def test_importing_the_core_loads_no_torch(tmp_path: Path) -> None:
    """In a fresh interpreter `import rdprune_core` brings in neither torch, scipy nor rdprune."""
    modules = [name for name in core_modules() if not name.startswith("rdprune_core._")]
    code = (
        f"import sys, {', '.join(modules)}\n"
        "print(*sorted({'torch', 'scipy', 'rdprune', 'pandas', 'hypothesis'} & set(sys.modules)))"
    )
    # From elsewhere: the folder of the sources, where nothing is compiled, must not be first.
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.strip() == ""


@pytest.mark.parametrize("folder", [CORE, TORCH_LAYER], ids=lambda path: path.name)
def test_imports_have_no_cycle(folder: Path) -> None:
    """No two files of a package import each other, directly or through others, at import time."""
    names = {module_name(path) for path in sources(folder)}
    graph = {}
    for path in sources(folder):
        own = module_name(path)
        used = {name for name in imported(top_level(ast.parse(path.read_text()))) if name in names}
        # A submodule's import of `package` for its other submodules is not a use of the package.
        graph[own] = used - {own, *(own[:i] for i, c in enumerate(own) if c == ".")}
    TopologicalSorter(graph).prepare()


def test_measuring_and_masking_do_not_know_each_other() -> None:
    """Neither imports the other, in functions or outside."""
    for one, other in (("measur", "mask"), ("mask", "measur")):
        for path in TORCH_LAYER.glob(f"{one}*.py"):
            names = list(imported(ast.parse(path.read_text())))
            assert not [name for name in names if name.startswith(f"rdprune.{other}")], path.name


def members(body: list[ast.stmt]) -> dict[str, ast.stmt]:
    found: dict[str, ast.stmt] = {}
    for node in body:
        if isinstance(node, ast.AnnAssign):
            assert isinstance(node.target, ast.Name)
            found[node.target.id] = node
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found[node.name] = node
    return found


def test_the_stub_lists_what_the_module_has() -> None:
    """_core.pyi and the compiled module have the same public names, properties and arguments."""
    stub = members(ast.parse((CORE / "_core.pyi").read_text()).body)
    public = {name for name in vars(_core) if not name.startswith("_")}
    assert {name for name in stub if not name.startswith("_")} == public
    assert isinstance(_core.__version__, str)
    for name, node in stub.items():
        value = getattr(_core, name)
        if isinstance(node, ast.ClassDef):
            assert inspect.isclass(value)
            if not issubclass(value, Exception):
                has = {key for key in vars(value) if not key.startswith("_")}
                assert {key for key in members(node.body) if not key.startswith("_")} == has
        elif isinstance(node, ast.FunctionDef):
            # pybind11 writes the signature into the first line of the docstring.
            signature = value.__doc__.splitlines()[0]
            arguments = re.findall(r"(\w+): ", signature)
            expected = [a.arg for a in node.args.args + node.args.kwonlyargs]
            assert arguments[: len(expected)] == expected
            assert ("*, " in signature) == bool(node.args.kwonlyargs)


def test_versions_agree() -> None:
    """pyproject.toml, the package and the compiled module state one version."""
    match = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert match is not None
    assert rdprune_core.__version__ == _core.__version__ == match[1]
    torch_layer = (TORCH_LAYER / "__init__.py").read_text()
    stated = re.findall(r'^__version__.*= "(.+)"', torch_layer, re.MULTILINE)
    assert set(stated) <= {match[1]}


def code_files() -> list[Path]:
    found = [*(ROOT / "csrc").iterdir(), *CORE.glob("*.pyi"), *sources(CORE)]
    return [*found, *sources(ROOT / "python")]


@pytest.mark.parametrize("path", code_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_files_are_short(path: Path) -> None:
    """No file of the product is longer than 400 lines."""
    assert len(path.read_text().splitlines()) <= 400


@pytest.mark.parametrize("path", code_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_unpickles(path: Path) -> None:
    """No source loads a pickle, however it might be spelt."""
    if path.suffix != ".py":
        return
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            roots = {name.split(".")[0] for name in imported(node)}
            assert not roots & {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve"}
        elif isinstance(node, ast.Call):
            keywords = {k.arg: k.value for k in node.keywords}
            called = ast.unparse(node.func)
            pickles = keywords.get("allow_pickle", ast.Constant(False))
            assert isinstance(pickles, ast.Constant)
            assert pickles.value is False
            if called == "torch.load":
                only = keywords.get("weights_only")
                assert isinstance(only, ast.Constant)
                assert only.value is True


@pytest.mark.parametrize("name", [n for n in core_modules() if n != "rdprune_core._core"])
def test_examples_run(name: str) -> None:
    """Every example in a docstring of rdprune_core gives what it shows."""
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_there_are_examples() -> None:
    """Every public function of the package has an example."""
    for function in (
        rdprune_core.allocate, rdprune_core.frontier, rdprune_core.RDTable.from_arrays
    ):  # fmt: skip
        assert ">>>" in (function.__doc__ or "")


def test_public_names_are_re_exported_explicitly() -> None:
    """__init__ holds nothing but a docstring, imports `X as X`, and the version."""
    tree = ast.parse((CORE / "__init__.py").read_text())
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module != "__future__":
            assert all(alias.asname == alias.name for alias in node.names)
        assert not isinstance(node, (ast.FunctionDef, ast.ClassDef))

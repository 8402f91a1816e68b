"""Check what a source distribution or a wheel holds: everything needed, nothing else."""

from __future__ import annotations

import re
import sys
import tarfile
import zipfile
from fnmatch import fnmatch
from pathlib import Path

SDIST = {
    "needed": [
        "CHANGELOG.md",
        "CMakeLists.txt",
        "LICENSE",
        "PKG-INFO",
        "README.md",
        "csrc/solver.h",
        "csrc/solver.cpp",
        "csrc/bindings.cpp",
        "pyproject.toml",
        "python/rdprune/__init__.py",
        "python/rdprune/demo/*.safetensors",
        "python/rdprune/recipes/catalog/*.json",
        "rdprune_core/__init__.py",
        "rdprune_core/_core.pyi",
        "tests/conftest.py",
        "tests/core/*.py",
        "tests/core/fingerprint.cpp",
        "tests/core/tables.h",
        "tests/core/*_test.cpp",
        "tests/rdprune/*.py",
    ],
    "allowed": [
        *("csrc/*.h", "csrc/*.cpp", "docs/*", "python/*.py", "python/*.safetensors", "*/py.typed"),
        *("rdprune_core/*.py", "rdprune_core/*.pyi", "tests/*.py", "tests/*.cpp", "tests/*.h"),
        *("CITATION.cff", "CMakePresets.json", "Makefile", "constraints-dev.txt"),
        *(".clang-format", ".gitignore", ".pre-commit-config.yaml"),
    ],
}
WHEEL = {
    "needed": [
        "rdprune/__init__.py",
        "rdprune/cli.py",
        "rdprune/demo/*.safetensors",
        "rdprune/recipes/catalog/*.json",
        "rdprune/py.typed",
        "rdprune_core/__init__.py",
        "rdprune_core/_core.*.so",
        "rdprune_core/_core.pyi",
        "rdprune_core/py.typed",
        "*.dist-info/METADATA",
        "*.dist-info/RECORD",
        "*.dist-info/WHEEL",
        "*.dist-info/entry_points.txt",
        "*.dist-info/licenses/LICENSE",
    ],
    "allowed": ["rdprune/*.py", "rdprune_core/*.py"],
}


def names(path: Path) -> list[str]:
    """Files in the archive; those of a source distribution without its top folder."""
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as archive:
            return [name for name in archive.namelist() if not name.endswith("/")]
    with tarfile.open(path) as archive:
        return [re.sub("^[^/]*/", "", member.name) for member in archive if member.isfile()]


def main() -> None:
    """Exit with a message that names the files that are missing or should not be there."""
    path = Path(sys.argv[1])
    rules = WHEEL if path.suffix == ".whl" else SDIST
    found = names(path)
    known = rules["needed"] + rules["allowed"]
    missing = [rule for rule in rules["needed"] if not any(fnmatch(name, rule) for name in found)]
    stray = [name for name in found if not any(fnmatch(name, rule) for rule in known)]
    if missing or stray:
        sys.exit(f"{path.name}: missing {missing}, stray {stray}")
    sys.stdout.write(f"{path.name}: {len(found)} files, {path.stat().st_size / 1024:.0f} KiB\n")


if __name__ == "__main__":
    main()

"""The type stubs know every name that the package takes from its module."""

import ast
from pathlib import Path

from espalier import _core

PACKAGE = Path(_core.__file__).parent


def names_defined(tree):
    for node in tree.body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            yield node.name
        elif isinstance(node, ast.AnnAssign):
            yield node.target.id


def test_every_name_that_the_package_imports_is_in_the_stubs():
    stubs = ast.parse((PACKAGE / "_core.pyi").read_text(encoding="utf-8"))
    package = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    (imported,) = [node for node in package.body if isinstance(node, ast.ImportFrom) and node.module == "_core"]
    names = {alias.name for alias in imported.names}
    assert "CapacityError" in names and names <= set(names_defined(stubs)), names - set(names_defined(stubs))


def test_stubs_give_exceptions_the_bases_and_words_that_they_have():
    stubs = {node.name: node for node in ast.parse((PACKAGE / "_core.pyi").read_text(encoding="utf-8")).body
             if isinstance(node, ast.ClassDef)}  # fmt: skip
    for error in (_core.CapacityError, _core.StalePlanError):
        assert [base.id for base in stubs[error.__name__].bases] == [base.__name__ for base in error.__bases__]
        assert ast.get_docstring(stubs[error.__name__]) == error.__doc__

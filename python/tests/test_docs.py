"""The examples of docs/python.md print what the page says; a section at a time, each with the names of those before it."""

import doctest
import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "python.md"
SECTIONS = re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
names = {}


@pytest.mark.parametrize("section", [s for s in SECTIONS if ">>>" in s], ids=lambda s: s.splitlines()[0])
def test_section(section):
    if section.startswith("PyTorch"):
        pytest.importorskip("torch", reason="PyTorch is not installed")
    test = doctest.DocTestParser().get_doctest(section, names, section.splitlines()[0], str(PAGE), None)
    report = []
    results = doctest.DocTestRunner().run(test, out=report.append, clear_globs=False)
    names.update(test.globs)
    assert results.attempted and not results.failed, "".join(report)

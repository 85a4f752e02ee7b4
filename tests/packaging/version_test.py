"""The version is written in the project's CMakeLists.txt; everything else reads it there.

usage: version_test.py SOURCE_FOLDER
"""

import re
import sys
import unittest
from pathlib import Path

SOURCE = Path(sys.argv[1])
SKIPPED = {"build", ".dev", ".git"}
VERSION = re.search(r"project\([^)]*?VERSION ([\d.]+)", (SOURCE / "CMakeLists.txt").read_text())[1]


def files():
    for entry in SOURCE.iterdir():
        if entry.name in SKIPPED:
            continue
        for file in [entry, *entry.rglob("*")]:
            if file.is_file() and "__pycache__" not in file.parts and file.suffix not in (".svg", ".csv", ".png"):
                yield str(file.relative_to(SOURCE)), file.read_text(errors="ignore")


class Version(unittest.TestCase):
    def test_no_other_file_has_it(self):
        holders = {path for path, text in files() if re.search(rf"(?<![\d.]){re.escape(VERSION)}(?![\d.])", text)}
        self.assertEqual(holders, {"CMakeLists.txt", "CHANGELOG.md"})

    def test_changelog_begins_with_it(self):
        newest = re.search(r"^## (.*)", (SOURCE / "CHANGELOG.md").read_text(), re.MULTILINE)[1]
        self.assertIn(VERSION, newest)

    def test_users_ask_for_this_one(self):
        minor = re.match(r"\d+\.\d+", VERSION)[0]
        asked = {(path, version) for path, text in files() for version in re.findall(r"find_package\(espalier ([\d.]+)", text)}
        self.assertTrue(asked)
        self.assertEqual({version for _, version in asked}, {minor}, asked)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])

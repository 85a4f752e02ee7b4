"""./dev's private root and the container image are made from one list of packages, and name no mirror.

usage: environment_test.py SOURCE_FOLDER
"""

import re
import sys
import unittest
from pathlib import Path

SOURCE = Path(sys.argv[1])
USERS = ("dev", "Containerfile")
LIST, RECIPE = "environment/packages.txt", "environment/complete.sh"


def text(name):
    return (SOURCE / name).read_text()


def code(name):
    """The file without comment lines, continued lines joined."""
    return re.sub(r"^\s*#.*\n", "", text(name), flags=re.MULTILINE).replace("\\\n", " ")


def packages():
    return re.sub("#.*", "", text(LIST)).split()


class Environment(unittest.TestCase):
    def test_list_is_sound(self):
        self.assertEqual(len(packages()), len(set(packages())), "a package is listed twice")
        for package in packages():
            self.assertRegex(package, r"^[a-z0-9][a-z0-9+.-]+$")

    def test_both_use_the_list_and_the_recipe(self):
        for user in USERS:
            self.assertIn(LIST, code(user), user)
            self.assertIn(RECIPE, code(user), user)

    def test_neither_has_a_list_of_its_own(self):
        for user in USERS:
            words = set(re.findall(r"[a-z0-9][a-z0-9+.-]+", code(user)))
            own = {package for package in packages() if "-dev" in package or package == "catch2"} & words
            self.assertFalse(own, f"{user} names packages itself")
        installed = re.findall(r"apt-get install ([^&|;\n]*)", code("Containerfile"))
        self.assertEqual([[word for word in line.split() if not word.startswith("-")] for line in installed], [[]])

    def test_no_mirror_is_named(self):
        for file in (*USERS, LIST, RECIPE):
            hosts = set(re.findall(r"https?://([\w.-]+)", text(file)))
            self.assertLessEqual(hosts, {"github.com"}, f"{file} names a host")

    def test_workflows_call_what_is_there(self):
        called = [run for file in SOURCE.glob(".github/workflows/*.yml") for run in re.findall(r"run: (\.\S+)", file.read_text())]
        self.assertTrue(called)
        for program in called:
            self.assertTrue((SOURCE / program).exists(), program)

    def test_image_leaves_out_what_is_made_here(self):
        for folder in (".dev", "build"):
            self.assertIn(folder, text(".dockerignore").split())


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])

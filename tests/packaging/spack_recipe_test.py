"""The Spack recipe against the project that it builds, without Spack: a stand-in for its packaging language records what
the recipe declares, and its CMake arguments are compared with the options that the project has.

usage: spack_recipe_test.py SOURCE_FOLDER CMAKE_CACHE
"""

import re
import sys
import types
import unittest
from pathlib import Path

SOURCE, CACHE = Path(sys.argv[1]), Path(sys.argv[2])
RECIPE = SOURCE / "spack/spack_repo/espalier/packages/espalier/package.py"

declared = {}  # directive: [(arguments, options)]
conditions = []  # of the with when(...) blocks that are open


class When:
    def __init__(self, condition):
        self.condition = condition

    def __enter__(self):
        conditions.append(self.condition)

    def __exit__(self, *_):
        conditions.pop()


def directive(name):
    def record(*arguments, **options):
        if conditions:
            options["when"] = " ".join(conditions + [options.get("when", "")]).strip()
        declared.setdefault(name, []).append((arguments, options))

    return record


class Spec(dict):
    """A spec of this package, by the truth of its boolean variants; dependencies by name."""

    def __init__(self, **variants):
        self.variants = variants

    def satisfies(self, constraint):
        return self.variants[constraint[1:]] == (constraint[0] == "+")


class CMakePackage:
    def define(self, name, value):
        if isinstance(value, bool):
            return f"-D{name}:BOOL={'ON' if value else 'OFF'}"
        return f"-D{name}:STRING={value}"

    def define_from_variant(self, name, variant):
        return self.define(name, self.spec.variants[variant])

    def __getitem__(self, dependency):
        return self.spec[dependency]


def load_recipe():
    language = types.ModuleType("spack.package")
    for name in ("license", "version", "variant", "depends_on", "conflicts", "extends"):
        setattr(language, name, directive(name))
    language.when = When
    language.run_after = lambda phase: lambda method: method
    language.python_platlib = "/prefix/lib/python3.13/site-packages"
    language.join_path = lambda *parts: "/".join(parts)
    modules = {
        "spack": types.ModuleType("spack"),
        "spack.package": language,
        "spack_repo.builtin.build_systems.cmake": types.SimpleNamespace(CMakePackage=CMakePackage),
        "spack_repo.builtin.build_systems.cuda": types.SimpleNamespace(
            CudaPackage=type("CudaPackage", (), {"cuda_arch_values": ("80", "90", "90a")})
        ),
        "spack_repo.builtin.build_systems.rocm": types.SimpleNamespace(
            ROCmPackage=type("ROCmPackage", (), {"amdgpu_targets": ("gfx90a", "gfx942")})
        ),
    }
    for parent in ("spack_repo", "spack_repo.builtin", "spack_repo.builtin.build_systems"):
        modules[parent] = types.ModuleType(parent)
    sys.modules.update(modules)
    recipe = types.ModuleType("espalier_recipe")
    recipe.__file__ = str(RECIPE)
    exec(compile(RECIPE.read_text(), str(RECIPE), "exec"), recipe.__dict__)
    return recipe.Espalier


Espalier = load_recipe()
DEFAULTS = {arguments[0]: options["default"] for arguments, options in declared["variant"]}
DEFAULTS |= {"cuda": False, "rocm": False}  # of Spack's own classes
CHANGES = ({}, *({variant: not default} for variant, default in DEFAULTS.items()))


def arguments_of(**variants):
    """The CMake arguments for the default variants with these changes: {name: value}."""
    package = Espalier()
    package.spec = Spec(**{**DEFAULTS, **variants})
    package.spec["kokkos"] = types.SimpleNamespace(kokkos_cxx="/kokkos/bin/nvcc_wrapper", prefix="/kokkos")
    package.spec["hip"] = types.SimpleNamespace(hipcc="/hip/bin/hipcc")
    return dict(re.fullmatch(r"-D(\w+):\w+=(.*)", argument).groups() for argument in package.cmake_args())


def dependencies(name):
    return [
        (arguments[0], options) for arguments, options in declared["depends_on"] if re.match(rf"{name}\b", arguments[0])
    ]


class SpackRecipe(unittest.TestCase):
    def test_every_option_exists(self):
        known = set(re.findall(r"^(\w+):", CACHE.read_text(), re.MULTILINE)) | {"BUILD_SHARED_LIBS"}
        known |= set(re.findall(r"set\((\w+) \S* CACHE", (SOURCE / "python/CMakeLists.txt").read_text()))  # not in every build
        for change in CHANGES:
            self.assertEqual(set(arguments_of(**change)) - known, set(), change)

    def test_device(self):
        self.assertEqual(arguments_of()["ESPALIER_DEVICE"], "none")
        self.assertNotIn("CMAKE_CXX_COMPILER", arguments_of())
        cuda = arguments_of(cuda=True)
        self.assertEqual(cuda["ESPALIER_DEVICE"], "cuda")
        self.assertEqual(cuda["CMAKE_CXX_COMPILER"], "/kokkos/bin/nvcc_wrapper")
        rocm = arguments_of(rocm=True)
        self.assertEqual(rocm["ESPALIER_DEVICE"], "hip")
        self.assertEqual(rocm["CMAKE_CXX_COMPILER"], "/hip/bin/hipcc")

    def test_devices_are_those_of_the_project(self):
        allowed = re.search(r"ESPALIER_DEVICE PROPERTY STRINGS ([^)]*)", (SOURCE / "CMakeLists.txt").read_text())
        for change in CHANGES:
            self.assertIn(arguments_of(**change)["ESPALIER_DEVICE"], allowed.group(1).split())

    def test_variants(self):
        for variant, option in (
            ("shared", "BUILD_SHARED_LIBS"),
            ("python", "ESPALIER_BUILD_PYTHON"),
            ("fused", "ESPALIER_FUSED"),
            ("tools", "ESPALIER_BUILD_CLI"),
            ("tests", "ESPALIER_BUILD_TESTS"),
        ):
            self.assertEqual(arguments_of(**{variant: True})[option], "ON")
            self.assertEqual(arguments_of(**{variant: False})[option], "OFF")

    def test_variants_are_those_that_are_documented(self):
        page = (SOURCE / "spack/README.md").read_text()
        documented = {name for row in re.findall(r"^\| (`.*?) \|", page, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)}
        self.assertEqual(documented - {"cuda_arch", "amdgpu_target"}, set(DEFAULTS))

    def test_python_package_lies_where_python_looks(self):
        self.assertNotIn("ESPALIER_PYTHON_INSTALL_DIR", arguments_of())
        self.assertTrue(arguments_of(python=True)["ESPALIER_PYTHON_INSTALL_DIR"].endswith("site-packages"))
        self.assertEqual([options["when"] for arguments, options in declared["extends"]], ["+python"])

    def test_nothing_is_downloaded(self):
        self.assertEqual(arguments_of()["ESPALIER_FETCH_DEPENDENCIES"], "OFF")

    def test_architecture_is_passed_to_kokkos(self):
        kokkos = {spec: options.get("when") for spec, options in dependencies("kokkos")}
        self.assertEqual(kokkos["kokkos+cuda cuda_arch=90"], "+cuda cuda_arch=90")
        self.assertEqual(kokkos["kokkos+rocm amdgpu_target=gfx942"], "+rocm amdgpu_target=gfx942")

    def test_version_ranges_are_those_of_cmake(self):
        cmake = (SOURCE / "cmake/dependencies.cmake").read_text()
        self.assertIn('espalier_kokkos_versions 4.6...<6', cmake)
        self.assertIn("kokkos@4.6:5", [spec for spec, _ in dependencies("kokkos")])
        for package, name in (("catch2", "Catch2"), ("cli11", "CLI11")):
            low, high = re.search(rf'{name} "([\d.]+)\.\.\.<(\d+)"', cmake).groups()
            self.assertIn(f"{package}@{low}:{int(high) - 1}", [spec for spec, _ in dependencies(package)])
        required = re.search(r"cmake_minimum_required\(VERSION ([\d.]+)\)", (SOURCE / "CMakeLists.txt").read_text())
        self.assertTrue(dependencies("cmake")[0][0].startswith(f"cmake@{required.group(1)}:"))
        python = (SOURCE / "python/CMakeLists.txt").read_text()
        for package, name in (("python", "Python"), ("py-nanobind", "nanobind")):
            low = re.search(rf"find_package\({name} ([\d.]+)", python)[1]
            self.assertTrue([spec for spec, _ in dependencies(package) if spec.startswith(f"{package}@{low}:")], package)

    def test_ranges_have_both_ends(self):
        for arguments, _ in declared["depends_on"]:
            version = re.search(r"@([\d.]*):([\d.]*)", arguments[0])
            if version and arguments[0] != "kokkos@4.7.01:":  # narrows the one above
                self.assertTrue(version[1] and version[2], arguments[0])

    def test_conflicts_give_a_reason(self):
        for arguments, options in declared["conflicts"]:
            self.assertTrue(options.get("msg"), arguments)

    def test_tool_dependencies_are_conditional(self):
        for package in ("cli11", "nlohmann-json"):
            self.assertEqual([options["when"] for _, options in dependencies(package)], ["+tools"])

    def test_recipe_builds_its_own_repository(self):
        self.assertEqual(Espalier.git, SOURCE.resolve().as_uri())

    def test_smoke_test_exists(self):
        self.assertTrue((SOURCE / "tests/install/project/CMakeLists.txt").exists())


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])

# Part of espalier, under the Apache License v2.0 with LLVM exceptions; see LICENSE.
from pathlib import Path

from spack_repo.builtin.build_systems.cmake import CMakePackage
from spack_repo.builtin.build_systems.cuda import CudaPackage
from spack_repo.builtin.build_systems.rocm import ROCmPackage

from spack.package import *


class Espalier(CMakePackage, CudaPackage, ROCmPackage):
    """Exact attention over the tree of KV caches that reasoning models grow: shared prefixes are
    stored once, planned on the device, and read once for all the rows that need them."""

    # This recipe lies in the repository that it builds.
    git = Path(__file__).resolve().parents[5].as_uri()

    license("Apache-2.0 WITH LLVM-exception")

    version("main", branch="main")

    variant("shared", default=True, description="Build a shared library")
    variant("openmp", default=True, description="Run on the CPU with several threads")
    variant("fused", default=True, description="Build the kernels written for one kind of GPU")
    variant("tools", default=True, description="Build the command-line tool espalier")
    variant("python", default=False, description="Build the Python package")
    variant("tests", default=False, description="Build the tests, for spack install --test=root")

    depends_on("cxx", type="build")
    depends_on("cmake@3.25:4", type=("build", "test"))
    depends_on("kokkos@4.6:5")
    depends_on("kokkos+shared+pic", when="+shared")
    depends_on("kokkos+openmp", when="+openmp")
    with when("+tools"):
        depends_on("cli11@2.3:2", type="build")
        depends_on("nlohmann-json@3.10:3", type="build")
    with when("+python"):
        extends("python")
        depends_on("python@3.12:3", type=("build", "run"))
        depends_on("py-nanobind@2.4:2", type="build")
        depends_on("py-numpy@1.26:2", type=("build", "run"))
        depends_on("kokkos+pic")
    depends_on("catch2@3.3:3", when="+tests", type="build")

    # The device and its architecture are Kokkos' choice; what is asked for here is passed on.
    # Without its wrapper Spack would rather take Clang; the nvcc of CUDA 13.0 does not know C++23 yet.
    depends_on("kokkos+cuda+wrapper cxxstd=20", when="+cuda")
    depends_on("kokkos@4.7.01:", when="+cuda ^cuda@13:")
    depends_on("cuda@12:13", when="+cuda")
    for arch in CudaPackage.cuda_arch_values:
        depends_on(f"kokkos+cuda cuda_arch={arch}", when=f"+cuda cuda_arch={arch}")
    depends_on("kokkos+rocm", when="+rocm")
    depends_on("hip@6.2:7", when="+rocm")
    for target in ROCmPackage.amdgpu_targets:
        depends_on(f"kokkos+rocm amdgpu_target={target}", when=f"+rocm amdgpu_target={target}")

    conflicts("+cuda", when="+rocm", msg="Kokkos has one device backend, and so has espalier")
    conflicts("+fused", when="+rocm", msg="where Spack keeps HIP's device libraries is untried")
    conflicts("cuda_arch=none", when="+cuda", msg="name the GPU: cuda_arch=90 for H100 or H200")
    conflicts("amdgpu_target=none", when="+rocm", msg="name it: amdgpu_target=gfx942 for MI300")
    conflicts("^kokkos cxxstd=17", msg="espalier is written in C++20, and so must its Kokkos be")
    conflicts("^kokkos@4~cuda_lambda", when="+cuda", msg="programs for a GPU have device lambdas")
    conflicts("%gcc@:11", msg="espalier is written in C++20: GCC knows enough of it from 12")
    conflicts("%clang@:15", msg="espalier is written in C++20: Clang knows enough of it from 16")

    sanity_check_is_file = [join_path("include", "espalier", "espalier.hpp")]

    def device(self):
        """The device backend that Kokkos must have."""
        if self.spec.satisfies("+cuda"):
            return "cuda"
        return "hip" if self.spec.satisfies("+rocm") else "none"

    def compiler_args(self):
        """How this package, and a program that uses it, is compiled."""
        if self.spec.satisfies("+rocm"):
            return [self.define("CMAKE_CXX_COMPILER", self.spec["hip"].hipcc)]
        if self.spec.satisfies("+cuda"):
            return [self.define("CMAKE_CXX_COMPILER", self["kokkos"].kokkos_cxx)]
        return []

    def cmake_args(self):
        args = [
            self.define("ESPALIER_DEVICE", self.device()),
            self.define_from_variant("BUILD_SHARED_LIBS", "shared"),
            self.define_from_variant("ESPALIER_FUSED", "fused"),
            self.define_from_variant("ESPALIER_BUILD_CLI", "tools"),
            self.define_from_variant("ESPALIER_BUILD_PYTHON", "python"),
            self.define_from_variant("ESPALIER_BUILD_TESTS", "tests"),
            self.define("ESPALIER_BUILD_PERF", False),
            self.define("ESPALIER_BUILD_EXAMPLES", False),
            self.define("ESPALIER_FETCH_DEPENDENCIES", False),
        ]
        if self.spec.satisfies("+python"):
            args.append(self.define("ESPALIER_PYTHON_INSTALL_DIR", python_platlib))
        return args + self.compiler_args()

    @run_after("install")
    def keep_smoke_test(self):
        """Keeps the outside project that `spack test run espalier` builds."""
        cache_extra_test_sources(self, [join_path("tests", "install", "project")])

    def test_outside_project(self):
        """an outside project finds the installed package, attends, and checks the result"""
        source = self.test_suite.current_test_cache_dir.tests.install.project
        cmake = self.spec["cmake"].command
        with working_dir("outside", create=True):
            cmake(
                source,
                self.define("CMAKE_PREFIX_PATH", [self.prefix, self.spec["kokkos"].prefix]),
                self.define("expected_DEVICE", self.device()),
                *self.compiler_args(),
            )
            cmake("--build", ".")
            Executable("./outside")()

# Every dependency is looked for first. With ESPALIER_FETCH_DEPENDENCIES, one that is missing is built from its pinned
# upstream release. Nothing is looked for that the chosen options do not need.

include(FetchContent)

# espalier_dependency(NAME VERSION_RANGE URL SHA256): a macro, since find_package sets variables that others read.
macro(espalier_dependency name versions url sha256)
  find_package(${name} ${versions} QUIET)
  if(${name}_FOUND)
    message(STATUS "espalier: ${name} ${${name}_VERSION} found in ${${name}_DIR}")
  elseif(ESPALIER_FETCH_DEPENDENCIES)
    message(STATUS "espalier: ${name} not found, fetching ${url}")
    FetchContent_Declare(${name} URL ${url} URL_HASH SHA256=${sha256} SYSTEM)
    FetchContent_MakeAvailable(${name})
  else()
    message(
      FATAL_ERROR
        "espalier needs ${name} ${versions}: set ${name}_ROOT or CMAKE_PREFIX_PATH to where it is installed, or "
        "configure with -DESPALIER_FETCH_DEPENDENCIES=ON to download it"
    )
  endif()
endmacro()

set(espalier_kokkos_versions 4.6...<6)

if(ESPALIER_FETCH_DEPENDENCIES)
  # What a fetched Kokkos is built with, unless the user says otherwise.
  option(Kokkos_ENABLE_SERIAL "" ON)
  option(Kokkos_ENABLE_OPENMP "" ON)
  set(BENCHMARK_ENABLE_TESTING OFF CACHE BOOL "")
  set(BENCHMARK_ENABLE_INSTALL OFF CACHE BOOL "")
endif()

espalier_dependency(
  Kokkos "${espalier_kokkos_versions}"
  https://github.com/kokkos/kokkos/releases/download/5.0.2/kokkos-5.0.2.tar.gz
  188817bb452ca805ee8701f1c5adbbb4fb83dc8d1c50624566a18a719ba0fa5e
)
if(ESPALIER_BUILD_TESTS)
  espalier_dependency(
    Catch2 "3.3...<4"
    https://github.com/catchorg/Catch2/archive/refs/tags/v3.7.1.tar.gz
    c991b247a1a0d7bb9c39aa35faf0fe9e19764213f28ffba3109388e62ee0269c
  )
endif()
if(ESPALIER_BUILD_CLI)
  espalier_dependency(
    nlohmann_json 3.10
    https://github.com/nlohmann/json/archive/v3.11.3.tar.gz
    0d8ef5af7f9794e3263480193c491549b2ba6cc74bb018906202ada498a79406
  )
  espalier_dependency(
    CLI11 "2.3...<3"
    https://github.com/CLIUtils/CLI11/archive/v2.4.2.tar.gz
    f2d893a65c3b1324c50d4e682c0cdc021dd0477ae2c048544f39eed6654b699a
  )
endif()
if(ESPALIER_BUILD_PERF)
  espalier_dependency(
    benchmark 1.8
    https://github.com/google/benchmark/archive/refs/tags/v1.9.1.tar.gz
    32131c08ee31eeff2c8968d7e874f3cb648034377dfc32a4c377fa8796d84981
  )
  # Only the headers of Kokkos Kernels are used, and only by the dense-mask baseline, which is left out without them.
  find_path(ESPALIER_KOKKOS_KERNELS_INCLUDE_DIR KokkosBatched_Gemm_Decl.hpp PATH_SUFFIXES trilinos)
  if(ESPALIER_KOKKOS_KERNELS_INCLUDE_DIR)
    add_library(espalier_kokkos_kernels INTERFACE)
    target_include_directories(espalier_kokkos_kernels SYSTEM INTERFACE ${ESPALIER_KOKKOS_KERNELS_INCLUDE_DIR})
    message(STATUS "espalier: Kokkos Kernels found in ${ESPALIER_KOKKOS_KERNELS_INCLUDE_DIR}")
  else()
    message(STATUS "espalier: Kokkos Kernels not found: no dense-mask baseline in perf/")
  endif()
endif()

# HIP kernels are compiled for each of their architectures that the compiler knows, without being told.
#   cmake -Dsource=PROJECT -Dwork=FOLDER -P architectures.cmake
cmake_minimum_required(VERSION 3.25)
include(${source}/cmake/hip_architectures.cmake)
file(MAKE_DIRECTORY ${work})

function(expect compiler expected)
  espalier_known_hip_architectures(known ${compiler} ${work} ${ARGN})
  list(JOIN known "," known)
  if(NOT known STREQUAL expected)
    message(SEND_ERROR "${compiler} is taken to know '${known}' of ${ARGN}, expected '${expected}'")
  endif()
endfunction()

# Two compilers that only answer whether they know the architecture.
file(WRITE ${work}/clang-19 "#!/bin/sh\ncase \"$*\" in *--offload-arch=gfx950*) exit 1 ;; esac\n")
file(WRITE ${work}/clang-22 "#!/bin/sh\nexit 0\n")
file(CHMOD ${work}/clang-19 ${work}/clang-22 PERMISSIONS OWNER_READ OWNER_WRITE OWNER_EXECUTE)

expect(${work}/clang-19 gfx90a,gfx942 gfx90a gfx942 gfx950)
expect(${work}/clang-22 gfx90a,gfx942,gfx950 gfx90a gfx942 gfx950)
expect(${work}/clang-22 gfx942 gfx942 gfx1100)  # of a Kokkos for a card without these matrix units

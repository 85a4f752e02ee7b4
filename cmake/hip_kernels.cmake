# HIP kernels are compiled by clang into objects of their own, whatever compiles the library. Where Kokkos has HIP, the
# library links them. Elsewhere they are part of the tests, which need no AMD GPU and no Kokkos built for one: compiled for
# every architecture, linked with a stub of the runtime, and run by an emulator. Without a clang that knows HIP they are left
# out there.

include(hip_architectures)

if(espalier_device STREQUAL "hip")
  set(default_compiler ${CMAKE_CXX_COMPILER})
  set(default_architectures ${Kokkos_HIP_ARCHITECTURES})
else()
  find_program(default_compiler NAMES clang++-19 amdclang++ PATHS /opt/rocm/bin NO_CACHE)
  set(default_architectures gfx90a gfx942 gfx950)
endif()
set(ESPALIER_HIP_COMPILER ${default_compiler} CACHE FILEPATH "Compiler of HIP kernels")
find_path(ESPALIER_HIP_INCLUDE_DIR hip/hip_runtime.h PATHS $ENV{ROCM_PATH}/include /opt/hip/usr/include /opt/rocm/include)
find_path(
  ESPALIER_HIP_DEVICE_LIBRARY_DIR ockl.bc
  PATHS $ENV{ROCM_PATH}/amdgcn/bitcode /usr/lib/llvm-17/lib/clang/17/amdgcn/bitcode /opt/rocm/amdgcn/bitcode
)

if(ESPALIER_HIP_COMPILER AND ESPALIER_HIP_INCLUDE_DIR AND ESPALIER_HIP_DEVICE_LIBRARY_DIR)
  set(has_compiler ON)
else()
  set(has_compiler OFF)
endif()
if(espalier_device STREQUAL "hip" AND ESPALIER_FUSED)
  if(NOT has_compiler)
    message(
      FATAL_ERROR
        "espalier needs a compiler of HIP kernels, HIP's headers and ROCm's device libraries: set ESPALIER_HIP_COMPILER, "
        "ESPALIER_HIP_INCLUDE_DIR (holds hip/hip_runtime.h) and ESPALIER_HIP_DEVICE_LIBRARY_DIR (holds ockl.bc), or "
        "ESPALIER_FUSED to OFF"
    )
  endif()
  set(ESPALIER_HIP_KERNELS linked)
elseif(ESPALIER_BUILD_TESTS AND has_compiler AND NOT ESPALIER_SANITIZE)  # sanitizers do not follow an emulator's fibres
  set(ESPALIER_HIP_KERNELS compiled)
else()
  set(ESPALIER_HIP_KERNELS none)
endif()

set(known_architectures)
if(NOT ESPALIER_HIP_KERNELS STREQUAL "none")
  espalier_known_hip_architectures(
    known_architectures ${ESPALIER_HIP_COMPILER} ${PROJECT_BINARY_DIR}/CMakeFiles ${default_architectures}
  )
  if(NOT known_architectures)
    message(STATUS "espalier: no HIP kernels for ${default_architectures}")
    set(ESPALIER_HIP_KERNELS none)
  endif()
endif()
set(ESPALIER_HIP_ARCHITECTURES ${known_architectures} CACHE STRING "Architectures that HIP kernels are compiled for")
message(STATUS "espalier: HIP kernels: ${ESPALIER_HIP_KERNELS}, for ${ESPALIER_HIP_ARCHITECTURES}")

if(ESPALIER_HIP_INCLUDE_DIR)
  cmake_path(GET ESPALIER_HIP_INCLUDE_DIR PARENT_PATH hip_root)
  set(espalier_hip_compile
      ${CMAKE_CXX_COMPILER_LAUNCHER} ${ESPALIER_HIP_COMPILER} -x hip --rocm-path=${hip_root}
      --rocm-device-lib-path=${ESPALIER_HIP_DEVICE_LIBRARY_DIR} -std=c++20 -O3 -Wall -Wextra -Wpedantic
      $<$<BOOL:${ESPALIER_WARNINGS_AS_ERRORS}>:-Werror> -I${PROJECT_SOURCE_DIR} -I${PROJECT_SOURCE_DIR}/include
      -isystem ${ESPALIER_HIP_INCLUDE_DIR}
  )
endif()

# espalier_compile_hip(OBJECTS SOURCE...): appends to the list OBJECTS one object for each source, with code for the host and
# all architectures.
function(espalier_compile_hip objects_variable)
  list(TRANSFORM ESPALIER_HIP_ARCHITECTURES PREPEND --offload-arch= OUTPUT_VARIABLE all_architectures)
  list(JOIN ESPALIER_HIP_ARCHITECTURES " " names)
  set(objects ${${objects_variable}})
  foreach(source IN LISTS ARGN)
    cmake_path(GET source STEM name)
    set(object ${CMAKE_CURRENT_BINARY_DIR}/${name}.o)
    add_custom_command(
      OUTPUT ${object}
      COMMAND ${espalier_hip_compile} ${all_architectures} "-DESPALIER_HIP_ARCHITECTURES=\"${names}\"" -fPIC -MD -MF
              ${object}.d -c ${source} -o ${object}
      DEPENDS ${source}
      DEPFILE ${object}.d
      COMMENT "Compiling ${name} for the host and ${names}"
      COMMAND_EXPAND_LISTS VERBATIM
    )
    list(APPEND objects ${object})
  endforeach()
  set(${objects_variable} ${objects} PARENT_SCOPE)
endfunction()

# HIP kernels on a machine without an AMD GPU: compiled by clang for every architecture, also where Kokkos, and so the
# library itself, is built for another device. Part of the tests; without a clang that knows HIP nothing happens.

find_program(ESPALIER_HIP_COMPILER NAMES clang++-19 DOC "Compiler of HIP kernels")
find_path(ESPALIER_HIP_INCLUDE_DIR hip/hip_runtime.h PATHS /opt/hip/usr/include /opt/rocm/include)
find_path(ESPALIER_HIP_DEVICE_LIBRARY_DIR ockl.bc PATHS /usr/lib/llvm-17/lib/clang/17/amdgcn/bitcode /opt/rocm/amdgcn/bitcode)
set(ESPALIER_HIP_ARCHITECTURES gfx90a gfx942 CACHE STRING "Architectures that HIP kernels are compiled for")

if(ESPALIER_BUILD_TESTS AND ESPALIER_HIP_COMPILER AND ESPALIER_HIP_INCLUDE_DIR AND ESPALIER_HIP_DEVICE_LIBRARY_DIR)
  set(ESPALIER_HIP_KERNELS ON)
else()
  set(ESPALIER_HIP_KERNELS OFF)
endif()
message(STATUS "espalier: HIP kernels are compiled and emulated: ${ESPALIER_HIP_KERNELS}")

# espalier_compile_hip(TARGET SOURCE...): objects for the host and all architectures, and the assembly of each
# architecture, SOURCE-ARCHITECTURE.s. The properties HIP_SOURCES and HIP_ASSEMBLY of the target list the files.
function(espalier_compile_hip target)
  cmake_path(GET ESPALIER_HIP_INCLUDE_DIR PARENT_PATH hip_root)
  set(compile
      ${ESPALIER_HIP_COMPILER} -x hip --rocm-path=${hip_root} --rocm-device-lib-path=${ESPALIER_HIP_DEVICE_LIBRARY_DIR}
      -std=c++20 -O3 -Wall -Wextra -Wpedantic -Werror -I${PROJECT_SOURCE_DIR} -I${PROJECT_SOURCE_DIR}/include
      -isystem ${ESPALIER_HIP_INCLUDE_DIR}
  )
  list(TRANSFORM ESPALIER_HIP_ARCHITECTURES PREPEND --offload-arch= OUTPUT_VARIABLE all_architectures)
  set(inputs)
  set(objects)
  set(assembly)
  foreach(source IN LISTS ARGN)
    cmake_path(GET source STEM name)
    set(input ${CMAKE_CURRENT_SOURCE_DIR}/${source})
    list(APPEND inputs ${input})
    set(object ${CMAKE_CURRENT_BINARY_DIR}/${name}.o)
    add_custom_command(
      OUTPUT ${object}
      COMMAND ${compile} ${all_architectures} -fPIC -MD -MF ${object}.d -c ${input} -o ${object}
      DEPENDS ${input}
      DEPFILE ${object}.d
      COMMENT "Compiling ${source} for the host and ${ESPALIER_HIP_ARCHITECTURES}"
      VERBATIM
    )
    list(APPEND objects ${object})
    foreach(architecture IN LISTS ESPALIER_HIP_ARCHITECTURES)
      set(output ${CMAKE_CURRENT_BINARY_DIR}/${name}-${architecture}.s)
      add_custom_command(
        OUTPUT ${output}
        COMMAND ${compile} --offload-arch=${architecture} --cuda-device-only --no-gpu-bundle-output -MD -MF ${output}.d -S
                ${input} -o ${output}
        DEPENDS ${input}
        DEPFILE ${output}.d
        COMMENT "Assembly of ${source} for ${architecture}"
        VERBATIM
      )
      list(APPEND assembly ${output})
    endforeach()
  endforeach()
  add_custom_target(${target} ALL DEPENDS ${objects} ${assembly})
  set_target_properties(${target} PROPERTIES HIP_SOURCES "${inputs}" HIP_ASSEMBLY "${assembly}")
endfunction()

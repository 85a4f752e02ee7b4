# CUDA kernels are compiled by nvcc itself, into objects of their own: neither the compiler of the library nor its Kokkos
# has a say, so that sm_90a needs no Kokkos built for it. Where Kokkos has CUDA, the library links them, unless
# ESPALIER_FUSED is off, and has them for the architecture of that Kokkos alone: others only take time to compile. Elsewhere
# they are compiled as part of the tests, so that they stay right, unless there is no nvcc.

find_program(ESPALIER_NVCC nvcc PATHS /usr/local/cuda/bin DOC "Compiler of CUDA kernels")

if(espalier_device STREQUAL "cuda" AND ESPALIER_FUSED)
  if(NOT ESPALIER_NVCC)
    message(FATAL_ERROR "espalier needs nvcc for its CUDA kernels: set ESPALIER_NVCC to it, or ESPALIER_FUSED to OFF")
  endif()
  set(ESPALIER_CUDA_KERNELS linked)
  set(default_architectures ${Kokkos_CUDA_ARCHITECTURES})
  if(Kokkos_CUDA_ARCHITECTURES LESS 80)  # they have no instructions that the kernels need
    set(ESPALIER_CUDA_KERNELS none)
  endif()
elseif(ESPALIER_BUILD_TESTS AND ESPALIER_NVCC AND NOT ESPALIER_SANITIZE)
  set(ESPALIER_CUDA_KERNELS compiled)
  set(default_architectures 80)
else()
  set(ESPALIER_CUDA_KERNELS none)
endif()
set(ESPALIER_CUDA_ARCHITECTURES ${default_architectures}
    CACHE STRING "Compute capabilities, such as 80, that the CUDA kernels of every GPU since sm_80 are compiled for"
)
message(STATUS "espalier: CUDA kernels: ${ESPALIER_CUDA_KERNELS}, for ${ESPALIER_CUDA_ARCHITECTURES}")

# espalier_compile_cuda(OBJECTS ARCHITECTURE... SOURCES SOURCE...): appends to the list OBJECTS one object for each source,
# with code for each architecture: 90a, or 80 and later.
function(espalier_compile_cuda objects_variable)
  cmake_parse_arguments(PARSE_ARGV 1 compile "" "" "ARCHITECTURES;SOURCES")
  set(flags -std=c++20 -O3 --expt-relaxed-constexpr -Xcompiler=-fPIC,-Wall,-Wextra -I${PROJECT_SOURCE_DIR}
            -I${PROJECT_SOURCE_DIR}/include
  )
  foreach(architecture IN LISTS compile_ARCHITECTURES)
    list(APPEND flags -gencode=arch=compute_${architecture},code=sm_${architecture})
  endforeach()
  if(ESPALIER_WARNINGS_AS_ERRORS)
    list(APPEND flags -Werror=all-warnings)
  endif()
  set(objects ${${objects_variable}})
  foreach(source IN LISTS compile_SOURCES)
    cmake_path(SET object NORMALIZE ${CMAKE_CURRENT_BINARY_DIR}/${source}.o)
    cmake_path(GET object PARENT_PATH folder)
    file(MAKE_DIRECTORY ${folder})
    add_custom_command(
      OUTPUT ${object}
      COMMAND ${CMAKE_CXX_COMPILER_LAUNCHER} ${ESPALIER_NVCC} ${flags} -MD -MF ${object}.d -c
              ${CMAKE_CURRENT_SOURCE_DIR}/${source} -o ${object}
      DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/${source}
      DEPFILE ${object}.d
      COMMENT "Compiling ${source} for ${compile_ARCHITECTURES}"
      VERBATIM
    )
    list(APPEND objects ${object})
  endforeach()
  set(${objects_variable} ${objects} PARENT_SCOPE)
endfunction()

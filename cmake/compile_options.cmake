# espalier_precompile_headers(TARGET HEADER... | REUSE_FROM TARGET): the headers are parsed once for all sources of the target.
function(espalier_precompile_headers target)
  # ccache needs to be told which precompiled header an object depends on.
  target_compile_options(${target} PRIVATE $<$<CXX_COMPILER_ID:GNU>:-fpch-preprocess>)
  if(ARGV1 STREQUAL "REUSE_FROM")
    target_precompile_headers(${target} ${ARGN})
  else()
    target_precompile_headers(${target} PRIVATE ${ARGN})
  endif()
endfunction()

# espalier_compile_options(TARGET): how every target of this project, but no user of it, is compiled.
function(espalier_compile_options target)
  target_compile_features(${target} PUBLIC cxx_std_20)
  set_target_properties(${target} PROPERTIES CXX_EXTENSIONS OFF)
  target_compile_options(
    ${target} PRIVATE -Wall -Wextra -Wpedantic -Wshadow -Wnon-virtual-dtor -Woverloaded-virtual -Wdouble-promotion
                      $<$<BOOL:${ESPALIER_WARNINGS_AS_ERRORS}>:-Werror>
  )
  # Small constexpr functions of headers without Kokkos are called in kernels. A Kokkos built with its defaults lets nvcc warn of that.
  if(espalier_device STREQUAL "cuda" AND Kokkos_CXX_COMPILER_ID STREQUAL "NVIDIA")
    target_compile_options(${target} PRIVATE $<$<COMPILE_LANGUAGE:CXX>:--expt-relaxed-constexpr>)
  endif()
  if(ESPALIER_SANITIZE)
    set(flags -fsanitize=${ESPALIER_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer)
    # GCC warns of uninitialised variables in instrumented standard headers where there are none.
    target_compile_options(${target} PRIVATE ${flags} $<$<CXX_COMPILER_ID:GNU>:-Wno-maybe-uninitialized>)
    target_link_options(${target} PUBLIC ${flags})
  endif()
endfunction()

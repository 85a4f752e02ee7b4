# The preset `hip` links the kernels into the library, for the architecture of its Kokkos and no other. It is configured, with a
# Kokkos that says it is for HIP; what would be built is only listed, since no such Kokkos is at hand.
#   cmake -Dsource=PROJECT -Dwork=FOLDER -Dkokkos=FOLDER_OF_ITS_CONFIG -Dcompiler=CLANG -Dinclude_dir=DIR -Ddevice_libs=DIR
#         -P preset.cmake
cmake_minimum_required(VERSION 3.25)

file(WRITE ${work}/kokkos/KokkosConfig.cmake
     "include(${kokkos}/KokkosConfig.cmake)\nset(Kokkos_ENABLE_HIP ON)\nset(Kokkos_HIP_ARCHITECTURES gfx942)\n"
)
file(COPY ${kokkos}/KokkosConfigVersion.cmake DESTINATION ${work}/kokkos)
execute_process(
  COMMAND
    ${CMAKE_COMMAND} --fresh --preset hip -B ${work}/build -DKokkos_DIR=${work}/kokkos -DCMAKE_CXX_COMPILER=${compiler}
    -DESPALIER_HIP_INCLUDE_DIR=${include_dir} -DESPALIER_HIP_DEVICE_LIBRARY_DIR=${device_libs} -DESPALIER_BUILD_TESTS=OFF
    -DESPALIER_BUILD_CLI=OFF -DESPALIER_BUILD_PERF=OFF -DESPALIER_BUILD_EXAMPLES=OFF
  WORKING_DIRECTORY ${source}
  OUTPUT_VARIABLE output ERROR_VARIABLE output
  RESULT_VARIABLE failed
)
if(failed OR NOT output MATCHES "espalier: HIP kernels: linked, for gfx942\n")
  message(FATAL_ERROR "configuring the preset hip ends with ${failed}:\n${output}")
endif()

execute_process(
  COMMAND ${CMAKE_COMMAND} --build ${work}/build --target espalier -- -n -v
  OUTPUT_VARIABLE steps COMMAND_ERROR_IS_FATAL ANY
)
string(REGEX MATCH "[^\n]* qc [^\n]*" link_step "${steps}")
foreach(kernel IN ITEMS kernels attend any_element bf16_64 bf16_128 bf16_256 f16_64 f16_128 f16_256)
  if(NOT link_step MATCHES "backends/hip/${kernel}\\.o")
    message(SEND_ERROR "the library has no ${kernel}.o: ${link_step}")
  endif()
endforeach()
if(link_step MATCHES "no_kernels")
  message(SEND_ERROR "the library has the empty list of kernels, too: ${link_step}")
endif()
if(NOT steps MATCHES "--offload-arch=gfx942" OR steps MATCHES "--offload-arch=gfx90a")
  message(SEND_ERROR "the kernels are not for gfx942 alone")
endif()

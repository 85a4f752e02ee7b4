# espalier_known_hip_architectures(VARIABLE COMPILER FOLDER ARCHITECTURE...): those of the architectures that the kernels are
# for and the compiler knows; clang 19 does not know gfx950, clang 22 does. FOLDER: for an empty source.
function(espalier_known_hip_architectures variable compiler folder)
  set(empty_source ${folder}/empty.hip)
  file(TOUCH ${empty_source})
  set(known)
  foreach(architecture IN LISTS ARGN)
    execute_process(
      COMMAND ${compiler} -x hip --offload-arch=${architecture} --cuda-device-only -nogpulib -nogpuinc -fsyntax-only
              ${empty_source}
      RESULT_VARIABLE failed OUTPUT_QUIET ERROR_QUIET
    )
    if(NOT failed AND architecture MATCHES "^gfx9(0a|42|50)$")
      list(APPEND known ${architecture})
    endif()
  endforeach()
  set(${variable} ${known} PARENT_SCOPE)
endfunction()

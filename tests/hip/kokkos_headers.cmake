# Headers that turn an installed Kokkos into one for HIP, as far as compiling goes: those that its build wrote, changed. They go
# in front of Kokkos' own on the include path. Kokkos' library has no HIP in it, so that what was compiled with them cannot
# be linked.
#   cmake -Dkokkos=INCLUDE_DIR -Darchitecture=gfx942 -Doutput=DIR -P kokkos_headers.cmake
cmake_minimum_required(VERSION 3.25)

foreach(kind IN ITEMS Declare Fwd)
  string(TOLOWER ${kind} folder)
  string(REPLACE declare decl folder ${folder})
  file(WRITE ${output}/KokkosCore_Config_${kind}Backend.hpp
       "#pragma once\n#include <${folder}/Kokkos_${kind}_SERIAL.hpp>\n#include <${folder}/Kokkos_${kind}_HIP.hpp>\n"
  )
endforeach()
file(WRITE ${output}/KokkosCore_Config_SetupBackend.hpp "#pragma once\n#include <setup/Kokkos_Setup_HIP.hpp>\n")

# turn(TEXT ON|OFF MACRO [VALUE]): in a header of "#define MACRO" and "/* #undef MACRO */".
macro(turn_on text macro)
  string(REGEX REPLACE "/\\* #undef ${macro} \\*/" "#define ${macro} ${ARGN}" text "${text}")
  if(NOT text MATCHES "#define ${macro}[ \n]")
    message(FATAL_ERROR "this Kokkos has no ${macro} to turn on")
  endif()
endmacro()
string(TOUPPER ${architecture} upper)
file(READ ${kokkos}/KokkosCore_config.h text)
string(REGEX REPLACE "#define KOKKOS_ENABLE_(OPENMP|THREADS)\n" "" text "${text}")
turn_on("${text}" KOKKOS_ENABLE_SERIAL)
turn_on("${text}" KOKKOS_ENABLE_HIP)
turn_on("${text}" KOKKOS_ARCH_AMD_${upper})
turn_on("${text}" KOKKOS_ARCH_AMD_GPU "\"${architecture}\"")
file(WRITE ${output}/KokkosCore_config.h "${text}")

file(READ ${kokkos}/desul/atomics/Config.hpp text)
string(REGEX REPLACE "#define DESUL_ATOMICS_ENABLE_OPENMP\n" "" text "${text}")
turn_on("${text}" DESUL_ATOMICS_ENABLE_HIP)
file(WRITE ${output}/desul/atomics/Config.hpp "${text}")

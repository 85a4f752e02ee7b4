# One build serves at most one device backend: the one its Kokkos was built for. ESPALIER_DEVICE says which is expected.

set(found_devices)
foreach(device IN ITEMS CUDA HIP SYCL OPENMPTARGET OPENACC)
  if(Kokkos_ENABLE_${device})
    string(TOLOWER ${device} device)
    list(APPEND found_devices ${device})
  endif()
endforeach()
if(NOT found_devices)
  set(found_devices none)
endif()

if(NOT found_devices MATCHES "^(none|cuda|hip)$")
  message(FATAL_ERROR "espalier supports one device backend, cuda or hip; Kokkos in ${Kokkos_DIR} has: ${found_devices}")
endif()
if(NOT ESPALIER_DEVICE STREQUAL "auto" AND NOT ESPALIER_DEVICE STREQUAL found_devices)
  message(
    FATAL_ERROR
      "espalier: ESPALIER_DEVICE is ${ESPALIER_DEVICE}, but Kokkos in ${Kokkos_DIR} was built for the device backend "
      "${found_devices}; set Kokkos_ROOT to another Kokkos, or ESPALIER_DEVICE to ${found_devices}"
  )
endif()
set(espalier_device ${found_devices})
message(STATUS "espalier: device backend: ${espalier_device}")
# Kokkos puts its own launcher in front of compilers, which sends ccache what only nvcc understands.
if(espalier_device STREQUAL "cuda" AND ESPALIER_CCACHE)
  unset(CMAKE_CXX_COMPILER_LAUNCHER)
endif()

get_target_property(kokkos_type Kokkos::kokkoscore TYPE)
if(BUILD_SHARED_LIBS AND kokkos_type STREQUAL "STATIC_LIBRARY" AND NOT espalier_device STREQUAL "none")
  message(
    FATAL_ERROR
      "espalier: a shared library with the static Kokkos in ${Kokkos_DIR}: a program that links both has Kokkos twice, "
      "each with a state of its own; build Kokkos with -DBUILD_SHARED_LIBS=ON, or espalier without it"
  )
endif()

include(CMakePackageConfigHelpers)

set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/espalier)

install(
  TARGETS espalier
  EXPORT espalierTargets
  FILE_SET HEADERS
)
install(
  EXPORT espalierTargets
  NAMESPACE espalier::
  DESTINATION ${package_dir}
)
if(ESPALIER_BUILD_CLI)
  install(TARGETS espalier_cli)
endif()

set(espalier_fused OFF)
if(ESPALIER_CUDA_KERNELS STREQUAL "linked" OR ESPALIER_HIP_KERNELS STREQUAL "linked")
  set(espalier_fused ON)
endif()
get_target_property(espalier_library_type espalier TYPE)
string(REGEX REPLACE "_LIBRARY$" "" espalier_library_type ${espalier_library_type})
string(TOLOWER ${espalier_library_type} espalier_library_type)
configure_package_config_file(
  ${PROJECT_SOURCE_DIR}/cmake/espalierConfig.cmake.in ${PROJECT_BINARY_DIR}/espalierConfig.cmake
  INSTALL_DESTINATION ${package_dir}
  NO_SET_AND_CHECK_MACRO NO_CHECK_REQUIRED_COMPONENTS_MACRO
)
write_basic_package_version_file(${PROJECT_BINARY_DIR}/espalierConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/espalierConfig.cmake ${PROJECT_BINARY_DIR}/espalierConfigVersion.cmake
        DESTINATION ${package_dir}
)
install(FILES ${PROJECT_SOURCE_DIR}/LICENSE DESTINATION ${CMAKE_INSTALL_DATADIR}/licenses/espalier)

# A device compiler's flags are more than pkg-config can say.
if(espalier_device STREQUAL "none")
  set(pc_dir ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
  file(RELATIVE_PATH espalier_pc_prefix /prefix/${pc_dir} /prefix)
  set(espalier_openmp_flag $<$<BOOL:${Kokkos_ENABLE_OPENMP}>:-fopenmp>)
  get_target_property(kokkos_is_imported Kokkos::kokkoscore IMPORTED)
  if(kokkos_is_imported)
    set(espalier_kokkos_cflags "-I$<JOIN:$<TARGET_PROPERTY:Kokkos::kokkoscore,INTERFACE_INCLUDE_DIRECTORIES>, -I>")
    set(espalier_kokkos_libs "-L$<TARGET_LINKER_FILE_DIR:Kokkos::kokkoscore> -lkokkoscontainers -lkokkoscore -ldl")
  else()  # fetched, and installed to the same prefix
    set(espalier_kokkos_cflags)
    set(espalier_kokkos_libs "-lkokkoscontainers -lkokkoscore -ldl")
  endif()
  configure_file(${PROJECT_SOURCE_DIR}/cmake/espalier.pc.in ${PROJECT_BINARY_DIR}/espalier.pc.generate @ONLY)
  file(GENERATE OUTPUT ${PROJECT_BINARY_DIR}/espalier.pc INPUT ${PROJECT_BINARY_DIR}/espalier.pc.generate)
  install(FILES ${PROJECT_BINARY_DIR}/espalier.pc DESTINATION ${pc_dir})
endif()

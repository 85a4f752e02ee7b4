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

# Compiles an outside program with nothing but what pkg-config says of the installed package, and runs it.

set(ENV{PKG_CONFIG_PATH} ${pc_dir})
execute_process(
  COMMAND ${pkg_config} --modversion espalier
  OUTPUT_VARIABLE found OUTPUT_STRIP_TRAILING_WHITESPACE COMMAND_ERROR_IS_FATAL ANY
)
if(NOT found STREQUAL version)
  message(FATAL_ERROR "pkg-config says version ${found}, expected ${version}")
endif()
execute_process(
  COMMAND ${pkg_config} --cflags --libs espalier
  OUTPUT_VARIABLE flags OUTPUT_STRIP_TRAILING_WHITESPACE COMMAND_ERROR_IS_FATAL ANY
)
separate_arguments(flags UNIX_COMMAND "${flags}")
execute_process(COMMAND ${compiler} -o ${program} ${source} ${flags} COMMAND_ERROR_IS_FATAL ANY)
execute_process(COMMAND ${program} COMMAND_ERROR_IS_FATAL ANY)

// The functions of CLI11, compiled once: everywhere else CLI11_COMPILE makes its headers declare them only. They take longer to
// compile than a subcommand's own code. Here the headers still include the definitions, which are then not inline.

#include <CLI/Macros.hpp>
#undef CLI11_COMPILE
#include <CLI/CLI.hpp>

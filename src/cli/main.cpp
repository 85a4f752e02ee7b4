// The command-line tool. Exit code 0: done; 1: a check that the tool makes failed; 2: bad input, told in one line.

#include <CLI/CLI.hpp>
#include <Kokkos_Core.hpp>
#include <cstdio>
#include <exception>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "cli/commands.hpp"
#include "espalier/version.hpp"

namespace {

using espalier::cli::Command;

constexpr int kBadInput = 2;

struct Subcommand {
  const char* name;
  const char* does;
  Command (*add)(CLI::App& app);
};

constexpr Subcommand kSubcommands[] = {
    {"info", "Version, Kokkos backends, device, and the kernels that run here", espalier::cli::add_info},
    {"demo", "Watch a reasoning tree being decoded with shared KV; needs no file", espalier::cli::add_demo},
    {"replay", "Decode a recorded trace: chat requests, or trees of thoughts", espalier::cli::add_replay},
    {"attend", "Attention over a tree, from and to NumPy arrays", espalier::cli::add_attend},
    {"plan", "How a tree is cut into tiles, what that costs, and a picture of it", espalier::cli::add_plan},
    {"validate", "Check every kernel of this build against double precision", espalier::cli::add_validate},
    {"calibrate", "Measure what tiles cost on this device, for --cost-model", espalier::cli::add_calibrate},
};

/// One line on stderr, whatever the message holds.
int fail(std::string message) {
  for (char& c : message)
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = ' ';
  std::fprintf(stderr, "espalier: %s\n", message.c_str());
  return kBadInput;
}

int run(const Command& command) {
  try {
    // Kokkos would advise about thread binding on stderr, which is kept for what is wrong with the input.
    const Kokkos::ScopeGuard kokkos(Kokkos::InitializationSettings().set_disable_warnings(true));
    return command();
  } catch (const std::bad_alloc&) {
    return fail("there is not enough memory for this");
  } catch (const std::exception& error) {
    return fail(error.what());
  }
}

int run_tool(int argc, char** argv) {
  CLI::App app("Tree attention over shared KV blocks: exact, portable, each shared token stored and read once.",
               "espalier");
  app.set_version_flag("--version", std::string(espalier::version()));
  app.require_subcommand(1);
  app.footer(
      "'espalier SUBCOMMAND --help' tells its options.\n"
      "Exit code: 0 done, 1 a check failed, 2 bad input (one line on stderr says what and where).");
  std::vector<std::pair<CLI::App*, Command>> subcommands;
  for (const Subcommand& subcommand : kSubcommands) {
    CLI::App* const options = app.add_subcommand(subcommand.name, subcommand.does);
    subcommands.emplace_back(options, subcommand.add(*options));
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& help_or_version) {
    return app.exit(help_or_version);
  } catch (const CLI::ParseError& error) {
    std::string name = "espalier", known;
    for (const auto& [options, command] : subcommands) {
      if (options->parsed()) name += " " + options->get_name();
      known += (known.empty() ? "" : ", ") + options->get_name();
    }
    std::string what = error.what();
    if (name == "espalier")
      what = (argc > 1 ? "'" + std::string(argv[1]) + "' is no subcommand" : "a subcommand is missing") +
             ", expected one of " + known;
    return fail(what + "; '" + name + " --help' tells more");
  }
  for (const auto& [options, command] : subcommands)
    if (options->parsed()) return run(command);
  return kBadInput;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run_tool(argc, argv);
  } catch (...) {  // no memory even for the options
    std::fputs("espalier: cannot start\n", stderr);
    return kBadInput;
  }
}

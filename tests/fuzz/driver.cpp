// Runs a fuzz target on random inputs where there is no libFuzzer: changed copies of the target's first inputs, the
// same ones for the same seed.
//   TARGET [--seed S] [--runs N]    random inputs
//   TARGET FILE...                  these inputs, such as one that libFuzzer has written

#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <random>
#include <string>

#include "fuzz_target.hpp"

namespace {

unsigned long long seed_now = 0, run_now = 0;

/// Says which input it was; the signal then ends the program as usual.
void name_input(int signal) {
  char text[160];
  const int length =
      std::snprintf(text, sizeof text, "fuzz: signal %d, input of --seed %llu, run %llu\n", signal, seed_now, run_now);
  if (length > 0) static_cast<void>(!write(STDERR_FILENO, text, std::size_t(length)));
}

void run(const std::string& input) {
  LLVMFuzzerTestOneInput(reinterpret_cast<const std::uint8_t*>(input.data()), input.size());
}

class Mutator {
 public:
  explicit Mutator(std::uint64_t seed) : random_(seed) {}

  std::string next(const std::vector<std::string>& inputs) {
    std::string text = inputs[below(inputs.size())];
    for (std::size_t changes = 1 + below(8); changes > 0; --changes) change(text, inputs);
    return text;
  }

 private:
  std::size_t below(std::size_t end) { return std::size_t(random_() % end); }

  void change(std::string& text, const std::vector<std::string>& inputs) {
    constexpr char kTelling[] = {0, 1, 2, 4, 16, 127, char(128), char(255), '-', '0', '9', ',', ':', '{', '}', '"'};
    const std::size_t place = below(text.size() + 1);
    const std::size_t left = text.size() - place;
    switch (below(8)) {
      case 0: text.insert(place, 1, char(below(256))); break;
      case 1: text.insert(place, 1, kTelling[below(sizeof kTelling)]); break;
      case 2: text.erase(place, 1 + below(4)); break;
      case 3: text.resize(place); break;
      case 4:
        if (left > 0) text[place] = char(below(256));
        break;
      case 5:
        if (left > 0) text[place] = kTelling[below(sizeof kTelling)];
        break;
      case 6:
        if (left > 0) text.insert(place, text.substr(place, 1 + below(left < 32 ? left : 32)));
        break;
      default: {
        const std::string& other = inputs[below(inputs.size())];
        const std::size_t from = below(other.size() + 1);
        text.insert(place, other.substr(from, below(16)));
      }
    }
  }

  std::mt19937_64 random_;
};

}  // namespace

int main(int argc, char* argv[]) {
  unsigned long long runs = 20000;
  seed_now = 1;
  bool had_file = false;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    if ((argument == "--seed" || argument == "--runs") && i + 1 < argc) {
      (argument == "--seed" ? seed_now : runs) = std::strtoull(argv[++i], nullptr, 10);
      continue;
    }
    std::ifstream file(argument, std::ios::binary);
    if (!file) return std::fprintf(stderr, "fuzz: cannot read %s\n", argv[i]), 2;
    run(std::string(std::istreambuf_iterator<char>(file), {}));
    had_file = true;
  }
  if (had_file) return 0;

  for (const int signal : {SIGABRT, SIGSEGV, SIGFPE, SIGBUS, SIGILL}) {
    struct sigaction action = {};
    action.sa_handler = name_input;
    action.sa_flags = int(SA_RESETHAND);
    sigaction(signal, &action, nullptr);
  }
  const std::vector<std::string> inputs = espalier::fuzz::first_inputs();
  for (const std::string& input : inputs) run(input);
  Mutator mutator(seed_now);
  for (run_now = 1; run_now <= runs; ++run_now) run(mutator.next(inputs));
  std::printf("fuzz: %llu inputs of seed %llu\n", runs + inputs.size(), seed_now);
}

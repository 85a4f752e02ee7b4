#pragma once
// Runs HIP and CUDA kernels lane by lane on a CPU, to compare what they compute with the oracle.
//
// Every GPU thread is a fibre and thread blocks run one after another. Barriers, lane exchanges and matrix instructions
// are meetings: a lane waits there until all lanes of its block or wave have come, and the last one does the work.
// Lanes that meet at different operations, or wait for a lane that has gone another way, end the program with an error.
// Timing and hazards are not modelled. A race between waves shows where the result depends on which of them is ahead; see
// run_ahead_seed. HIP's waves have 64 lanes, CUDA's 32; grids and blocks are one-dimensional.

#include <setjmp.h>
#include <ucontext.h>

#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <vector>

namespace espalier::emulator {

#if defined(__HIPCC__)
inline constexpr int kLanes = 64;
#else
inline constexpr int kLanes = 32;
#endif

/// gfx90a's matrix units take subnormal 16-bit numbers as zero.
inline bool flushes_subnormals = false;

/// Other than 0: waves do not keep pace, but rest at random, so that others run ahead as far as barriers let them.
inline std::uint32_t run_ahead_seed = 0;

[[noreturn]] inline void stop(const char* message) {
  std::fprintf(stderr, "emulator: %s\n", message);
  std::abort();
}

/// Where lanes wait for each other.
struct Meeting {
  int expected = 0;
  int arrived = 0;
  std::uint64_t generation = 0;
  const char* operation = nullptr;
};

/// What a lane waits for: a number that others change.
struct Wait {
  const std::uint64_t* number = nullptr;
  std::uint64_t seen = 0;
  std::string (*describe)(const void* what, std::uint32_t detail) = nullptr;
  const void* what = nullptr;
  std::uint32_t detail = 0;

  [[nodiscard]] bool is_over() const { return number == nullptr || *number != seen; }
};

using Slot = std::array<unsigned char, 24>;

struct Wave {
  Meeting meeting;
  std::array<Slot, kLanes> in, out;  ///< what each lane brings to a meeting, and takes from it
};

struct Fibre {
  ucontext_t start;
  jmp_buf place;
  std::vector<char> stack;
  Wait wait;
  bool started, done;
};

struct Block {
  unsigned number, blocks, threads;
  std::vector<Fibre> fibres;
  std::vector<Wave> waves;
  Meeting barrier;
  jmp_buf scheduler;
  unsigned thread;  ///< that runs now
  std::function<void()> run_thread, begin, end;
};

inline Block block;

inline int lane() { return static_cast<int>(block.thread % kLanes); }
inline Wave& wave() { return block.waves[block.thread / kLanes]; }

inline void give_way() {
  if (_setjmp(block.fibres[block.thread].place) == 0) _longjmp(block.scheduler, 1);
}

/// Lets others run until the wait is over.
inline void wait_for(const Wait& wait) {
  block.fibres[block.thread].wait = wait;
  while (!wait.is_over()) give_way();
}

inline std::string describe_meeting(const void* what, std::uint32_t) {
  const auto& meeting = *static_cast<const Meeting*>(what);
  return std::string(meeting.operation) + ", where " + std::to_string(meeting.arrived) + " of " +
         std::to_string(meeting.expected) + " lanes are";
}

/// Waits for the other lanes of the meeting; the last one calls work().
template <class Work>
void meet(Meeting& meeting, const char* operation, const Work& work) {
  if (meeting.arrived > 0 && meeting.operation != operation) stop("lanes meet at different operations");
  meeting.operation = operation;
  if (++meeting.arrived == meeting.expected) {
    work();
    meeting.arrived = 0;
    ++meeting.generation;
    return;
  }
  wait_for({&meeting.generation, meeting.generation, describe_meeting, &meeting});
}

inline void synchronise_block() {
  meet(block.barrier, "barrier", [] {});
}

/// The wave's meeting: brings `in`, returns what work(wave) left for this lane.
template <class Out, class In, class Work>
Out meet_wave(const char* operation, const In& in, const Work& work) {
  static_assert(sizeof(In) <= sizeof(Slot) && sizeof(Out) <= sizeof(Slot));
  Wave& own = wave();
  std::memcpy(&own.in[static_cast<std::size_t>(lane())], &in, sizeof in);
  meet(own.meeting, operation, [&] { work(own); });
  Out out;
  std::memcpy(&out, &own.out[static_cast<std::size_t>(lane())], sizeof out);
  return out;
}

/// The value of another lane, which may differ from lane to lane.
template <class Value>
Value exchange(Value value, int source) {
  struct Request {
    Value value;
    int source;
  };
  return meet_wave<Value>("lane exchange", Request{value, source}, [](Wave& all) {
    for (std::size_t i = 0; i < kLanes; ++i) {
      Request request, from;
      std::memcpy(&request, &all.in[i], sizeof request);
      std::memcpy(&from, &all.in[static_cast<std::size_t>(request.source) % kLanes], sizeof from);
      std::memcpy(&all.out[i], &from.value, sizeof(Value));
    }
  });
}

using Float4 = float __attribute__((ext_vector_type(4)));
using Half4 = _Float16 __attribute__((ext_vector_type(4)));
using Short4 = short __attribute__((ext_vector_type(4)));

inline float decode(_Float16 value) {
  const float decoded = static_cast<float>(value);
  return flushes_subnormals && __builtin_fabsf(decoded) < 0x1p-14f ? 0.0f : decoded;
}

inline float decode(short bfloat16_bits) {
  const std::uint32_t bits = static_cast<std::uint32_t>(static_cast<std::uint16_t>(bfloat16_bits)) << 16;
  float decoded;
  std::memcpy(&decoded, &bits, sizeof decoded);
  return flushes_subnormals && __builtin_fabsf(decoded) < 0x1p-126f ? 0.0f : decoded;
}

/// c + a b for 16 x 16 matrices. In A's lane m + 16 g and B's lane n + 16 g are k = 4 g .. 4 g + 3 of row m of A and of
/// column n of B; in lane n + 16 g of the result are rows 4 g .. 4 g + 3 of column n.
template <class Vector>
Float4 multiply_16x16x16(Vector a, Vector b, Float4 c, int, int, int) {
  struct Factors {
    Vector a, b;
  };
  const Float4 product = meet_wave<Float4>("matrix instruction", Factors{a, b}, [](Wave& all) {
    float row[16][16], column[16][16];
    for (int i = 0; i < kLanes; ++i) {
      Factors factors;
      std::memcpy(&factors, &all.in[static_cast<std::size_t>(i)], sizeof factors);
      for (int j = 0; j < 4; ++j) {
        row[i % 16][4 * (i / 16) + j] = decode(factors.a[j]);
        column[i % 16][4 * (i / 16) + j] = decode(factors.b[j]);
      }
    }
    for (int i = 0; i < kLanes; ++i) {
      Float4 sum = 0.0f;
      for (int j = 0; j < 4; ++j)
        for (int k = 0; k < 16; ++k) sum[j] += row[4 * (i / 16) + j][k] * column[i % 16][k];
      std::memcpy(&all.out[static_cast<std::size_t>(i)], &sum, sizeof sum);
    }
  });
  return c + product;
}

inline float exp2_without_subnormals(float x) {
  const float result = __builtin_exp2f(x);
  return result < 0x1p-126f ? 0.0f : result;
}

inline void run_fibre() {
  block.run_thread();
  Fibre& fibre = block.fibres[block.thread];
  fibre.done = true;
  for (Meeting* meeting : {&block.barrier, &wave().meeting}) {
    if (meeting->arrived > 0) stop("a thread ends while others wait for it");
    --meeting->expected;
  }
  _longjmp(block.scheduler, 1);
}

inline void resume(Fibre& fibre) {
  if (_setjmp(block.scheduler) != 0) return;
  if (fibre.started) _longjmp(fibre.place, 1);
  fibre.started = true;
  setcontext(&fibre.start);
}

/// Says what each lane waits for, neighbours with the same reason in one line, and ends the program.
[[noreturn]] inline void stop_at_deadlock() {
  std::fprintf(stderr, "emulator: block %u:\n", block.number);
  for (unsigned first = 0; first < block.threads;) {
    const auto reason = [](const Fibre& fibre) {
      return fibre.done ? std::string("done") : "waits for " + fibre.wait.describe(fibre.wait.what, fibre.wait.detail);
    };
    const std::string of_first = reason(block.fibres[first]);
    unsigned end = first + 1;
    while (end < block.threads && end % kLanes != 0 && reason(block.fibres[end]) == of_first) ++end;
    std::fprintf(stderr, "emulator:   wave %u, lanes %u to %u: %s\n", first / kLanes, first % kLanes,
                 (end - 1) % kLanes, of_first.c_str());
    first = end;
  }
  stop("every lane waits for one that has gone another way");
}

inline void run_block() {
  constexpr std::size_t kStackBytes = 128 << 10;
  block.barrier = Meeting{static_cast<int>(block.threads)};
  block.waves.assign((block.threads + kLanes - 1) / kLanes, Wave{});
  for (unsigned i = 0; i < block.threads; ++i) ++block.waves[i / kLanes].meeting.expected;
  block.fibres.resize(block.threads);
  for (Fibre& fibre : block.fibres) {
    fibre.stack.resize(kStackBytes);
    fibre.started = fibre.done = false;
    fibre.wait = {};
    getcontext(&fibre.start);
    fibre.start.uc_stack.ss_sp = fibre.stack.data();
    fibre.start.uc_stack.ss_size = kStackBytes;
    fibre.start.uc_link = nullptr;
    makecontext(&fibre.start, run_fibre, 0);
  }
  if (block.begin) block.begin();
  std::minstd_rand random(run_ahead_seed);
  for (bool running = true; running;) {
    running = false;
    bool any_can = false;
    const std::uint32_t resting = run_ahead_seed == 0 ? 0 : static_cast<std::uint32_t>(random()) >> 8;  // a bit a wave
    for (block.thread = 0; block.thread < block.threads; ++block.thread) {
      Fibre& fibre = block.fibres[block.thread];
      if (fibre.done) continue;
      running = true;
      if (!fibre.wait.is_over()) continue;
      any_can = true;
      if (((resting >> block.thread / kLanes % 16) & 1u) == 0) resume(fibre);
    }
    if (running && !any_can) stop_at_deadlock();
  }
  if (block.end) block.end();
}

/// Runs all blocks of a kernel.
/// @param begin, end  called before and after each block, if given
inline void run(unsigned blocks, unsigned threads, std::function<void()> thread, std::function<void()> begin = {},
                std::function<void()> end = {}) {
  block.blocks = blocks;
  block.threads = threads;
  block.run_thread = std::move(thread);
  block.begin = std::move(begin);
  block.end = std::move(end);
  for (block.number = 0; block.number < blocks; ++block.number) run_block();
}

}  // namespace espalier::emulator

// The score product of one tile, LANES x TOKENS x DIM, by one thread with all operands in its caches:
//   tile_product/LANESxTOKENSxDIM/portable         the portable kernel's own product
//   tile_product/LANESxTOKENSxDIM/kokkos_batched   Kokkos Kernels' batched team GEMM
// backends/portable/README.md tells what came of it.

#include <benchmark/benchmark.h>

#include <KokkosBatched_Gemm_Decl.hpp>
#include <KokkosBatched_Gemm_Team_Impl.hpp>
#include <Kokkos_Core.hpp>
#include <cmath>
#include <string>

#include "backends/portable/panel.hpp"
#include "cli/random.hpp"

namespace {

using Exec = Kokkos::DefaultHostExecutionSpace;
using Member = Kokkos::TeamPolicy<Exec>::member_type;
using Matrix = Kokkos::View<float**, Kokkos::LayoutRight, Exec>;

constexpr int kTokens = 64, kDim = 128;
constexpr int kTiles = 4;        // K of so many tiles take turns
constexpr int kProducts = 2000;  // in one kernel, so that its launch does not count

struct Operands {
  Matrix q, k;        // [lanes, dim], [tiles * tokens, dim]
  Matrix transposed;  // q as the wide panels have it: [panel][dim][lane]
  Matrix scores;      // [lanes, tokens], by the portable kernel [panel][token][lane]

  explicit Operands(int lanes)
      : q("espalier::perf::q", lanes, kDim),
        k("espalier::perf::k", kTiles * kTokens, kDim),
        transposed("espalier::perf::transposed", (lanes + 31) / 32 * 32, kDim),
        scores("espalier::perf::scores", lanes, kTokens) {
    espalier::cli::Random random(3);
    for (const Matrix& matrix : {q, k})
      for (std::size_t i = 0; i < matrix.size(); ++i) matrix.data()[i] = random.normal();
    for (int lane = 0; lane < lanes; ++lane)
      for (int d = 0; d < kDim; ++d) transposed.data()[lane / 32 * 32 * kDim + d * 32 + lane % 32] = q(lane, d);
  }

  [[nodiscard]] const float* tile(int product) const { return k.data() + product % kTiles * kTokens * kDim; }

  /// The sum of all scores of the last product must be what a plain loop finds.
  [[nodiscard]] bool is_right() const {
    double expected = 0, found = 0, magnitude = 0;
    for (std::size_t lane = 0; lane < q.extent(0); ++lane)
      for (int t = 0; t < kTokens; ++t) {
        double score = 0;
        for (int d = 0; d < kDim; ++d) score += double(q(lane, d)) * double(tile(kProducts - 1)[t * kDim + d]);
        expected += score;
        magnitude += std::abs(score);
      }
    for (std::size_t i = 0; i < scores.size(); ++i) found += double(scores.data()[i]);
    return std::abs(found - expected) <= 1e-6 * magnitude;
  }
};

struct Portable {
  /// 32 lanes at a time: a scalar of K times vectors of lanes.
  static void wide(const Operands& operands, int lanes, const float* k) {
    using espalier::portable::kVectorFloats;
    using Vector = espalier::portable::Lanes<kVectorFloats>;
    for (int panel = 0; panel < lanes; panel += 32)
      for (int t = 0; t < kTokens; t += 8) {
        const float* rows = k + t * kDim;
        espalier::portable::block_product<32, 8, Vector, 32 / kVectorFloats>(
            kDim, [&](int i, int d) { return rows[i * kDim + d]; }, operands.transposed.data() + panel * kDim,
            operands.scores.data() + panel * kTokens + t * 32, nullptr);
      }
  }

  /// 4 lanes: vectors run along the dimensions.
  static void narrow(const Operands& operands, const float* k) {
    constexpr int kTogether = espalier::portable::kVectorFloats == 16 ? 4 : 2;
    for (int t = 0; t < kTokens; t += kTogether) {
      const float* keys[kTogether];
      for (int i = 0; i < kTogether; ++i) keys[i] = k + (t + i) * kDim;
      espalier::portable::dot_products<4, kTogether>(kDim, keys, operands.q.data(), operands.scores.data() + t * 4);
    }
  }

  static void product(const Member&, const Operands& operands, int lanes, const float* k) {
    lanes == 4 ? narrow(operands, k) : wide(operands, lanes, k);
  }
};

struct KokkosBatchedGemm {
  static void product(const Member& team, const Operands& operands, int, const float* k) {
    const Kokkos::View<const float**, Kokkos::LayoutRight, Exec, Kokkos::MemoryTraits<Kokkos::Unmanaged>> keys(
        k, kTokens, kDim);
    KokkosBatched::TeamGemm<Member, KokkosBatched::Trans::NoTranspose, KokkosBatched::Trans::Transpose,
                            KokkosBatched::Algo::Gemm::Blocked>::invoke(team, 1.0f, operands.q, keys, 0.0f,
                                                                        operands.scores);
  }
};

template <class Method>
void tile_product(benchmark::State& state, int lanes) {
  const Operands operands(lanes);
  const Exec exec;
  for ([[maybe_unused]] auto step : state) {
    Kokkos::parallel_for(
        "espalier::perf::tile_product", Kokkos::TeamPolicy<Exec>(exec, 1, 1), KOKKOS_LAMBDA(const Member& team) {
          for (int i = 0; i < kProducts; ++i) {
            Method::product(team, operands, lanes, operands.tile(i));
            benchmark::ClobberMemory();
          }
        });
    exec.fence("espalier::perf::tile_product");
  }
  state.counters["flops"] =
      benchmark::Counter(2.0 * lanes * kTokens * kDim * kProducts, benchmark::Counter::kIsIterationInvariantRate);
  if (!operands.is_right()) state.SkipWithError("the product is wrong");
}

[[maybe_unused]] const bool registered = [] {
  for (const int lanes : {256, 32, 4}) {
    const std::string name = "tile_product/" + std::to_string(lanes) + "x64x128/";
    for (auto* benchmark :
         {benchmark::RegisterBenchmark(name + "portable",
                                       [=](benchmark::State& state) { tile_product<Portable>(state, lanes); }),
          benchmark::RegisterBenchmark(name + "kokkos_batched", [=](benchmark::State& state) {
            tile_product<KokkosBatchedGemm>(state, lanes);
          })})
      benchmark->MeasureProcessCPUTime()->UseRealTime()->Unit(benchmark::kMillisecond);
  }
  return true;
}();

}  // namespace

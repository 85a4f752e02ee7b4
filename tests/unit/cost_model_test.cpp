#include "espalier/cost_model.hpp"

#include <catch2/catch_test_macros.hpp>
#include <utility>

#include "espalier/plan.hpp"

namespace espalier {

TEST_CASE("a GPU's name decides its cost model", "[cost_model]") {
  CHECK(gpu_cost_model("NVIDIA H200") == kH200CostModel);
  CHECK(gpu_cost_model("NVIDIA GH200 120GB") == kH200CostModel);
  CHECK(gpu_cost_model("NVIDIA H100 80GB HBM3") == kH100CostModel);
  CHECK(gpu_cost_model("NVIDIA A100-SXM4-80GB") == kA100CostModel);
  CHECK(gpu_cost_model("NVIDIA L4") == kA100CostModel);
  CHECK(gpu_cost_model("AMD Instinct MI300X") == kMi300CostModel);
  CHECK(gpu_cost_model("AMD Instinct MI250X") == kMi300CostModel);
}

TEST_CASE("workers that share a multiprocessor share its rates", "[cost_model]") {
  CHECK(detail::shared_by(kH200CostModel, 132, 132) == kH200CostModel);
  CHECK(detail::shared_by(kH200CostModel, 7, 132) == kH200CostModel);
  CostModel half = kH200CostModel;
  half.read_gbs /= 2;
  half.math_gflops /= 2;
  CHECK(detail::shared_by(kH200CostModel, 264, 132) == half);
}

TEST_CASE("lanes fill panels, and the rest of them the narrowest that holds it", "[cost_model]") {
  const detail::TileCost cost = detail::tile_cost_of({1, 1, 1, 1, 1, 4, false, 32}, {4, 2, 128}, Scalar::f32);
  for (const auto& [lanes, padded] : {std::pair{1, 4},
                                      {4, 4},
                                      {5, 8},
                                      {8, 8},
                                      {9, 16},
                                      {17, 32},
                                      {32, 32},
                                      {33, 36},
                                      {45, 48},
                                      {64, 64},
                                      {90, 96},
                                      {97, 100}})
    CHECK(cost.with_padding(lanes) == padded);
  const detail::TileCost plain = detail::tile_cost_of({1, 1, 1, 1, 1, 16, true}, {4, 2, 128}, Scalar::f32);
  for (const auto& [lanes, padded] : {std::pair{1, 16}, {16, 16}, {17, 32}, {33, 48}})
    CHECK(plain.with_padding(lanes) == padded);
}

TEST_CASE("a plan has the cost model of its execution space unless it is given one", "[cost_model]") {
  using Exec = Kokkos::DefaultHostExecutionSpace;
  CHECK(Plan<Exec>(Exec(), {.heads = {4, 2, 32}}).config().cost_model == kCpuCostModel);
  CHECK(Plan<Exec>(Exec(), {.heads = {4, 2, 32}, .cost_model = kH200CostModel}).config().cost_model == kH200CostModel);
}

}  // namespace espalier

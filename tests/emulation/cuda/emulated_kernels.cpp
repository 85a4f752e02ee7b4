#include "tests/emulation/cuda/emulated_kernels.hpp"

#include "backends/cuda/sm80/attend.hpp"
#include "backends/cuda/sm90/attend.hpp"
#include "backends/gpu/any_element.hpp"
#include "tests/emulation/cuda/copy_engine.hpp"

namespace espalier::test {
namespace {

using backend::Shape;
using espalier::detail::AttendParams;
using espalier::detail::FusedPlanView;

constexpr std::size_t kSharedBytesOfBlock[] = {99 << 10, 227 << 10};  // of the smallest sm_80 to 89, of sm_90

std::string runs_anywhere() { return ""; }
std::string status_text(int) { return "an emulated launch fails"; }

namespace sm90 {

std::string why_not_shape(const Shape& shape) {
  return gpu::sm90::why_not_shape(shape.scalar, shape.head_dim, shape.block_tokens);
}

std::string why_not_params(const AttendParams& call) { return gpu::sm90::unsupported_reason(call); }

int attend(const AttendParams& call, const FusedPlanView& plan, std::int32_t q_rows, bool is_settled, backend::Stream) {
  emulator::shared_limit = kSharedBytesOfBlock[1];
  return gpu::sm90::attend({call, plan, q_rows, is_settled}, nullptr);
}

}  // namespace sm90

namespace sm80 {

std::string why_not_shape(const Shape& shape) { return gpu::sm80::why_not_shape(shape.scalar, shape.head_dim); }

std::string why_not_params(const AttendParams& call) { return gpu::sm80::unsupported_reason(call); }

backend::TileSize tile_size(const Shape& shape) {
  return {gpu::sm80::most_pairs(shape.head_dim), gpu::sm80::wanted_workers(shape.scalar, shape.head_dim)};
}

int attend(const AttendParams& call, backend::Stream) {
  emulator::shared_limit = kSharedBytesOfBlock[0];
  return gpu::sm80::attend(call, nullptr);
}

}  // namespace sm80

}  // namespace

void emulated_sm80_attend(const AttendParams& params) {
  const int status =
      emulated_sm80_takes(params) ? sm80::attend(params, nullptr) : int(gpu::simt_attend(params, nullptr));
  if (status != cudaSuccess) emulator::stop("a launch fails");
}

bool emulated_sm80_takes(const AttendParams& params) { return sm80::why_not_params(params).empty(); }

int emulated_sm80_most_pairs(int head_dim) { return gpu::sm80::most_pairs(head_dim); }

void emulated_sm90_attend(const AttendParams& params, const FusedPlanView& plan, std::int32_t q_rows,
                          const EmulatedTiming& timing) {
  emulator::run_ahead_seed = timing.run_ahead_seed;
  emulator::arrives_late = timing.arrives_late;
  if (sm90::attend(params, plan, q_rows, false, nullptr) != cudaSuccess) emulator::stop("a launch fails");
  emulator::run_ahead_seed = 0;
  emulator::arrives_late = false;
}

int emulated_maps_encoded() { return encoded_maps; }

int emulated_graph_launches() { return emulator::launched_graphs; }
int emulated_live_graphs() { return emulator::live_graphs; }

void run_captured(const std::function<void()>& enqueue, int times) {
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t exec = nullptr;
  cudaStreamBeginCapture(nullptr, cudaStreamCaptureModeRelaxed);
  enqueue();
  cudaStreamEndCapture(nullptr, &graph);
  cudaGraphInstantiate(&exec, graph, 0);
  for (int i = 0; i < times; ++i) cudaGraphLaunch(exec, nullptr);
  emulator::launched_graphs -= times;
  cudaGraphExecDestroy(exec);
  cudaGraphDestroy(graph);
}

std::vector<backend::FusedKernel> emulated_cuda_kernels(const char* space) {
  return {{.name = "cuda-sm90-emulated",
           .backend = space,
           .form = backend::PlanForm::stacks,
           .is_automatic = false,
           .why_not_here = runs_anywhere,
           .why_not_shape = sm90::why_not_shape,
           .why_not_params = sm90::why_not_params,
           .tile_size = nullptr,
           .attend_tiles = nullptr,
           .attend_stacks = sm90::attend,
           .capture_of = nullptr,
           .append = nullptr,  // others of the list would append in its name
           .status_text = status_text,
           .is_emulated = true},
          {.name = "cuda-sm80-emulated",
           .backend = space,
           .form = backend::PlanForm::tiles,
           .is_automatic = false,
           .why_not_here = runs_anywhere,
           .why_not_shape = sm80::why_not_shape,
           .why_not_params = sm80::why_not_params,
           .tile_size = sm80::tile_size,
           .attend_tiles = sm80::attend,
           .attend_stacks = nullptr,
           .capture_of = nullptr,
           .append = nullptr,
           .status_text = status_text,
           .is_emulated = true}};
}

}  // namespace espalier::test

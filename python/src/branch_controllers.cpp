#include <nanobind/nanobind.h>
#include <nanobind/stl/unique_ptr.h>
#include <nanobind/stl/vector.h>

#include "bind.hpp"
#include "espalier/branch_controller.hpp"

namespace espalier::python {

namespace nb = nanobind;
using namespace nb::literals;

void bind_branch_controllers(nb::module_& m) {
  nb::class_<BranchScore>(m, "BranchScore", "A live branch and what the model thinks of it after a step.")
      .def(
          "__init__",
          [](BranchScore* self, BranchId branch, double score, bool finished) {
            new (self) BranchScore{branch, score, finished};
          },
          "branch"_a, "score"_a, "finished"_a = false,
          "score: higher is better; finished: the branch has produced its end.")
      .def_ro("branch", &BranchScore::branch)
      .def_ro("score", &BranchScore::score)
      .def_ro("finished", &BranchScore::finished);

  nb::class_<BranchController>(m, "BranchController", R"(Decides after each step which branches to fork and prune.

    created = tree.apply(controller.decide(scores))

A controller remembers how far its search has come: use a new one for each search.)")
      .def(
          "decide",
          [](BranchController& controller, const std::vector<BranchScore>& branches) {
            return controller.decide(branches);
          },
          "branches"_a,
          "Takes every live branch of the search once; of two equal scores the first is better. Raises ValueError for\n"
          "a score that is NaN.");

  m.def(
      "make_beam_search", [](std::int32_t width) { return make_beam_search({width}); }, "width"_a,
      "Keeps the best half of `width` branches (rounded up), then forks them until there are `width` again.");
  m.def(
      "make_tree_of_thoughts",
      [](std::int32_t keep, std::int32_t expand, std::int32_t depth) {
        return make_tree_of_thoughts({keep, expand, depth});
      },
      "keep"_a, "expand"_a, "depth"_a,
      "Breadth-first: `depth` times keeps the best `keep` branches and expands each into `expand`; then the best "
      "alone.");
  m.def(
      "make_best_of_n", [](std::int32_t samples) { return make_best_of_n({samples}); }, "samples"_a,
      "Forks the prompt into `samples` branches, then prunes what is worse than the best finished one.");
  m.def(
      "make_speculative_accept", [](std::int32_t drafts) { return make_speculative_accept({drafts}); }, "drafts"_a,
      "Accepts the best branch, prunes the others, and forks `drafts` drafts from it.");
}

}  // namespace espalier::python

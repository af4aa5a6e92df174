// topk_masks on the CPU: bracket, sweep, settle (docs/design.md, "Selection").
#include <ATen/ATen.h>
#include <torch/library.h>

#include <vector>

#include "../checks.h"
#include "../dispatch.h"
#include "../selection.h"
#include "bracket.h"
#include "settle.h"
#include "sweep.h"
#include "test_hooks.h"
#include "tiles.h"

namespace fastprune::cpu {

bool& force_fallback() {
  static bool value = false;
  return value;
}

long& fallbacks() {
  static long count = 0;
  return count;
}

namespace {

template <class F, class M>
void settle(const TileList<F, M>& list, const Bracket<typename F::Key>& bracket,
            const Undecided<typename F::Key>& undecided) {
  if (bracket.rank == 0) return;
  if (bracket.lo == bracket.hi) {
    settle_ties(list, bracket, undecided);
  } else {
    settle_candidates(list, bracket, undecided);
  }
}

// One read of the data. False if the sample misled: then some of `out` is wrong, and nothing else.
template <class F, class M>
bool select_by_sample(const TileList<F, M>& list, const Amount& amount) {
  Bracket<typename F::Key> bracket = sampled_bracket(list, amount);
  const Undecided<typename F::Key> undecided = sweep(list, bracket);
  check_count_fits(amount, undecided.counts.active);
  bracket.below = undecided.counts.below;
  bracket.inside = undecided.counts.inside;
  bracket.rank = budget(amount, undecided.counts.active) - bracket.below;
  const bool missed = bracket.rank < 0 || bracket.rank > bracket.inside;
  if (missed || undecided.overflow || force_fallback()) {
    ++fallbacks();
    return false;
  }
  settle(list, bracket, undecided);
  return true;
}

template <class F, class M>
void select(const TopkArgs& args, bool active_only, bool largest) {
  const TileList<F, M> list(args, active_only, largest);
  // Sixteen-bit keys need one histogram for the exact threshold, so no sample.
  if (F::kKeyBits > kWideDigit && list.total >= kSampleFrom &&
      select_by_sample(list, args.amount)) {
    return;
  }
  const Bracket<typename F::Key> bracket = histogram_bracket(list, args.amount);
  settle(list, bracket, sweep(list, bracket));
}

std::vector<at::Tensor> topk_masks(at::TensorList scores,
                                   const c10::List<std::optional<at::Tensor>>& masks,
                                   const at::Scalar& amount, bool active_only, bool largest,
                                   std::optional<at::ScalarType> dtype) {
  TopkArgs args = check_topk_masks(scores, masks, amount, dtype);
  if (scores.empty()) return {};
  dispatch_score(scores[0].scalar_type(), [&](auto format) {
    dispatch_mask_width(at::elementSize(args.mask_dtype), [&](auto element) {
      select<decltype(format), decltype(element)>(args, active_only, largest);
    });
  });
  return args.finish();
}

}  // namespace

TORCH_LIBRARY_IMPL(fastprune, CPU, m) {
  m.impl("topk_masks", &topk_masks);
}

}  // namespace fastprune::cpu

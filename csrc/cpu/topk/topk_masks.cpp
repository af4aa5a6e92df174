// topk_masks on the CPU: sampled bracket (Floyd-Rivest) with a radix-select fallback. Here its
// steps bracket, sweep and fixup (docs/design.md, "Selection"), and the operators.
#include <ATen/core/Tensor.h>
#include <torch/library.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "args/topk.h"
#include "common/dtypes.h"
#include "common/selection.h"
#include "cpu/topk/bracket.h"
#include "cpu/topk/fixup.h"
#include "cpu/topk/sweep.h"
#include "cpu/topk/tiles.h"
#include "cpu/util/each.h"
#include "cpu/util/fresh_pages.h"
#include "testing/hooks.h"

namespace fastprune::cpu {

namespace {

enum class Outcome { kFound, kMissedBelow, kMissedAbove, kOverflow };

// Sweeps and, if the threshold is in the bracket, does the fixup; otherwise says where the
// threshold is, and some entries of `out` are wrong.
template <class F, class M>
Outcome try_bracket(const TileList<F, M>& list, const Amount& amount,
                    Bracket<typename F::Key> bracket, typename F::Key pivot) {
  const SweepResult<typename F::Key> swept = sweep(list, bracket, pivot);
  if (swept.overflow) return Outcome::kOverflow;
  check_count_fits(amount, swept.counts.active);
  bracket.below = swept.counts.below;
  bracket.inside = swept.counts.inside;
  bracket.rank = budget(amount, swept.counts.active) - bracket.below;
  if (bracket.rank < 0) return Outcome::kMissedBelow;
  if (bracket.rank > bracket.inside) return Outcome::kMissedAbove;
  fixup(list, bracket, pivot, swept);
  return Outcome::kFound;
}

// Reads the data once, unless there are too many candidates. Then an end of the bracket is probably
// the key of very many entries (as if half is pruned of what is half zeros), so each end is tried
// alone, then the keys between them. False if the bracket missed the threshold.
template <class F, class M>
bool select_by_sample(const TileList<F, M>& list, const Amount& amount) {
  using Key = typename F::Key;
  SampledBracket<Key> sampled = sampled_bracket(list, amount);
  Bracket<Key>& bracket = sampled.bracket;
  if (const ForcedMiss miss = test_hooks().forced_miss; miss != ForcedMiss::kNone) {
    bracket.lo = bracket.hi = forced_miss_key<F>(miss);
  }
  const auto attempt = [&](Key lo, Key hi) {
    return try_bracket(list, amount, Bracket<Key>{lo, hi, 0, 0, 0},
                       std::clamp(sampled.pivot, lo, hi));
  };
  Outcome outcome = attempt(bracket.lo, bracket.hi);
  if (outcome == Outcome::kOverflow) {
    outcome = attempt(bracket.lo, bracket.lo);
    if (outcome == Outcome::kMissedAbove) outcome = attempt(bracket.hi, bracket.hi);
    if (outcome == Outcome::kMissedBelow && bracket.hi - bracket.lo > 1) {
      outcome = attempt(bracket.lo + 1, bracket.hi - 1);
    }
  }
  return outcome == Outcome::kFound;
}

template <class F, class M>
void select(const TileList<F, M>& list, const Amount& amount) {
  if (list.total == 0) return check_count_fits(amount, 0);
  if (select_by_sample(list, amount)) return;
  ++test_hooks().fallbacks;
  const Bracket<typename F::Key> bracket = histogram_bracket(list, amount);
  fixup(list, bracket, bracket.lo, sweep(list, bracket, bracket.lo));
}

// Tensors of fewer entries are selected from by one worker each, others by all workers.
constexpr int64_t kSharedFrom = 4 * kTile;

// Each tensor by itself.
template <class F, class M>
void select_each(const TopkArgs& args, bool active_only, bool largest) {
  const auto count = static_cast<int64_t>(args.scores.size());
  const auto select_from = [&](int64_t s) {
    const TileList<F, M> list(args, s, s + 1, active_only, largest);
    select(list, args.amounts[s]);
  };
  for (int64_t s = 0; s < count; ++s) {
    if (args.scores[s].numel() >= kSharedFrom) select_from(s);
  }
  at::parallel_for(0, count, 1, [&](int64_t first, int64_t last) {
    for (int64_t s = first; s < last; ++s) {
      if (args.scores[s].numel() < kSharedFrom) select_from(s);
    }
  });
}

void select_and_write(const TopkArgs& args, bool active_only, bool largest) {
  for (const Output& output : args.outputs) advise_huge_pages(output.work);
  for (const at::Tensor& product : args.products) advise_huge_pages(product);
  dispatch_scores(args.rank_dtype(), [&](auto format) {
    dispatch_mask_width(at::elementSize(args.mask_dtype), [&](auto bits) {
      using F = decltype(format);
      using M = decltype(bits);
      if (args.amounts.size() > 1) return select_each<F, M>(args, active_only, largest);
      select(TileList<F, M>(args, 0, args.scores.size(), active_only, largest), args.amounts[0]);
    });
  });
}

}  // namespace

TORCH_LIBRARY_IMPL(fastprune, CPU, m) {
  m.impl("topk_masks", &topk_masks<OnCpu, &select_and_write>);
  m.impl("topk_prune", &topk_prune<OnCpu, &select_and_write>);
}

}  // namespace fastprune::cpu

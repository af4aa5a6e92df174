// topk_masks on the CPU: bracket, sweep, settle (docs/design.md, "Selection").
#include <ATen/ATen.h>
#include <torch/library.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "args/topk.h"
#include "common/dtypes.h"
#include "common/op_types.h"
#include "common/selection.h"
#include "cpu/elementwise/masked_mul.h"
#include "cpu/topk/bracket.h"
#include "cpu/topk/fixup.h"
#include "cpu/topk/sweep.h"
#include "cpu/topk/tiles.h"
#include "cpu/util/fresh_pages.h"
#include "testing/hooks.h"

namespace fastprune::cpu {

namespace {

template <class F, class M>
void settle(const TileList<F, M>& list, const Bracket<typename F::Key>& bracket,
            typename F::Key guess, const Undecided<typename F::Key>& undecided) {
  if (bracket.lo == bracket.hi) {
    settle_ties(list, bracket, undecided);
  } else {
    settle_candidates(list, bracket, guess, undecided);
  }
}

enum class Outcome { kSettled, kBelow, kAbove, kOverflow };

// Sweeps with a bracket and settles if the threshold is inside; else says where it is. Until then
// some of `out` is wrong, and nothing else.
template <class F, class M>
Outcome try_bracket(const TileList<F, M>& list, const Amount& amount,
                    Bracket<typename F::Key> bracket, typename F::Key guess) {
  const Undecided<typename F::Key> undecided = sweep(list, bracket, guess);
  if (undecided.overflow) return Outcome::kOverflow;
  check_count_fits(amount, undecided.counts.active);
  bracket.below = undecided.counts.below;
  bracket.inside = undecided.counts.inside;
  bracket.rank = budget(amount, undecided.counts.active) - bracket.below;
  if (bracket.rank < 0) return Outcome::kBelow;
  if (bracket.rank > bracket.inside) return Outcome::kAbove;
  settle(list, bracket, guess, undecided);
  return Outcome::kSettled;
}

// One read of the data, unless too many entries are inside the bracket: then one of its ends is
// likely to be the key of very many (pruning half of what is half zeros ends there), so the ends
// are tried alone, and what lies between them. False if the sample misled.
template <class F, class M>
bool select_by_sample(const TileList<F, M>& list, const Amount& amount) {
  using Key = typename F::Key;
  Guessed<Key> sampled = sampled_bracket(list, amount);
  Bracket<Key>& bracket = sampled.bracket;
  if (const ForcedMiss miss = test_hooks().forced_miss; miss != ForcedMiss::kNone) {
    bracket.lo = bracket.hi = forced_miss_key<F>(miss);
  }
  const auto attempt = [&](Key lo, Key hi) {
    return try_bracket(list, amount, Bracket<Key>{lo, hi, 0, 0, 0},
                       std::clamp(sampled.guess, lo, hi));
  };
  Outcome outcome = attempt(bracket.lo, bracket.hi);
  if (outcome == Outcome::kOverflow) {
    outcome = attempt(bracket.lo, bracket.lo);
    if (outcome == Outcome::kAbove) outcome = attempt(bracket.hi, bracket.hi);
    if (outcome == Outcome::kBelow && bracket.hi - bracket.lo > 1) {
      outcome = attempt(bracket.lo + 1, bracket.hi - 1);
    }
  }
  return outcome == Outcome::kSettled;
}

template <class F, class M>
void select(const TopkArgs& args, bool active_only, bool largest) {
  const TileList<F, M> list(args, active_only, largest);
  if (list.total == 0) return check_count_fits(args.amount, 0);
  if (select_by_sample(list, args.amount)) return;
  ++test_hooks().fallbacks;
  const Bracket<typename F::Key> bracket = histogram_bracket(list, args.amount);
  settle(list, bracket, bracket.lo, sweep(list, bracket, bracket.lo));
}

void select(const TopkArgs& args, bool active_only, bool largest) {
  for (const Output& output : args.outputs) advise_huge_pages(output.work);
  for (const at::Tensor& product : args.products) advise_huge_pages(product);
  dispatch_scores(args.scores[0].scalar_type(), [&](auto format) {
    dispatch_mask_width(at::elementSize(args.mask_dtype), [&](auto bits) {
      select<decltype(format), decltype(bits)>(args, active_only, largest);
    });
  });
}

std::vector<at::Tensor> topk_masks(at::TensorList scores, const MaskList& masks,
                                   const at::Scalar& amount, bool active_only, bool largest,
                                   std::optional<at::ScalarType> dtype) {
  const std::vector<at::Tensor> old_masks = to_vector(masks);
  check_topk_masks(scores, old_masks, amount, dtype);
  if (scores.empty()) return {};
  TopkArgs args = prepare_topk_masks(scores, old_masks, amount, dtype);
  select(args, active_only, largest);
  return args.finish();
}

TensorLists topk_prune(at::TensorList scores, const MaskList& masks, at::TensorList ts,
                       const at::Scalar& amount, bool active_only) {
  check_topk_prune(scores, ts);
  if (scores.empty()) return {};
  const std::vector<at::Tensor> old_masks = to_vector(masks);
  check_topk_masks(scores, old_masks, amount, std::nullopt);
  TopkArgs args = prepare_topk_masks(scores, old_masks, amount, std::nullopt);
  prepare_topk_prune(args, ts, kFusion);
  select(args, active_only, /*largest=*/false);
  std::vector<at::Tensor> new_masks = args.finish();
  if (args.products.empty()) args.products = masked_muls(ts, new_masks);
  return {std::move(new_masks), std::move(args.products)};
}

}  // namespace

TORCH_LIBRARY_IMPL(fastprune, CPU, m) {
  m.impl("topk_masks", &topk_masks);
  m.impl("topk_prune", &topk_prune);
}

}  // namespace fastprune::cpu

// topk_masks on the CPU: bracket, sweep, settle (docs/design.md, "Selection").
#include <ATen/ATen.h>
#include <torch/library.h>

#include <algorithm>
#include <tuple>
#include <vector>

#include "args/checks.h"
#include "common/dtypes.h"
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
  if (const Misled misled = test_hooks().misled; misled != Misled::kNot) {
    bracket.lo = bracket.hi = misled_key<F>(misled);
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

std::vector<at::Tensor> topk_masks(at::TensorList scores,
                                   const c10::List<std::optional<at::Tensor>>& masks,
                                   const at::Scalar& amount, bool active_only, bool largest,
                                   std::optional<at::ScalarType> dtype) {
  TopkArgs args = check_topk_masks(scores, masks, amount, dtype);
  if (scores.empty()) return {};
  for (const at::Tensor& out : args.work) advise_huge_pages(out);
  dispatch_score(scores[0].scalar_type(), [&](auto format) {
    dispatch_mask_width(at::elementSize(args.mask_dtype), [&](auto element) {
      select<decltype(format), decltype(element)>(args, active_only, largest);
    });
  });
  return args.finish();
}

// Whether the sweep writes the products: where masks are of their dtype, float32 or float64.
bool fuses(const TopkArgs& args, at::TensorList ts) {
  const at::ScalarType dtype = args.scores[0].scalar_type();
  return can_fuse(args, ts) && args.mask_dtype == dtype &&
         (dtype == at::kFloat || dtype == at::kDouble);
}

std::tuple<std::vector<at::Tensor>, std::vector<at::Tensor>> topk_prune(
    at::TensorList scores, const c10::List<std::optional<at::Tensor>>& masks, at::TensorList ts,
    const at::Scalar& amount, bool active_only) {
  check_topk_prune(scores, ts);
  if (scores.empty()) return {};
  TopkArgs args = check_topk_masks(scores, masks, amount, std::nullopt);
  for (const at::Tensor& out : args.work) advise_huge_pages(out);
  const bool fused = fuses(args, ts);
  if (fused) {
    for (const at::Tensor& t : ts) {
      args.ts.push_back(t);
      args.products.push_back(advise_huge_pages(at::empty_like(t)));
    }
  }
  dispatch_score(scores[0].scalar_type(), [&](auto format) {
    dispatch_mask_width(at::elementSize(args.mask_dtype), [&](auto element) {
      select<decltype(format), decltype(element)>(args, active_only, /*largest=*/false);
    });
  });
  std::vector<at::Tensor> products = std::move(args.products);
  std::vector<at::Tensor> out = args.finish();
  if (!fused) products = masked_muls(ts, out);
  return {std::move(out), std::move(products)};
}

}  // namespace

TORCH_LIBRARY_IMPL(fastprune, CPU, m) {
  m.impl("topk_masks", &topk_masks);
  m.impl("topk_prune", &topk_prune);
}

}  // namespace fastprune::cpu

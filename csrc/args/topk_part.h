// A selection over parts: lists of tensors on several devices, of several dtypes or in several
// processes, with one budget over all of them. Each part sweeps its own tensors; what the parts
// exchange, through whoever drives them (python/fastprune/parts.py), are samples and counts.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/ivalue.h>
#include <ATen/ops/promote_types.h>

#include <cstdint>
#include <optional>
#include <tuple>
#include <vector>

#include "args/topk.h"
#include "common/dtypes.h"
#include "common/part_bins.h"
#include "common/places.h"
#include "common/promote.h"

namespace fastprune {

// Keys are those of `keys_of`, to which every part's scores promote; flipped where the largest go
// first. An interval of keys is [lo, hi].
class TopkPart : public torch::CustomClassHolder {
 public:
  // The keys of one entry in `stretch`, but for those that are not active, and how many entries
  // were drawn.
  virtual std::tuple<at::Tensor, int64_t> sample(int64_t stretch) = 0;

  // Writes all masks as if `pivot` were the threshold. Of active entries: how many there are, how
  // many are below the interval, and how many in it, which are stored unless it is one key; and
  // whether they had room. If not, the counts are not complete.
  std::tuple<int64_t, int64_t, int64_t, bool> sweep(int64_t lo, int64_t pivot, int64_t hi);

  // How many active entries have keys in each of kPartBins intervals of 2^shift keys, from lo on.
  // With `stored`, of those that the sweep stored.
  at::Tensor histogram(int64_t lo, int64_t shift, bool stored);

  // The same of the places of the entries with one key. `places` has for each tensor the place of
  // its first entry and, unless its entries have consecutive places, for each dim what each index
  // adds.
  at::Tensor tie_histogram(int64_t key, int64_t lo, int64_t shift, bool stored,
                           std::vector<at::Tensor> places);

  // Prunes what is below the threshold, of which there are `below` entries, and the first `due` of
  // those that equal it.
  void fixup(int64_t threshold, int64_t below, int64_t due, bool stored);

  // Once, in the end.
  std::vector<at::Tensor> masks();

 protected:
  explicit TopkPart(size_t tensors) : tensors_(tensors) {}

  // What a device does in each phase.
  virtual std::tuple<int64_t, int64_t, int64_t, bool> do_sweep(int64_t lo, int64_t pivot,
                                                               int64_t hi) = 0;
  virtual at::Tensor do_histogram(int64_t lo, int64_t shift, bool stored) = 0;
  virtual at::Tensor do_tie_histogram(int64_t key, int64_t lo, int64_t shift, bool stored,
                                      const std::vector<at::Tensor>& places) = 0;
  virtual void do_fixup(int64_t threshold, int64_t below, int64_t due, bool stored) = 0;
  virtual std::vector<at::Tensor> do_masks() = 0;

 private:
  enum class Phase { kMade, kOverflowed, kSwept, kFixed, kTaken };

  void expect(const char* what, bool holds, const char* expected) const;
  void expect_stored(const char* what, bool stored) const;

  size_t tensors_;
  Phase phase_ = Phase::kMade;
};

// Tells torch of the class. Each library that registers an operator that makes one calls this
// first, as the order in which they come is not given.
void define_topk_part();

inline KeyLayout layout_of(at::ScalarType dtype) {
  KeyLayout layout{};
  dispatch_scores(dtype, [&](auto format) { layout = key_layout<decltype(format)>(); });
  return layout;
}

// In addition to check_topk_masks.
inline void check_topk_part(at::TensorList scores, at::ScalarType keys) {
  constexpr const char* op = "topk_part";
  TORCH_CHECK(is_native_float(keys) && at::promote_types(scores[0].scalar_type(), keys) == keys, op,
              "(): expected keys to be of a dtype to which scores promote, ",
              scores[0].scalar_type(), ", got ", keys);
}

// kMake: of the arguments, a part of scores of their dtype.
template <class Device, auto kMake>
c10::intrusive_ptr<TopkPart> topk_part(at::TensorList scores, const OptionalTensorList& masks,
                                       at::ScalarType keys, bool active_only, bool largest,
                                       std::optional<at::ScalarType> dtype) {
  const std::vector<at::Tensor> old_masks = to_vector(masks);
  const at::Scalar nothing(0);
  check_topk_masks("topk_part", scores, old_masks, nothing, {}, dtype);
  check_topk_part(scores, keys);
  const typename Device::Guard guard(scores[0]);
  return kMake(prepare_topk_masks(scores, old_masks, nothing, {}, dtype), keys, active_only,
               largest);
}

// The table for tie_place() of a tensor's entries.
inline std::vector<int64_t> places_table(const at::Tensor& scores, const at::Tensor& places) {
  int64_t entries = 1;
  for (const int64_t size : scores.sizes()) entries += size;
  TORCH_CHECK(places.is_cpu() && places.is_contiguous() &&
                  (places.numel() == 1 || places.numel() == entries),
              "topk_part: expected places of a tensor of shape ", scores.sizes(),
              " to have 1 entry or ", entries, " on the CPU, got ", places.numel(), " on ",
              places.device());
  const auto* given = places.const_data_ptr<int64_t>();
  if (places.numel() == 1) return {given[0], 0};
  std::vector<int64_t> table{given[0], scores.dim()};
  table.insert(table.end(), scores.sizes().begin(), scores.sizes().end());
  table.insert(table.end(), given + 1, given + entries);
  return table;
}

}  // namespace fastprune

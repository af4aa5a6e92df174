// Memory that one tensor alone can see.
#pragma once

#include <ATen/ATen.h>
#include <ATen/CachedTensorUtils.h>

namespace fastprune {

// Whether this handle is the only one to the tensor, and the tensor the only one of its memory:
// when torch::autograd::InputBuffer accumulates in place, too. Memory that no torch allocator made
// (not resizable) may be held by someone who does not count, as that of torch.from_numpy.
inline bool is_owned_by_one(const at::Tensor& t) {
  return t.is_non_overlapping_and_dense() && at::caching::adjusted_use_count(t) == 1 &&
         t.storage().use_count() == 1 && t.storage().resizable();
}

}  // namespace fastprune

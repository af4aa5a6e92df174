// Memory that one tensor alone can see.
#pragma once

#include <ATen/CachedTensorUtils.h>
#include <ATen/core/Tensor.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/InferenceMode.h>
#include <torch/version.h>

namespace fastprune {

// From this release on a tensor that Python has seen counts as held for as long as it lives.
// Before, a hook could have handed a gradient to another stream and let go of it.
constexpr bool kSeenIsHeld = TORCH_VERSION_MAJOR > 2 || TORCH_VERSION_MINOR >= 11;

// Whether the memory is as torch's allocator gave it. Other memory may be held by someone who does
// not count, as torch.from_numpy's, another process's, or what is shared until it is written.
inline bool is_of_allocator(const at::Tensor& t) {
  const c10::Storage& storage = t.storage();
  if (t.storage_offset() != 0 || storage.nbytes() != t.nbytes()) return false;
  if (t.is_cpu()) {
    return storage.data_ptr().get_deleter() == c10::GetCPUAllocator()->raw_deleter();
  }
  return kSeenIsHeld && storage.resizable();
}

// Whether this handle is the only one to the tensor, and the tensor the only one of its memory:
// when torch::autograd::InputBuffer accumulates in place, too. A result in its memory is a tensor
// of the same kind, so whether it is an inference tensor has to fit.
inline bool is_owned_by_one(const at::Tensor& t) {
  return t.is_non_overlapping_and_dense() && at::caching::adjusted_use_count(t) == 1 &&
         t.storage().use_count() == 1 && is_of_allocator(t) &&
         t.is_inference() == c10::InferenceMode::is_enabled();
}

}  // namespace fastprune

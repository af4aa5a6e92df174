// Packing of masks on the CPU.
#pragma once

#include <ATen/core/Tensor.h>

#include <utility>

namespace fastprune::cpu {

// The packed mask (common/packed.h), and whether all entries are 0 or 1. The mask is plain, of a
// dtype of masks.
std::pair<at::Tensor, bool> pack(const at::Tensor& mask);

}  // namespace fastprune::cpu

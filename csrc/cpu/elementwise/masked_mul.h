// The parts of masked_mul.cpp that other CPU operators call.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

namespace fastprune {
struct SameLayout;
}

namespace fastprune::cpu {

// mask * t of entries [begin, end) in order of memory. The output may be t itself.
void multiply_range(const SameLayout& flat, const at::Tensor& out, int64_t begin, int64_t end);

// masked_mul of a native pair with the same strides, without gaps, into memory of that layout.
void masked_mul_out(const at::Tensor& t, const at::Tensor& mask, const at::Tensor& out);

std::vector<at::Tensor> masked_muls(at::TensorList ts, at::TensorList masks);

}  // namespace fastprune::cpu

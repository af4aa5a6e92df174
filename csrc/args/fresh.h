// Memory that a kernel is about to write as a whole, without the calls through the dispatcher that
// at::empty_like makes, which for a list of small tensors take longer than its kernels, and without
// the fill that torch.use_deterministic_algorithms(True) asks of at::empty.
#pragma once

#include <ATen/EmptyTensor.h>
#include <ATen/ExpandUtils.h>
#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#ifdef FASTPRUNE_WITH_CUDA
#include <ATen/cuda/EmptyTensor.h>
#endif

namespace fastprune {

inline at::Tensor fresh_strided(at::IntArrayRef sizes, at::IntArrayRef strides,
                                at::ScalarType dtype, at::Device device) {
#ifdef FASTPRUNE_WITH_CUDA
  if (device.is_cuda()) {
    return at::Tensor(at::detail::empty_strided_cuda(sizes, strides, dtype, device));
  }
#endif
  TORCH_INTERNAL_ASSERT(device.is_cpu());
  return at::Tensor(at::detail::empty_strided_cpu(sizes, strides, dtype));
}

inline at::Tensor fresh(at::IntArrayRef sizes, at::ScalarType dtype, at::Device device) {
#ifdef FASTPRUNE_WITH_CUDA
  if (device.is_cuda()) {
    return at::Tensor(at::detail::empty_cuda(sizes, dtype, device, std::nullopt));
  }
#endif
  TORCH_INTERNAL_ASSERT(device.is_cpu());
  return at::Tensor(at::detail::empty_cpu(sizes, dtype));
}

// In the layout that at::empty_like gives.
inline at::Tensor fresh_like(const at::Tensor& t, at::ScalarType dtype) {
  if (t.is_non_overlapping_and_dense()) {
    return fresh_strided(t.sizes(), t.strides(), dtype, t.device());
  }
  return fresh_strided(t.sizes(), at::infer_dense_strides(t.sizes(), t.strides()), dtype,
                       t.device());
}

inline at::Tensor fresh_like(const at::Tensor& t) {
  return fresh_like(t, t.scalar_type());
}

}  // namespace fastprune

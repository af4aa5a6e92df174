// masked_mul on the CPU: mask.to(t.dtype) * t, bit for bit.
#include <ATen/ATen.h>
#include <torch/library.h>

#include <vector>

#include "../checks.h"
#include "../dispatch.h"
#include "../flat.h"
#include "clones.h"
#include "parallel.h"

namespace fastprune::cpu {
namespace {

constexpr int64_t kGrain = 1 << 15;

template <class T, class M>
FASTPRUNE_CLONES void multiply_run(const M* mask, const T* t, T* out, int64_t size) {
  for (int64_t i = 0; i < size; ++i) out[i] = static_cast<T>(mask[i]) * t[i];
}

template <class T, class M>
void multiply(const M* mask, const T* t, T* out, int64_t size) {
  at::parallel_for(0, size, kGrain, [=](int64_t begin, int64_t end) {
    multiply_run(mask + begin, t + begin, out + begin, end - begin);
  });
}

// t and mask dense and in one order; out may be t.
void multiply_flat(const at::Tensor& t, const at::Tensor& mask, const at::Tensor& out) {
  dispatch_float(t.scalar_type(), [&](auto value) {
    using T = decltype(value);
    dispatch_readable<T>(mask.scalar_type(), [&](auto other) {
      multiply(mask.const_data_ptr<decltype(other)>(), t.const_data_ptr<T>(),
               out.mutable_data_ptr<T>(), t.numel());
    });
  });
}

at::Tensor masked_mul(const at::Tensor& t, const at::Tensor& mask) {
  check_masked_mul("masked_mul", t, mask);
  const FlatPair flat = flatten_alike(t, readable_mask(mask, t.scalar_type()));
  at::Tensor out = at::empty_like(flat.first);
  multiply_flat(flat.first, flat.second, out);
  return out;
}

void masked_mul_(at::Tensor& t, const at::Tensor& mask) {
  check_masked_mul("masked_mul_", t, mask);
  const FlatPair flat = flatten_alike(t, readable_mask(mask, t.scalar_type()));
  multiply_flat(flat.first, flat.second, flat.first);
  if (!flat.first.is_same(t)) t.copy_(flat.first);
}

std::vector<at::Tensor> masked_muls(at::TensorList ts, at::TensorList masks) {
  check_masked_muls("masked_muls", ts, masks);
  std::vector<at::Tensor> out;
  out.reserve(ts.size());
  for (size_t i = 0; i < ts.size(); ++i) out.push_back(masked_mul(ts[i], masks[i]));
  return out;
}

}  // namespace

TORCH_LIBRARY_IMPL(fastprune, CPU, m) {
  m.impl("masked_mul", &masked_mul);
  m.impl("masked_mul_", &masked_mul_);
  m.impl("masked_muls", &masked_muls);
}

}  // namespace fastprune::cpu

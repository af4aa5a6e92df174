// masked_mul on the CPU: mask.to(t.dtype) * t, bit for bit.
#include <ATen/core/Tensor.h>
#include <torch/library.h>

#include <vector>

#include "args/elementwise.h"
#include "common/dtypes.h"
#include "cpu/elementwise/masked_mul.h"
#include "cpu/elementwise/product.h"
#include "cpu/util/fresh_pages.h"
#include "cpu/util/pieces.h"
#include "dispatch/fallback.h"

namespace fastprune::cpu {

void multiply_range(const SameLayout& flat, const at::Tensor& out, int64_t begin, int64_t end) {
  dispatch_float(out.scalar_type(), [&](auto value) {
    using T = decltype(value);
    dispatch_factor<T>(flat.second.scalar_type(), [&](auto other) {
      using M = decltype(other);
      const M* mask = flat.second.const_data_ptr<M>();
      const T* t = flat.first.const_data_ptr<T>();
      T* to = out.mutable_data_ptr<T>();
      write_in_pieces(to, out.numel(), 1, begin, end, [=](int64_t first, int64_t last) {
        product(mask + first, t + first, to + first, last - first);
      });
    });
  });
}

namespace {

void multiply(const SameLayout& flat, const at::Tensor& out) {
  at::parallel_for(0, out.numel(), kGrain,
                   [&](int64_t begin, int64_t end) { multiply_range(flat, out, begin, end); });
}

at::Tensor masked_mul(const at::Tensor& t, const at::Tensor& mask) {
  if (!is_native_pair(t, mask)) return aten_masked_mul(t, mask);
  check_masked_mul("masked_mul", t, mask);
  const SameLayout flat = to_same_layout(t, to_factor(mask, t.scalar_type()));
  at::Tensor out = advise_huge_pages(fresh_like(flat.first));
  multiply(flat, out);
  return out;
}

void masked_mul_(at::Tensor& t, const at::Tensor& mask) {
  if (!is_native_pair(t, mask)) return aten_masked_mul_(t, mask);
  check_masked_mul("masked_mul_", t, mask);
  const SameLayout flat = to_same_layout(t, to_factor(mask, t.scalar_type()));
  multiply(flat, flat.first);
  if (!flat.first.is_same(t)) t.copy_(flat.first);
}

}  // namespace

void masked_mul_out(const at::Tensor& t, const at::Tensor& mask, const at::Tensor& out) {
  multiply({t, to_factor(mask, t.scalar_type())}, out);
}

// One parallel region for the whole list.
std::vector<at::Tensor> masked_muls(at::TensorList ts, at::TensorList masks) {
  if (!are_native_pairs(ts, masks)) return aten_masked_muls(ts, masks);
  check_masked_muls("masked_muls", ts, masks);
  std::vector<SameLayout> flat;
  std::vector<at::Tensor> out;
  std::vector<int64_t> sizes;
  for (size_t i = 0; i < ts.size(); ++i) {
    flat.push_back(to_same_layout(ts[i], to_factor(masks[i], ts[i].scalar_type())));
    out.push_back(advise_huge_pages(fresh_like(flat[i].first)));
    sizes.push_back(out[i].numel());
  }
  for_each_piece(sizes, [&](size_t i, int64_t begin, int64_t end) {
    multiply_range(flat[i], out[i], begin, end);
  });
  return out;
}

TORCH_LIBRARY_IMPL(fastprune, CPU, m) {
  m.impl("masked_mul", &masked_mul);
  m.impl("masked_mul_", &masked_mul_);
  m.impl("masked_muls", &masked_muls);
}

}  // namespace fastprune::cpu

// masked_mul, masked_mul_ and masked_muls on CUDA: mask.to(t.dtype) * t, bit for bit; a list in one
// launch.
#include "cuda/elementwise/product.cuh"

namespace fastprune::cuda {

template <class T, class M>
__global__ void __launch_bounds__(ElementwisePolicy::kThreads)
    masked_mul_kernel(const TensorList list) {
  multiply_tile<T, M>(list);
}

}  // namespace fastprune::cuda

#include <ATen/core/Tensor.h>

#include <vector>

#include "args/elementwise.h"
#include "common/dtypes.h"
#include "cuda/elementwise/masked_mul.h"
#include "cuda/util/launch.cuh"
#include "cuda/util/register.h"
#include "cuda/util/tile_map.h"
#include "dispatch/fallback.h"

namespace fastprune::cuda {
namespace {

template <class T, class M>
TensorItem item_of(const SameLayout& flat, const at::Tensor& out) {
  return make_item<T, M, T>(flat.first.const_data_ptr(), flat.second.const_data_ptr(),
                            out.mutable_data_ptr(), out.numel());
}

template <class T, class M>
void launch(const TensorList& list) {
  FASTPRUNE_LAUNCH((masked_mul_kernel<T, M>), grid_of_tiles(list.tiles),
                   ElementwisePolicy::kThreads, list);
}

// Tensors of one dtype and masks of one dtype, dense and of the same layout; out[i] may be t[i].
template <class T, class M>
void multiply(const std::vector<SameLayout>& flat, const std::vector<at::Tensor>& out) {
  TileMap map;
  for (size_t i = 0; i < flat.size(); ++i) map.add(item_of<T, M>(flat[i], out[i]));
  if (map.tiles() > 0) launch<T, M>(map.list(out[0].device()));
}

// Calls fn with a value of the type of the tensor and one of the type of the mask.
template <class Fn>
void dispatch_pair(const SameLayout& flat, const Fn& fn) {
  dispatch_float(flat.first.scalar_type(), [&](auto value) {
    dispatch_mask(flat.second.scalar_type(), [&](auto other) { fn(value, other); });
  });
}

void multiply_one(const SameLayout& flat, const at::Tensor& out) {
  if (out.numel() == 0) return;
  dispatch_pair(flat, [&](auto value, auto other) {
    using T = decltype(value);
    using M = decltype(other);
    launch<T, M>(single(item_of<T, M>(flat, out)));
  });
}

}  // namespace

void multiply_flat(const std::vector<SameLayout>& flat, const std::vector<at::Tensor>& out) {
  dispatch_pair(flat[0], [&](auto value, auto other) {
    multiply<decltype(value), decltype(other)>(flat, out);
  });
}

namespace {

at::Tensor masked_mul(const at::Tensor& t, const at::Tensor& mask) {
  if (!is_native_pair(t, mask)) return aten_masked_mul(t, mask);
  check_masked_mul("masked_mul", t, mask);
  const DeviceGuard guard(t);
  const SameLayout flat = to_same_layout(t, mask);
  at::Tensor out = fresh_like(flat.first);
  multiply_one(flat, out);
  return out;
}

void masked_mul_(at::Tensor& t, const at::Tensor& mask) {
  if (!is_native_pair(t, mask)) return aten_masked_mul_(t, mask);
  check_masked_mul("masked_mul_", t, mask);
  const DeviceGuard guard(t);
  const SameLayout flat = to_same_layout(t, mask);
  multiply_one(flat, flat.first);
  if (!flat.first.is_same(t)) t.copy_(flat.first);
}

}  // namespace

std::vector<at::Tensor> masked_muls(at::TensorList ts, at::TensorList masks) {
  if (!are_native_pairs(ts, masks)) return aten_masked_muls(ts, masks);
  check_masked_muls("masked_muls", ts, masks);
  std::vector<at::Tensor> out(ts.size());
  std::vector<bool> done(ts.size(), false);
  for (size_t first = 0; first < ts.size(); ++first) {
    if (done[first]) continue;
    // One launch for all pairs that have the dtypes and the device of the first one left.
    const DeviceGuard guard(ts[first]);
    std::vector<SameLayout> flat;
    std::vector<at::Tensor> products;
    for (size_t i = first; i < ts.size(); ++i) {
      if (done[i] || ts[i].scalar_type() != ts[first].scalar_type() ||
          masks[i].scalar_type() != masks[first].scalar_type() ||
          ts[i].device() != ts[first].device()) {
        continue;
      }
      flat.push_back(to_same_layout(ts[i], masks[i]));
      out[i] = fresh_like(flat.back().first);
      products.push_back(out[i]);
      done[i] = true;
    }
    multiply_flat(flat, products);
  }
  return out;
}

FASTPRUNE_CUDA_IMPL(m) {
  m.impl("masked_mul", &masked_mul);
  m.impl("masked_mul_", &masked_mul_);
  m.impl("masked_muls", &masked_muls);
}

}  // namespace fastprune::cuda

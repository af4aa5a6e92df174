// combine_masks on the CPU: old * new in the dtype of the old mask.
#include <ATen/core/Tensor.h>
#include <torch/library.h>

#include <type_traits>

#include "args/elementwise.h"
#include "common/dtypes.h"
#include "cpu/elementwise/product.h"
#include "cpu/util/fresh_pages.h"
#include "cpu/util/multiversion.h"
#include "cpu/util/parallel.h"

namespace fastprune::cpu {
namespace {

// As ATen multiplies integers and bool; floats use the loops of masked_mul.
template <class T, class U>
FASTPRUNE_MULTIVERSION void combine_integers(const U* new_mask, const T* old_mask, T* out,
                                             int64_t size) {
  for (int64_t i = 0; i < size; ++i) {
    out[i] = static_cast<T>(old_mask[i] * static_cast<T>(new_mask[i]));
  }
}

template <class T, class U>
void combine(const T* old_mask, const U* new_mask, T* out, int64_t size) {
  const auto piece = [=](int64_t first, int64_t last) {
    if constexpr (std::is_integral_v<T>) {
      combine_integers(new_mask + first, old_mask + first, out + first, last - first);
    } else {
      product(new_mask + first, old_mask + first, out + first, last - first);
    }
  };
  at::parallel_for(0, size, kGrain, [=](int64_t begin, int64_t end) {
    write_in_pieces(out, size, 1, begin, end, piece);
  });
}

at::Tensor combine_masks(const at::Tensor& old_mask, const at::Tensor& new_mask) {
  check_combine_masks(old_mask, new_mask);
  const SameLayout flat = to_same_layout(old_mask, to_factor(new_mask, old_mask.scalar_type()));
  at::Tensor out = advise_huge_pages(fresh_like(flat.first));
  dispatch_mask(out.scalar_type(), [&](auto value) {
    using T = decltype(value);
    dispatch_factor<T>(flat.second.scalar_type(), [&](auto other) {
      combine(flat.first.const_data_ptr<T>(), flat.second.const_data_ptr<decltype(other)>(),
              out.mutable_data_ptr<T>(), out.numel());
    });
  });
  return out;
}

}  // namespace

TORCH_LIBRARY_IMPL(fastprune, CPU, m) {
  m.impl("combine_masks", &combine_masks);
}

}  // namespace fastprune::cpu

// Writes a mask, and perhaps its product, from a byte an entry that says whether it is kept.
#pragma once

#include <cstdint>

#include "common/fusion.h"
#include "common/mask_operands.h"
#include "cpu/util/fusion.h"
#include "cpu/util/multiversion.h"

namespace fastprune::cpu {

template <class F, class M, bool kHasMask, bool kProduct>
FASTPRUNE_MULTIVERSION void write_where_kept(const uint8_t* __restrict__ kept, int64_t n,
                                             const M* __restrict__ mask, M one, M* __restrict__ out,
                                             const typename F::Bits* __restrict__ t,
                                             typename F::Bits* __restrict__ product) {
  for (int64_t i = 0; i < n; ++i) {
    const bool pruned = kept[i] == 0;
    const M value = pruned ? M{0} : kHasMask ? mask[i] : one;
    out[i] = value;
    if constexpr (kProduct) product[i] = product_of<F, M, kHasMask>(value, pruned, t[i]);
  }
}

// n entries, from the first of the operands on.
template <class F, class M>
void write_kept(const uint8_t* kept, int64_t n, const MaskOperands<F, M>& io) {
  dispatch_operands(io, [&](auto has_mask, auto with_product) {
    write_where_kept<F, M, has_mask.value, with_product.value>(kept, n, io.mask, io.one, io.out,
                                                               io.t, io.product);
  });
}

}  // namespace fastprune::cpu

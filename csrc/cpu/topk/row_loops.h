// The loops over a row whose entries are neighbours in memory: its keys, which of them are active,
// and what is written.
#pragma once

#include <cstdint>

#include "common/fusion.h"
#include "common/keys.h"
#include "cpu/util/multiversion.h"

namespace fastprune::cpu {

template <class F>
FASTPRUNE_MULTIVERSION void set_row_keys(const typename F::Bits* __restrict__ scores, int64_t n,
                                         bool is_signed, typename F::Key* __restrict__ keys) {
  if (is_signed) {
    for (int64_t i = 0; i < n; ++i) keys[i] = signed_key<F>(scores[i]);
  } else {
    for (int64_t i = 0; i < n; ++i) keys[i] = rank_key<F>(scores[i], 0);
  }
}

struct RowCounts {
  int64_t active = 0;
  int64_t zeros = 0;
};

// Entries that are not active rank last.
template <class Key, class M>
FASTPRUNE_MULTIVERSION RowCounts mark_row(const M* __restrict__ mask, int32_t n, M one,
                                          Key* __restrict__ keys) {
  Key active = 0;
  Key zeros = 0;
  for (int32_t i = 0; i < n; ++i) {
    active += mask[i] == one;
    zeros += mask[i] == 0;
    keys[i] = mask[i] == one ? keys[i] : kInactive<Key>;
  }
  return {static_cast<int64_t>(active), static_cast<int64_t>(zeros)};
}

// Prunes what is below a key.
template <class F, class M, bool kHasMask, bool kProduct>
FASTPRUNE_MULTIVERSION void write_row(const typename F::Key* __restrict__ keys, int64_t n,
                                      typename F::Key below, const M* __restrict__ mask, M one,
                                      M* __restrict__ out, const typename F::Bits* t,
                                      typename F::Bits* __restrict__ product) {
  for (int64_t i = 0; i < n; ++i) {
    const bool pruned = keys[i] < below;
    const M value = pruned ? M{0} : kHasMask ? mask[i] : one;
    out[i] = value;
    if constexpr (kProduct) product[i] = product_of<F, M, kHasMask>(value, pruned, t[i]);
  }
}

}  // namespace fastprune::cpu

// Places of a tensor's entries. Over several parts (args/topk_part.h), ties are pruned in their
// order.
#pragma once

#include <cstdint>

#include "common/host_device.h"

namespace fastprune {

// The place of an entry, given its index in logical order. The table of its tensor has the place of
// the first entry and the number of dims, or 0 if places are consecutive; then the size of each
// dim, and for each dim what each index adds.
FASTPRUNE_HD int64_t tie_place(const int64_t* table, int64_t index) {
  int64_t place = table[0];
  const int64_t dims = table[1];
  if (dims == 0) return place + index;
  const int64_t* sizes = table + 2;
  const int64_t* adds = sizes + dims;
  for (int64_t d = 0; d < dims; ++d) adds += sizes[d];
  for (int64_t d = dims - 1; d >= 0; --d) {
    adds -= sizes[d];
    place += adds[index % sizes[d]];
    index /= sizes[d];
  }
  return place;
}

}  // namespace fastprune

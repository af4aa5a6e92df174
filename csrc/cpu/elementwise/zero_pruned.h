// The loops of masked_muls_ for masks of bool and packed ones: pruned entries become +0. Values are
// handled as bits, so that entries that are kept stay what they are.
#pragma once

#include <algorithm>
#include <cstdint>

#include "common/packed.h"
#include "cpu/elementwise/bytes_of_bits.h"
#include "cpu/util/multiversion.h"

namespace fastprune::cpu {

// Entries that are looked at together: where none is pruned, t is neither read nor written. On an
// AMD EPYC looking took 0.02 ns an entry, reading and writing a float32 in memory about 0.2.
constexpr int64_t kZeroedTogether = 512;

FASTPRUNE_MULTIVERSION_STREAM inline bool all_kept(const uint8_t* kept, int64_t n) {
  uint8_t pruned = 0;
  for (int64_t i = 0; i < n; ++i) pruned |= kept[i] == 0;
  return pruned == 0;
}

template <class Bits>
FASTPRUNE_MULTIVERSION_STREAM void zero_unless_kept(const uint8_t* kept, Bits* t, int64_t n) {
  for (int64_t i = 0; i < n; ++i) t[i] = keep_if(kept[i] != 0, t[i]);
}

// Unpacks n entries of a row, from entry c on. Writes up to seven bytes more.
inline void unpack_row(const uint8_t* row, int64_t c, uint8_t* kept, int64_t n) {
  const int64_t head = std::min(n, (8 - c % 8) % 8);
  for (int64_t i = 0; i < head; ++i) kept[i] = kept_from(row[c / 8], (c + i) % 8) & 1;
  unpack_bytes(row + (c + head) / 8, kept + head, packed_bytes(n - head));
}

// Entries [begin, end) of a tensor. For a mask of bool, whose bytes these are.
template <class Bits>
void zero_pruned(const uint8_t* kept, Bits* t, int64_t begin, int64_t end) {
  for (int64_t at = begin; at < end; at += kZeroedTogether) {
    const int64_t n = std::min(kZeroedTogether, end - at);
    if (!all_kept(kept + at, n)) zero_unless_kept(kept + at, t + at, n);
  }
}

// For a packed mask.
template <class Bits>
void zero_pruned(const uint8_t* packed, const PackedRows& rows, Bits* t, int64_t begin,
                 int64_t end) {
  uint8_t kept[kZeroedTogether + 7];  // a row may end within a byte
  for (int64_t at = begin; at < end; at += kZeroedTogether) {
    const int64_t n = std::min(kZeroedTogether, end - at);
    int64_t row = at / rows.cols;
    int64_t c = at % rows.cols;
    for (int64_t done = 0; done < n; ++row, c = 0) {
      const int64_t part = std::min(n - done, rows.cols - c);
      unpack_row(packed + row * rows.bytes, c, kept + done, part);
      done += part;
    }
    if (!all_kept(kept, n)) zero_unless_kept(kept, t + at, n);
  }
}

}  // namespace fastprune::cpu

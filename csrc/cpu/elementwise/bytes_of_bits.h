// Eight entries of a packed mask (common/packed.h) to a byte each, and back: by one product, as
// loops over bits are slow for the few bytes of a short row.
#pragma once

#include <cstdint>
#include <cstring>

#include "cpu/util/multiversion.h"

namespace fastprune::cpu {

// kBitOfByte: bit j of a number that has the bits of a byte eight times, in its byte j in memory.
// kGather: the factor that moves bit 0 of byte j in memory to bit 56 + j; no other bit comes there.
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
constexpr uint64_t kBitOfByte = 0x0102040810204080u;
constexpr uint64_t kGather = 0x8040201008040201u;
#else
constexpr uint64_t kBitOfByte = 0x8040201008040201u;
constexpr uint64_t kGather = 0x0102040810204080u;
#endif

// A byte an entry, not 0 where it is kept, of the entries of whole bytes.
FASTPRUNE_MULTIVERSION_STREAM inline void unpack_bytes(const uint8_t* packed, uint8_t* kept,
                                                       int64_t bytes) {
  for (int64_t b = 0; b < bytes; ++b) {
    const uint64_t entries = packed[b] * uint64_t{0x0101010101010101u} & kBitOfByte;
    std::memcpy(kept + 8 * b, &entries, sizeof entries);
  }
}

// Of a byte an entry, 0 or 1.
FASTPRUNE_MULTIVERSION_STREAM inline void pack_bytes(const uint8_t* kept, uint8_t* packed,
                                                     int64_t bytes) {
  for (int64_t b = 0; b < bytes; ++b) {
    uint64_t entries;
    std::memcpy(&entries, kept + 8 * b, sizeof entries);
    packed[b] = static_cast<uint8_t>(entries * kGather >> 56);
  }
}

}  // namespace fastprune::cpu

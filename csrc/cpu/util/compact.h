// Stream compaction: the positions of the set flags. Which flags are set is unpredictable, so a
// branch on each would be mispredicted often; AVX-512 compresses 32 positions at a time.
#pragma once

#include <cstdint>
#include <cstring>

#include "cpu/util/multiversion.h"

#ifdef FASTPRUNE_HAS_MULTIVERSION
#include <immintrin.h>
#endif

namespace fastprune::cpu {

constexpr int64_t kBlock = 1 << 10;    // entries that one vectorised loop of a selection takes
constexpr int32_t kCompactSlack = 32;  // positions past the last that may be overwritten

inline int32_t compact_baseline(const uint8_t* flags, int32_t begin, int32_t n,
                                uint16_t* positions) {
  int32_t count = 0;
  int32_t i = begin;
  for (; i + 8 <= n; i += 8) {
    uint64_t eight;
    std::memcpy(&eight, flags + i, sizeof eight);
    for (; eight != 0; eight &= eight - 1) {
      positions[count++] = static_cast<uint16_t>(i + __builtin_ctzll(eight) / 8);
    }
  }
  for (; i < n; ++i) {
    positions[count] = static_cast<uint16_t>(i);
    count += flags[i];
  }
  return count;
}

#ifdef FASTPRUNE_HAS_MULTIVERSION
__attribute__((target("avx512f,avx512bw,avx512vl,avx512vbmi2,popcnt"))) inline int32_t
compact_avx512(const uint8_t* flags, int32_t n, uint16_t* positions) {
  alignas(64) static constexpr uint16_t kFirst[32] = {0,  1,  2,  3,  4,  5,  6,  7,  8,  9,  10,
                                                      11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21,
                                                      22, 23, 24, 25, 26, 27, 28, 29, 30, 31};
  __m512i position = _mm512_load_si512(kFirst);
  const __m512i step = _mm512_set1_epi16(32);
  int32_t count = 0;
  int32_t i = 0;
  for (; i + 32 <= n; i += 32) {
    const __m256i some = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(flags + i));
    const __mmask32 set = _mm256_test_epi8_mask(some, some);
    _mm512_storeu_si512(positions + count, _mm512_maskz_compress_epi16(set, position));
    count += __builtin_popcount(set);
    position = _mm512_add_epi16(position, step);
  }
  return count + compact_baseline(flags, i, n, positions + count);
}
#endif

// The positions of the set flags (each 0 or 1) among n, in order; returns how many.
inline int32_t compact(const uint8_t* flags, int32_t n, uint16_t* positions) {
#ifdef FASTPRUNE_HAS_MULTIVERSION
  static const bool avx512 = __builtin_cpu_supports("avx512bw") &&
                             __builtin_cpu_supports("avx512vl") &&
                             __builtin_cpu_supports("avx512vbmi2");
  if (avx512) return compact_avx512(flags, n, positions);
#endif
  return compact_baseline(flags, 0, n, positions);
}

}  // namespace fastprune::cpu

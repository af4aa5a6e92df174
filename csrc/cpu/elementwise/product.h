// The loops of masked_mul, combine_masks and channel_prune: elementwise products of a floating
// tensor and a mask, bit for bit those of ATen.
#pragma once

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <type_traits>

#include "cpu/util/multiversion.h"

#ifdef FASTPRUNE_HAS_MULTIVERSION
#include <immintrin.h>
#endif

namespace fastprune::cpu {

constexpr int64_t kGrain = 1 << 15;  // entries that are worth another thread

template <class T, class M>
FASTPRUNE_MULTIVERSION_STREAM void product_baseline(const M* a, const T* b, T* out, int64_t n) {
  for (int64_t i = 0; i < n; ++i) out[i] = static_cast<T>(static_cast<T>(a[i]) * b[i]);
}

// A bool is compared as a byte: compilers do not vectorise its conversion.
template <class T>
FASTPRUNE_MULTIVERSION_STREAM void product_baseline(const bool* a, const T* b, T* out, int64_t n) {
  const auto* bytes = reinterpret_cast<const uint8_t*>(a);
  for (int64_t i = 0; i < n; ++i) out[i] = (bytes[i] != 0 ? T(1) : T(0)) * b[i];
}

// Rounding to 16 bits is enough arithmetic to gain from wider vectors.
FASTPRUNE_MULTIVERSION inline void product_baseline(const c10::BFloat16* a, const c10::BFloat16* b,
                                                    c10::BFloat16* out, int64_t n) {
  for (int64_t i = 0; i < n; ++i) out[i] = a[i] * b[i];
}

#ifdef FASTPRUNE_HAS_MULTIVERSION
// Compilers do not vectorise the conversions of c10::Half, and do not use F16C for them.
__attribute__((target("avx512f"))) inline int64_t half_product_avx512(const c10::Half* a,
                                                                      const c10::Half* b,
                                                                      c10::Half* out, int64_t n) {
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) {
    const __m256i x = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(a + i));
    const __m256i y = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(b + i));
    const __m512 product = _mm512_mul_ps(_mm512_cvtph_ps(x), _mm512_cvtph_ps(y));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + i),
                        _mm512_cvtps_ph(product, _MM_FROUND_TO_NEAREST_INT));
  }
  return i;
}

__attribute__((target("avx,f16c"))) inline int64_t half_product_f16c(const c10::Half* a,
                                                                     const c10::Half* b,
                                                                     c10::Half* out, int64_t n) {
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    const __m128i x = _mm_loadu_si128(reinterpret_cast<const __m128i*>(a + i));
    const __m128i y = _mm_loadu_si128(reinterpret_cast<const __m128i*>(b + i));
    const __m256 product = _mm256_mul_ps(_mm256_cvtph_ps(x), _mm256_cvtph_ps(y));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + i),
                     _mm256_cvtps_ph(product, _MM_FROUND_TO_NEAREST_INT));
  }
  return i;
}
#endif

template <class T>
void product(const T* a, const T* b, T* out, int64_t n) {
  int64_t done = 0;
#ifdef FASTPRUNE_HAS_MULTIVERSION
  if constexpr (std::is_same_v<T, c10::Half>) {
    static const bool avx512 = __builtin_cpu_supports("avx512f");
    static const bool f16c = __builtin_cpu_supports("f16c");
    if (avx512) {
      done = half_product_avx512(a, b, out, n);
    } else if (f16c) {
      done = half_product_f16c(a, b, out, n);
    }
  }
#endif
  product_baseline(a + done, b + done, out + done, n - done);
}

// All values of a one-byte mask in a 16-bit format: a table, as scalar conversions are slow.
template <class T>
const std::array<T, 256>& byte_values() {
  static const std::array<T, 256> values = [] {
    std::array<T, 256> all;
    for (int i = 0; i < 256; ++i) all[i] = static_cast<T>(static_cast<float>(i));
    return all;
  }();
  return values;
}

// A mask of one byte, converted as it is read.
template <class T, class M>
void product(const M* mask, const T* b, T* out, int64_t n) {
  static_assert(sizeof(M) == 1);
  if constexpr (sizeof(T) == 2) {
    constexpr int64_t kConverted = 1 << 10;
    T converted[kConverted];
    const auto& values = byte_values<T>();
    for (int64_t at = 0; at < n; at += kConverted) {
      const int64_t size = std::min(kConverted, n - at);
      for (int64_t i = 0; i < size; ++i) converted[i] = values[static_cast<uint8_t>(mask[at + i])];
      product(converted, b + at, out + at, size);
    }
  } else {
    product_baseline(mask, b, out, n);
  }
}

}  // namespace fastprune::cpu

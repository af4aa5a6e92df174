// Bit functions, casts, min and max. The rest of CUDA's math functions come from <cmath>.
#pragma once

#include <cmath>
#include <cstdint>

#include "machine.h"
#include "sync.h"

inline int __popc(unsigned x) {
  return __builtin_popcount(x);
}
inline int __popcll(unsigned long long x) {
  return __builtin_popcountll(x);
}
inline int __ffs(int x) {
  return __builtin_ffs(x);
}
inline int __ffsll(long long x) {
  return __builtin_ffsll(x);
}
inline int __clz(int x) {
  return x == 0 ? 32 : __builtin_clz(static_cast<unsigned>(x));
}
inline int __clzll(long long x) {
  return x == 0 ? 64 : __builtin_clzll(static_cast<unsigned long long>(x));
}
inline unsigned long long __brevll(unsigned long long x) {
  unsigned long long reversed = 0;
  for (int i = 0; i < 64; ++i) reversed |= (x >> i & 1) << (63 - i);
  return reversed;
}
inline unsigned __brev(unsigned x) {
  return static_cast<unsigned>(__brevll(x) >> 32);
}

inline unsigned __float_as_uint(float x) {
  return cuda_on_host::from_bits<unsigned>(cuda_on_host::to_bits(x));
}
inline int __float_as_int(float x) {
  return static_cast<int>(__float_as_uint(x));
}
inline float __uint_as_float(unsigned x) {
  return cuda_on_host::from_bits<float>(x);
}
inline float __int_as_float(int x) {
  return __uint_as_float(static_cast<unsigned>(x));
}
inline long long __double_as_longlong(double x) {
  return cuda_on_host::from_bits<long long>(cuda_on_host::to_bits(x));
}
inline double __longlong_as_double(long long x) {
  return cuda_on_host::from_bits<double>(cuda_on_host::to_bits(x));
}

[[noreturn]] inline void __trap() {
  cuda_on_host::fault("__trap");
}

#define CUDA_ON_HOST_MIN_MAX(T, A, B)                     \
  inline T min(A a, B b) {                                \
    return static_cast<T>(a) < static_cast<T>(b) ? a : b; \
  }                                                       \
  inline T max(A a, B b) {                                \
    return static_cast<T>(a) < static_cast<T>(b) ? b : a; \
  }
#define CUDA_ON_HOST_MIN_MAX_BOTH(S, U) \
  CUDA_ON_HOST_MIN_MAX(S, S, S)         \
  CUDA_ON_HOST_MIN_MAX(U, U, U)         \
  CUDA_ON_HOST_MIN_MAX(U, S, U)         \
  CUDA_ON_HOST_MIN_MAX(U, U, S)
CUDA_ON_HOST_MIN_MAX_BOTH(int, unsigned)
CUDA_ON_HOST_MIN_MAX_BOTH(long, unsigned long)
CUDA_ON_HOST_MIN_MAX_BOTH(long long, unsigned long long)
#undef CUDA_ON_HOST_MIN_MAX_BOTH
#undef CUDA_ON_HOST_MIN_MAX

// As in CUDA, min and max of a number and a NaN are the number.
inline float min(float a, float b) {
  return std::fmin(a, b);
}
inline float max(float a, float b) {
  return std::fmax(a, b);
}
inline double min(double a, double b) {
  return std::fmin(a, b);
}
inline double max(double a, double b) {
  return std::fmax(a, b);
}
inline double min(float a, double b) {
  return std::fmin(double{a}, b);
}
inline double max(float a, double b) {
  return std::fmax(double{a}, b);
}
inline double min(double a, float b) {
  return std::fmin(a, double{b});
}
inline double max(double a, float b) {
  return std::fmax(a, double{b});
}

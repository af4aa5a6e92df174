// What MSVC lacks of GCC's and clang's extensions. setup.py puts this in front of every C++ source
// on Windows (/FI); no other compiler sees it.
#pragma once

#if defined(_MSC_VER) && !defined(__clang__)

#include <intrin.h>

#define __restrict__ __restrict
#define FASTPRUNE_TEXT_OF(x) #x
#define FASTPRUNE_TEXT(x) FASTPRUNE_TEXT_OF(x)
#define __VERSION__ "MSVC " FASTPRUNE_TEXT(_MSC_FULL_VER)

inline int __builtin_ctzll(unsigned long long x) {  // x is not 0
  unsigned long at;
  _BitScanForward64(&at, x);
  return static_cast<int>(at);
}

inline void __builtin_prefetch(const void* at) {
#if defined(_M_X64)
  _mm_prefetch(static_cast<const char*>(at), _MM_HINT_T0);
#else
  static_cast<void>(at);
#endif
}

#endif

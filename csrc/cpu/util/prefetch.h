// Hardware prefetchers do not follow long strides, of which each step is in another page.
#pragma once

#include <cstdint>

namespace fastprune::cpu {

// The cache lines of n entries.
template <class T>
void prefetch(const T* x, int64_t n) {
  constexpr int64_t kLine = 64 / sizeof(T);
  for (int64_t i = 0; i < n; i += kLine) __builtin_prefetch(x + i);
}

}  // namespace fastprune::cpu

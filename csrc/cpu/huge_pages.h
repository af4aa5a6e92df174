// Fresh memory is paid for at its first touch, a page at a time: for outputs of many MB that is
// most of the time of a kernel that streams. On Linux the kernel is asked for huge pages there.
// Advice only: where it is not taken, or memory was touched before, nothing changes.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace fastprune::cpu {

constexpr int64_t kHugePage = int64_t{2} << 20;
constexpr int64_t kAdviseFrom = int64_t{8} << 20;  // bytes

// For an output that the caller is about to write whole.
inline const at::Tensor& advise_huge_pages(const at::Tensor& t) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  const auto bytes = static_cast<int64_t>(t.nbytes());
  if (bytes >= kAdviseFrom && t.is_non_overlapping_and_dense()) {
    const auto begin = reinterpret_cast<uintptr_t>(t.const_data_ptr());
    const uintptr_t first = (begin + kHugePage - 1) / kHugePage * kHugePage;
    const uintptr_t last = (begin + bytes) / kHugePage * kHugePage;
    if (first < last) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
  }
#endif
  return t;
}

}  // namespace fastprune::cpu

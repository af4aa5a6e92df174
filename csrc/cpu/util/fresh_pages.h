// The first write to fresh memory is a page fault for every 4 KiB; for outputs of many MB these
// faults are most of the time of a streaming kernel. Two remedies on Linux: huge pages, and
// populating many pages in one call. Where the system has neither, or the memory is not fresh,
// nothing changes (docs/design.md, "Large outputs on Linux").
#pragma once

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cstdint>
#include <fstream>

#if defined(__linux__)
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace fastprune::cpu {

constexpr int64_t kHugePagesFrom = int64_t{8} << 20;  // bytes of an output
// Bytes of all outputs of a call; glibc reuses the memory of smaller ones.
constexpr int64_t kFreshPagesFrom = int64_t{32} << 20;

// Free page reporting: the hypervisor of this virtual machine reclaims free memory, in blocks of
// the size of huge pages. Faulting in such a page waits for the hypervisor.
inline bool reports_free_pages() {
  static const bool reports = [] {
    std::ifstream file("/sys/module/page_reporting/parameters/page_reporting_order");
    constexpr uint64_t kLargestOrder = 10;  // a larger number: reporting is off
    uint64_t order = 0;
    return file >> order && order <= kLargestOrder;
  }();
  return reports;
}

// Asks for huge pages for an output that the caller is about to write completely.
inline const at::Tensor& advise_huge_pages(const at::Tensor& t) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr int64_t kHugePage = int64_t{2} << 20;
  const auto bytes = static_cast<int64_t>(t.nbytes());
  if (bytes < kHugePagesFrom || !t.is_non_overlapping_and_dense() || reports_free_pages()) {
    return t;
  }
  const auto begin = reinterpret_cast<uintptr_t>(t.const_data_ptr());
  const uintptr_t first = (begin + kHugePage - 1) / kHugePage * kHugePage;
  const uintptr_t last = (begin + bytes) / kHugePage * kHugePage;
  if (first < last) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#endif
  return t;
}

// Populates the pages of a piece of such an output in one call. Just before it is written, so that
// the zeros that the system fills the pages with are still in the cache.
inline void populate_pages([[maybe_unused]] void* begin, [[maybe_unused]] int64_t bytes) {
#if defined(__linux__)
  constexpr int kPopulateWrite = 23;  // MADV_POPULATE_WRITE, of Linux 5.14; older headers lack it
  static const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const auto address = reinterpret_cast<uintptr_t>(begin);
  const uintptr_t first = (address + page - 1) / page * page;
  const uintptr_t last = (address + bytes) / page * page;
  if (first >= last) return;
  unsigned char resident = 0;
  auto* middle = reinterpret_cast<void*>((first + last) / 2 / page * page);
  if (mincore(middle, page, &resident) != 0 || (resident & 1) != 0) return;
  madvise(reinterpret_cast<void*>(first), last - first, kPopulateWrite);
#endif
}

// fn(first, last) over the rows [begin, end) of an output with `rows` rows of `row` entries, in
// pieces that fit the cache, or of one row. Populates the pages of each piece of a large output.
template <class T, class Fn>
void write_in_pieces(T* out, int64_t rows, int64_t row, int64_t begin, int64_t end, const Fn& fn) {
  constexpr int64_t kPiece = int64_t{256} << 10;  // bytes
  const int64_t bytes = row * static_cast<int64_t>(sizeof(T));
  const bool large = rows * bytes >= kFreshPagesFrom;
  const int64_t step = std::max<int64_t>(1, kPiece / std::max<int64_t>(1, bytes));
  for (int64_t first = begin; first < end; first += step) {
    const int64_t last = std::min(end, first + step);
    if (large) populate_pages(out + first * row, (last - first) * bytes);
    fn(first, last);
  }
}

}  // namespace fastprune::cpu

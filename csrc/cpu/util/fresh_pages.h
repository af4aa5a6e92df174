// Fresh memory is paid for at its first touch, by a page fault for every 4 KiB: for outputs of many
// MB that is most of the time of a kernel that streams. Two remedies, on Linux; where the system
// knows neither, or the memory is not fresh, nothing changes (docs/design.md, "Large outputs on
// Linux").
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
constexpr int64_t kFreshPagesFrom = int64_t{32}
                                    << 20;  // of all of a call; glibc reuses smaller ones

// Whether the host of this virtual machine takes free memory back. It takes blocks of the size of
// huge pages, and whoever gets such a one waits for the host.
inline bool host_takes_memory_back() {
  static const bool takes = [] {
    std::ifstream file("/sys/module/page_reporting/parameters/page_reporting_order");
    constexpr uint64_t kLargestOrder = 10;  // without such a host it is a number beyond
    uint64_t order = 0;
    return file >> order && order <= kLargestOrder;
  }();
  return takes;
}

// Asks for huge pages for an output that the caller is about to write whole.
inline const at::Tensor& advise_huge_pages(const at::Tensor& t) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr int64_t kHugePage = int64_t{2} << 20;
  const auto bytes = static_cast<int64_t>(t.nbytes());
  if (bytes < kHugePagesFrom || !t.is_non_overlapping_and_dense() || host_takes_memory_back()) {
    return t;
  }
  const auto begin = reinterpret_cast<uintptr_t>(t.const_data_ptr());
  const uintptr_t first = (begin + kHugePage - 1) / kHugePage * kHugePage;
  const uintptr_t last = (begin + bytes) / kHugePage * kHugePage;
  if (first < last) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#endif
  return t;
}

// Takes the pages of a piece of such an output in one call, just before it is written: the zeros
// that the system fills them with are still in the cache then.
inline void take_fresh_pages([[maybe_unused]] void* begin, [[maybe_unused]] int64_t bytes) {
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

// fn(first, last) over [begin, end) of an output's `rows` of `row` entries, in pieces that fit the
// cache, or single rows that do not; if the output is large, of fresh pages.
template <class T, class Fn>
void write_in_pieces(T* out, int64_t rows, int64_t row, int64_t begin, int64_t end, const Fn& fn) {
  constexpr int64_t kPiece = int64_t{256} << 10;  // bytes
  const int64_t bytes = row * static_cast<int64_t>(sizeof(T));
  const bool large = rows * bytes >= kFreshPagesFrom;
  const int64_t step = std::max<int64_t>(1, kPiece / std::max<int64_t>(1, bytes));
  for (int64_t first = begin; first < end; first += step) {
    const int64_t last = std::min(end, first + step);
    if (large) take_fresh_pages(out + first * row, (last - first) * bytes);
    fn(first, last);
  }
}

}  // namespace fastprune::cpu

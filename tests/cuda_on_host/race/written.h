// Memory of which it is known which bytes have been written: what fastprune allocates for kernels
// to write, and shared variables. What torch allocates by itself is taken to be written.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <vector>

namespace cuda_on_host::race {

class Written {
 public:
  // Nothing of it is written.
  void allocate(uintptr_t begin, size_t bytes) {
    std::lock_guard<std::mutex> lock(mutex_);
    areas_[begin].assign(bytes, false);
  }
  void release(uintptr_t begin) {
    std::lock_guard<std::mutex> lock(mutex_);
    areas_.erase(begin);
  }

  void write(uintptr_t begin, size_t bytes) {
    std::lock_guard<std::mutex> lock(mutex_);
    visit(begin, bytes, [](std::vector<bool>& area, size_t i) { area[i] = true; });
  }

  // How many bytes of a range are not written.
  size_t unwritten(uintptr_t begin, size_t bytes) {
    std::lock_guard<std::mutex> lock(mutex_);
    size_t count = 0;
    visit(begin, bytes, [&](const std::vector<bool>& area, size_t i) { count += !area[i]; });
    return count;
  }

 private:
  // Calls f(area, byte of it) for the bytes of a range that are in an area.
  template <class F>
  void visit(uintptr_t begin, size_t bytes, F f) {
    auto next = areas_.upper_bound(begin);
    if (next != areas_.begin()) --next;
    for (; next != areas_.end() && next->first < begin + bytes; ++next) {
      std::vector<bool>& area = next->second;
      const uintptr_t first = std::max(begin, next->first);
      const uintptr_t last = std::min(begin + bytes, next->first + area.size());
      for (uintptr_t at = first; at < last; ++at) f(area, at - next->first);
    }
  }

  std::mutex mutex_;                              // any thread may allocate
  std::map<uintptr_t, std::vector<bool>> areas_;  // by their first bytes
};

}  // namespace cuda_on_host::race

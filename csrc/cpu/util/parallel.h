// How CPU kernels share work: each worker takes one contiguous range of tasks. Results do not
// depend on the number of workers.
#pragma once

#include <ATen/Parallel.h>

#include <algorithm>
#include <cstdint>

namespace fastprune::cpu {

inline int64_t worker_count(int64_t tasks) {
  if (at::in_parallel_region()) return 1;
  return std::max<int64_t>(1, std::min<int64_t>(at::get_num_threads(), tasks));
}

// Of fewer entries, waking another thread takes longer than they do.
constexpr int64_t kWorkerEntries = 1 << 13;

// Workers for tasks of so many entries in all.
inline int64_t worker_count(int64_t tasks, int64_t entries) {
  return worker_count(std::min(tasks, entries / kWorkerEntries + 1));
}

// fn(worker, begin, end) over [0, tasks).
template <class Fn>
void for_each_worker(int64_t workers, int64_t tasks, const Fn& fn) {
  if (workers == 1) return fn(int64_t{0}, int64_t{0}, tasks);
  at::parallel_for(0, workers, 1, [&](int64_t first, int64_t last) {
    for (int64_t w = first; w < last; ++w) fn(w, tasks * w / workers, tasks * (w + 1) / workers);
  });
}

}  // namespace fastprune::cpu

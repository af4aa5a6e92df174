// Lets tests send a selection down its rare paths, and see that it went there.
#pragma once

#include <atomic>
#include <cstdint>

#include "common/selection.h"

namespace fastprune {

struct TestHooks {
  ForcedMiss forced_miss = ForcedMiss::kNone;
  bool overflow = false;  // on CUDA: there is no room for candidates
  bool watch = false;     // on CUDA: wait for each selection to see whether it fell back
  // Selections that fell back to a radix select; on CUDA if watched. Workers select side by side.
  std::atomic<int64_t> fallbacks = 0;
  int64_t rewritten = 0;  // on CUDA, if watched: tiles in the range that the fixup wrote again
};

// One for each library: the tests' build of the CUDA kernels for the host has its own.
inline TestHooks& test_hooks() {
  static TestHooks hooks;
  return hooks;
}

// Calls def(name, function) for all that tests may set and read.
template <class Define>
void define_test_hooks(const Define& def) {
  def("force_fallback", [](bool force) {
    test_hooks().forced_miss = force ? ForcedMiss::kLowest : ForcedMiss::kNone;
  });
  def("force_fallback_from_above", [](bool force) {
    test_hooks().forced_miss = force ? ForcedMiss::kHighest : ForcedMiss::kNone;
  });
  def("force_overflow", [](bool force) { test_hooks().overflow = force; });
  def("watch_fallbacks", [](bool watch) { test_hooks().watch = watch; });
  def("fallbacks", [] { return test_hooks().fallbacks.load(); });
  def("rewritten", [] { return test_hooks().rewritten; });
}

}  // namespace fastprune

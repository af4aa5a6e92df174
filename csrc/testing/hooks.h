// Lets tests send a selection down its rare paths, and see that it went there.
#pragma once

#include <cstdint>

#include "common/selection.h"

namespace fastprune {

struct TestHooks {
  Misled misled = Misled::kNot;
  bool overflow = false;  // on CUDA: there is no room for undecided entries
  bool watch = false;     // on CUDA: wait for each selection to see whether it fell back
  int64_t fallbacks = 0;  // selections that went from a sample to histograms; on CUDA if watched
};

// Of the library it is linked into: that of the tests that play a GPU has one of its own.
inline TestHooks& test_hooks() {
  static TestHooks hooks;
  return hooks;
}

}  // namespace fastprune

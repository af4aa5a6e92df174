// Arguments of nm_masks and nm_prune, beside those of each.h.
#pragma once

#include <c10/util/Exception.h>

#include <cstdint>

#include "common/nm.h"

namespace fastprune {

inline NmRule checked_nm_rule(const char* op, int64_t n, int64_t m) {
  TORCH_CHECK_VALUE(m >= 1 && m <= kMostRun, op, "(): expected m to be between 1 and ", kMostRun,
                    ", got ", m);
  TORCH_CHECK_VALUE(n >= 0 && n <= m, op, "(): expected n to be between 0 and m, ", m, ", got ", n);
  return {static_cast<int>(n), static_cast<int>(m)};
}

}  // namespace fastprune

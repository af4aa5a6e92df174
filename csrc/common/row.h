// Budgets by row: the entries of each index of a dim are selected from by themselves. What host and
// device share; free of ATen.
#pragma once

#include <cstdint>

#include "common/channel_shape.h"
#include "common/host_device.h"
#include "common/selection.h"

namespace fastprune {

struct RowRule {
  Amount amount;
  bool absolute;  // the amount counts what is pruned already

  // How many of a row's `active` entries to prune; more than there are if a count does not fit.
  FASTPRUNE_HD int64_t due(int64_t size, int64_t zeros, int64_t active) const {
    return absolute ? budget_left(amount.fraction, size, zeros, active) : budget(amount, active);
  }
};

// Where entry i of a row is, in logical order: a row is `outer` pieces of `inner` neighbours.
FASTPRUNE_HD int64_t row_entry(const ChannelShape& shape, int64_t row, int64_t i) {
  if (shape.outer == 1) return row * shape.inner + i;
  if (shape.inner == 1) return i * shape.channels + row;
  const int64_t outer = i / shape.inner;
  return (outer * shape.channels + row) * shape.inner + (i - outer * shape.inner);
}

}  // namespace fastprune

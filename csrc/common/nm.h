// N:M pruning: a dim is cut into runs of neighbouring entries, and of each run only the n entries
// of largest score stay. What host and device share; free of ATen.
#pragma once

#include <cstdint>

#include "common/channel_shape.h"
#include "common/host_device.h"

namespace fastprune {

constexpr int kMostRun = 64;

struct NmRule {
  int keep;  // n
  int run;   // m

  // How many more entries of a run of `size` to prune, of which `zeros` are already.
  FASTPRUNE_HD int due(int size, int zeros) const {
    const int due = size - (size < keep ? size : keep) - zeros;
    return due > 0 ? due : 0;
  }
};

// The runs along the dim in the middle, the last of which may be shorter, and every entry of the
// inner dims begins a run of its own. Runs are numbered in order of their first entry.
struct Runs {
  ChannelShape shape;
  int64_t along;  // runs along the dim

  FASTPRUNE_HD Runs(const ChannelShape& of, int run)
      : shape(of), along((of.channels + run - 1) / run) {}

  FASTPRUNE_HD int64_t count() const { return shape.outer * along * shape.inner; }

  struct Place {
    int64_t outer;
    int64_t first;  // along the dim
    int64_t inner;
    int size;
    int64_t entry;  // the first; the others follow in steps of shape.inner
  };

  FASTPRUNE_HD Place place(int64_t number, int run) const {
    Place p{};
    p.inner = shape.inner == 1 ? 0 : number % shape.inner;
    const int64_t rest = shape.inner == 1 ? number : number / shape.inner;
    p.outer = rest / along;
    p.first = (rest - p.outer * along) * run;
    const int64_t left = shape.channels - p.first;
    p.size = static_cast<int>(left < run ? left : run);
    p.entry = (p.outer * shape.channels + p.first) * shape.inner + p.inner;
    return p;
  }
};

}  // namespace fastprune

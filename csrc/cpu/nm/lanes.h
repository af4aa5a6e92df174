// The runs that nm_masks takes together on the CPU, a lane each, and the walk over a worker's
// share.
#pragma once

#include <algorithm>
#include <cstdint>

#include "args/nm.h"
#include "cpu/nm/block.h"

namespace fastprune::cpu {

// Runs of a worker's share, one after the other, without a division for each.
class RunWalk {
 public:
  RunWalk(const Runs& runs, int run, int64_t number)
      : runs_(runs), run_(run), place_(runs.place(number, run)) {}

  const Runs::Place& operator*() const { return place_; }

  // The next of as many runs that differ in the inner dims alone.
  void skip(int count) {
    place_.entry += count - 1;
    place_.inner += count - 1;
    ++*this;
  }

  void operator++() {
    const ChannelShape& shape = runs_.shape;
    ++place_.entry;
    if (++place_.inner < shape.inner) return;
    place_.inner = 0;
    place_.first += run_;
    if (place_.first >= shape.channels) {
      place_.first = 0;
      ++place_.outer;
    }
    place_.size = static_cast<int>(std::min<int64_t>(run_, shape.channels - place_.first));
    place_.entry = (place_.outer * shape.channels + place_.first) * shape.inner;
  }

 private:
  const Runs& runs_;
  int run_;
  Runs::Place place_;
};

// The runs of a block. Side by side: entry j of all of them is contiguous in memory, each has as
// many entries as a run can have, and only the first is written down.
struct Lanes {
  int count;
  bool side_by_side;
  Runs::Place at[kLanes];

  int size(int l) const { return side_by_side ? at[0].size : l < count ? at[l].size : 0; }
};

}  // namespace fastprune::cpu

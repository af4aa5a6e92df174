// N:M on the CPU: a block of runs, one to a lane. Entry j of all runs is a row, so that the loops
// over lanes are vectorised whatever n and m are.
#pragma once

#include <cstdint>

#include "common/fusion.h"
#include "common/keys.h"
#include "common/nm.h"
#include "common/scaled.h"
#include "cpu/util/multiversion.h"

namespace fastprune::cpu {

constexpr int kLanes = 32;

// As many rows as the runs have entries. Key: of the format, or as narrow as the keys allow.
template <class F, class M, class Key>
struct NmBlock {
  using Bits = typename F::Bits;
  using Wide = WideOf<F>;

  alignas(64) Bits scores[kMostRun][kLanes];
  alignas(64) M mask[kMostRun][kLanes];        // old, then new
  alignas(64) Bits product[kMostRun][kLanes];  // what to multiply, then the product
  alignas(64) Key keys[kMostRun][kLanes];
  alignas(64) Key due[kLanes];
  alignas(64) Wide factor[kMostRun][kLanes];
  alignas(64) Wide unordered[kMostRun * kLanes];  // factors, before they are rows
};

// Whole runs, neighbouring in memory, to rows and back. kRun: as in decide_block.
template <class T, int kRun>
FASTPRUNE_MULTIVERSION void to_rows(const T* __restrict__ from, T (*__restrict__ rows)[kLanes],
                                    int run) {
  const int n = kRun > 0 ? kRun : run;
  for (int j = 0; j < n; ++j) {
    for (int l = 0; l < kLanes; ++l) rows[j][l] = from[l * n + j];
  }
}

template <class T, int kRun>
FASTPRUNE_MULTIVERSION void from_rows(const T (*__restrict__ rows)[kLanes], T* __restrict__ to,
                                      int run) {
  const int n = kRun > 0 ? kRun : run;
  for (int l = 0; l < kLanes; ++l) {
    for (int j = 0; j < n; ++j) to[l * n + j] = rows[j][l];
  }
}

// Keys of the scores by magnitude, or by value.
template <class F, class M, class Key, int kRun>
FASTPRUNE_MULTIVERSION void set_score_keys(NmBlock<F, M, Key>& block, int run, bool is_signed) {
  const int n = kRun > 0 ? kRun : run;
  if (is_signed) {
    for (int j = 0; j < n; ++j) {
      for (int l = 0; l < kLanes; ++l)
        block.keys[j][l] = static_cast<Key>(signed_key<F>(block.scores[j][l]));
    }
  } else {
    for (int j = 0; j < n; ++j) {
      for (int l = 0; l < kLanes; ++l)
        block.keys[j][l] = static_cast<Key>(rank_key<F>(block.scores[j][l], 0));
    }
  }
}

// Entries that are not active rank last; how many of a lane's entries are zero already.
template <class F, class M, class Key, int kRun>
FASTPRUNE_MULTIVERSION void mark_inactive(NmBlock<F, M, Key>& block, int run, M one,
                                          Key* __restrict__ zeros) {
  const int n = kRun > 0 ? kRun : run;
  for (int l = 0; l < kLanes; ++l) zeros[l] = 0;
  for (int j = 0; j < n; ++j) {
    for (int l = 0; l < kLanes; ++l) {
      zeros[l] += block.mask[j][l] == 0;
      block.keys[j][l] = block.mask[j][l] == one ? block.keys[j][l] : kInactive<Key>;
    }
  }
}

// Decides which entries are pruned, and writes masks and products into the block. kRun: the entries
// of a run, or 0 where `run` says that.
template <class F, class M, class Key, int kRun, bool kProduct>
FASTPRUNE_MULTIVERSION void decide_block(NmBlock<F, M, Key>& block, int run) {
  const int rows = kRun > 0 ? kRun : run;
  const auto& keys = block.keys;
  for (int i = 0; i < rows; ++i) {
    Key before[kLanes] = {};  // entries that are pruned earlier
    for (int j = 0; j < i; ++j) {
      for (int l = 0; l < kLanes; ++l) before[l] += keys[j][l] <= keys[i][l];
    }
    for (int j = i + 1; j < rows; ++j) {
      for (int l = 0; l < kLanes; ++l) before[l] += keys[j][l] < keys[i][l];
    }
    for (int l = 0; l < kLanes; ++l) {
      const bool pruned = (before[l] < block.due[l]) & (keys[i][l] != kInactive<Key>);
      block.mask[i][l] = pruned ? M{0} : block.mask[i][l];
      if constexpr (kProduct) {
        // Of 16-bit formats there is no old mask then (kFusion).
        block.product[i][l] = product_of<F, M, sizeof(typename F::Bits) != 2>(
            block.mask[i][l], pruned, block.product[i][l]);
      }
    }
  }
}

}  // namespace fastprune::cpu

// nm_masks and nm_prune on the CPU: of each run of m entries along a dim the n of largest score
// stay. A worker takes a range of runs, a block of them at a time.
#include <ATen/core/Tensor.h>
#include <torch/library.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <type_traits>

#include "args/each.h"
#include "args/nm.h"
#include "common/dtypes.h"
#include "cpu/nm/block.h"
#include "cpu/nm/both.h"
#include "cpu/nm/lanes.h"
#include "cpu/util/each.h"
#include "cpu/util/fresh_pages.h"
#include "cpu/util/fusion.h"
#include "cpu/util/parallel.h"
#include "cpu/util/scaled.h"

namespace fastprune::cpu {
namespace {

constexpr int64_t kPiece = 1 << 15;  // entries

template <class F, class M, class Key>
class NmKernel {
  using Bits = typename F::Bits;
  using Block = NmBlock<F, M, Key>;

 public:
  NmKernel(const EachArgs& args, const NmRule& rule)
      : args_(args),
        rule_(rule),
        runs_(args.shape, rule.run),
        count_(runs_.count()),
        neighbours_(args.shape.inner == 1 && args.shape.channels % rule.run == 0),
        step_(args.shape.inner),
        factor_(args.factor),
        scores_(static_cast<const Bits*>(args.scores.const_data_ptr())),
        io_(args.operands<F, M>()) {}

  void operator()() const {
    const int64_t blocks = (count_ + kLanes - 1) / kLanes;
    // What is written between two calls that populate pages.
    const int64_t together = std::max<int64_t>(1, kPiece / (kLanes * rule_.run));
    for_each_worker(worker_count(blocks, count_ * rule_.run), blocks,
                    [&](int64_t, int64_t first, int64_t last) {
                      const auto block = std::make_unique<Block>();
                      for (int64_t b = first; b < last; b += together) {
                        process(b, std::min(b + together, last), *block);
                      }
                    });
  }

 private:
  // The blocks [first, last).
  void process(int64_t first, int64_t last, Block& block) const {
    populate(first * kLanes, std::min(last * kLanes, count_));
    const int run = rule_.run;
    if (neighbours_) {
      for (; first < last && (first + 1) * kLanes <= count_; ++first) {
        const int64_t entry = first * kLanes * run;
        run == 4 ? process_whole<4>(entry, block) : process_whole<0>(entry, block);
      }
    }
    if (first == last) return;
    RunWalk walk(runs_, run, first * kLanes);
    for (; first < last; ++first) {
      const int64_t left = count_ - first * kLanes;
      process_lanes(take(walk, static_cast<int>(std::min<int64_t>(kLanes, left))), block);
    }
  }

  // Pages of large outputs, from the first of some runs to the last.
  void populate(int64_t first, int64_t last) const {
    if (args_.output.work.numel() * static_cast<int64_t>(sizeof(M)) < kFreshPagesFrom) return;
    const Runs::Place from = runs_.place(first, rule_.run);
    const Runs::Place to = runs_.place(last - 1, rule_.run);
    const int64_t begin = from.entry - from.inner;
    const int64_t entries = to.entry - to.inner + to.size * step_ - begin;
    populate_pages(io_, begin, entries);
  }

  // kLanes runs that are whole and follow each other in memory.
  template <int kRun>
  void process_whole(int64_t entry, Block& block) const {
    const int run = rule_.run;
    to_rows<Bits, kRun>(scores_ + entry, block.scores, run);
    if (factor_.exists()) {
      const int64_t channels = args_.shape.channels;
      for (int64_t i = 0; i < run * kLanes;) {
        const int64_t outer = (entry + i) / channels;
        const int64_t channel = entry + i - outer * channels;
        const int64_t n = std::min<int64_t>(run * kLanes - i, channels - channel);
        factor_.read_along(outer, channel, 0, n, block.unordered + i);
        i += n;
      }
      to_rows<WideOf<F>, kRun>(block.unordered, block.factor, run);
    }
    set_keys<kRun>(block);
    if (io_.mask != nullptr) {
      to_rows<M, kRun>(io_.mask + entry, block.mask, run);
    } else {
      std::fill_n(&block.mask[0][0], run * kLanes, io_.one);
    }
    set_due<kRun>(block, [&](int) { return run; });
    if (io_.t == scores_) {
      std::memcpy(block.product, block.scores, sizeof(Bits) * run * kLanes);
    } else if (io_.product != nullptr) {
      to_rows<Bits, kRun>(io_.t + entry, block.product, run);
    }
    decide<kRun>(block);
    from_rows<M, kRun>(block.mask, io_.out + entry, run);
    if (io_.product != nullptr) from_rows<Bits, kRun>(block.product, io_.product + entry, run);
  }

  Lanes take(RunWalk& walk, int count) const {
    Lanes lanes;
    lanes.count = count;
    lanes.at[0] = *walk;
    lanes.side_by_side = count == kLanes && lanes.at[0].size == rule_.run &&
                         lanes.at[0].inner + count <= args_.shape.inner;
    if (lanes.side_by_side) {
      walk.skip(count);
      return lanes;
    }
    for (int l = 0; l < count; ++l, ++walk) lanes.at[l] = *walk;
    return lanes;
  }

  // fn(row, lane, entry) for each entry of the runs.
  template <class Fn>
  void for_each_entry(const Lanes& lanes, const Fn& fn) const {
    for (int j = 0; j < rule_.run; ++j) {
      for (int l = 0; l < lanes.count; ++l) {
        if (j < lanes.at[l].size) fn(j, l, lanes.at[l].entry + j * step_);
      }
    }
  }

  template <class T>
  void load(const Lanes& lanes, const T* from, T (*rows)[kLanes]) const {
    if (lanes.side_by_side) {
      for (int j = 0; j < rule_.run; ++j) {
        std::memcpy(rows[j], from + lanes.at[0].entry + j * step_, sizeof(T) * kLanes);
      }
    } else {
      for_each_entry(lanes, [&](int j, int l, int64_t entry) { rows[j][l] = from[entry]; });
    }
  }

  template <class T>
  void store(const Lanes& lanes, const T (*rows)[kLanes], T* to) const {
    if (lanes.side_by_side) {
      for (int j = 0; j < rule_.run; ++j) {
        std::memcpy(to + lanes.at[0].entry + j * step_, rows[j], sizeof(T) * kLanes);
      }
    } else {
      for_each_entry(lanes, [&](int j, int l, int64_t entry) { to[entry] = rows[j][l]; });
    }
  }

  void load_factor(const Lanes& lanes, Block& block) const {
    const int run = rule_.run;
    if (lanes.side_by_side) {
      const Runs::Place& first = lanes.at[0];
      for (int j = 0; j < run; ++j) {
        factor_.read_inner(first.outer, first.first + j, first.inner, kLanes, block.factor[j]);
      }
      return;
    }
    std::fill_n(&block.factor[0][0], run * kLanes, WideOf<F>{0});
    for (int l = 0; l < lanes.count; ++l) {
      const Runs::Place& place = lanes.at[l];
      factor_.read_along(place.outer, place.first, place.inner, place.size, block.unordered);
      for (int j = 0; j < place.size; ++j) block.factor[j][l] = block.unordered[j];
    }
  }

  template <int kRun>
  void set_keys(Block& block) const {
    if constexpr (std::is_same_v<Key, typename F::Key>) {
      if (factor_.exists()) {
        return set_scaled_keys<F>(&block.scores[0][0], &block.factor[0][0], &block.keys[0][0],
                                  rule_.run * kLanes);
      }
    }
    set_score_keys<F, M, Key, kRun>(block, rule_.run, args_.is_signed);
  }

  template <int kRun, class SizeOf>
  void set_due(Block& block, const SizeOf& size_of) const {
    alignas(64) Key zeros[kLanes] = {};
    if (io_.mask != nullptr || !neighbours_) {
      mark_inactive<F, M, Key, kRun>(block, rule_.run, io_.one, zeros);
    }
    for (int l = 0; l < kLanes; ++l) {
      block.due[l] = static_cast<Key>(rule_.due(size_of(l), static_cast<int>(zeros[l])));
    }
  }

  void process_lanes(const Lanes& lanes, Block& block) const {
    const int run = rule_.run;
    if (!lanes.side_by_side) std::fill_n(&block.scores[0][0], run * kLanes, Bits{0});
    for (int j = 0; j < run; ++j) {
      for (int l = 0; l < kLanes; ++l) block.mask[j][l] = j < lanes.size(l) ? io_.one : kAbsent;
    }
    load(lanes, scores_, block.scores);
    if (io_.mask != nullptr) load(lanes, io_.mask, block.mask);
    if (factor_.exists()) load_factor(lanes, block);
    set_keys<0>(block);
    set_due<0>(block, [&](int l) { return lanes.size(l); });
    if (io_.product != nullptr) load(lanes, io_.t, block.product);
    decide<0>(block);
    store(lanes, block.mask, io_.out);
    if (io_.product != nullptr) store(lanes, block.product, io_.product);
  }

  template <int kRun>
  void decide(Block& block) const {
    const int run = rule_.run;
    if constexpr (can_multiply<F, M>(kFusion, /*has_old_mask=*/false)) {
      if (io_.product != nullptr) return decide_block<F, M, Key, kRun, true>(block, run);
    }
    decide_block<F, M, Key, kRun, false>(block, run);
  }

  static constexpr M kAbsent = 2;  // of an entry that is not there: neither 0 nor 1

  const EachArgs& args_;
  NmRule rule_;
  Runs runs_;
  int64_t count_;    // runs
  bool neighbours_;  // all runs are whole and follow each other in memory
  int64_t step_;     // from an entry of a run to the next
  FactorReader factor_;
  const Bits* scores_;
  MaskOperands<F, M> io_;
};

auto keep_by(const NmRule& rule) {
  return [rule](const EachArgs& args) {
    dispatch_mask_args(args, [&](auto format, auto bits) {
      using F = decltype(format);
      using M = decltype(bits);
      if (args.factor.tensor.defined()) {
        NmKernel<F, M, typename F::Key>{args, rule}();
      } else {
        NmKernel<F, M, NarrowKey<F>>{args, rule}();
      }
    });
  };
}

}  // namespace

TORCH_LIBRARY_IMPL(fastprune, CPU, m) {
  m.impl("nm_masks", &nm_masks<OnCpu, keep_by, keep_both>);
  m.impl("nm_prune", &nm_prune<OnCpu, keep_by, keep_both>);
}

}  // namespace fastprune::cpu

// nm_masks and nm_prune on the CPU: of each run of m entries along a dim the n of largest score
// stay. A worker takes a range of runs, a block of them at a time.
#include <ATen/ATen.h>
#include <torch/library.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "args/nm.h"
#include "common/dtypes.h"
#include "common/op_types.h"
#include "cpu/elementwise/masked_mul.h"
#include "cpu/nm/block.h"
#include "cpu/util/denormals.h"
#include "cpu/util/fresh_pages.h"
#include "cpu/util/parallel.h"

namespace fastprune::cpu {
namespace {

constexpr FusionRule kFusion{/*half=*/false, /*byte_masks=*/false};

constexpr int64_t kPiece = 1 << 15;  // entries

// Runs of a worker's share, one after the other, without a division for each.
class RunWalk {
 public:
  RunWalk(const Runs& runs, int run, int64_t number)
      : runs_(runs), run_(run), place_(runs.place(number, run)) {}

  const Runs::Place& operator*() const { return place_; }

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

// The runs of a block.
struct Lanes {
  int count = 0;
  bool side_by_side = true;  // rows are contiguous in memory
  bool whole = true;         // all of them, with as many entries as a run can have
  int64_t entry[kLanes] = {};
  int size[kLanes] = {};
  int64_t factor[kLanes] = {};  // where that of the first entry is
};

template <class F, class M>
class NmKernel {
  using Bits = typename F::Bits;
  using Key = typename F::Key;

 public:
  explicit NmKernel(const NmArgs& args)
      : args_(args),
        count_(args.runs.count()),
        neighbours_(args.runs.shape.inner == 1 && args.runs.shape.channels % args.rule.run == 0 &&
                    !args.factor.tensor.defined()),
        step_(args.runs.shape.inner),
        one_(static_cast<M>(one_bits(args.output.out.scalar_type()))),
        scores_(static_cast<const Bits*>(args.scores.const_data_ptr())),
        mask_(args.mask.defined() ? static_cast<const M*>(args.mask.const_data_ptr()) : nullptr),
        out_(static_cast<M*>(args.output.work.mutable_data_ptr())),
        t_(args.t.defined() ? static_cast<const Bits*>(args.t.const_data_ptr()) : nullptr),
        product_(args.product.defined() ? static_cast<Bits*>(args.product.mutable_data_ptr())
                                        : nullptr) {}

  void operator()() const {
    const int64_t blocks = (count_ + kLanes - 1) / kLanes;
    // What is written between two calls that populate pages.
    const int64_t together = std::max<int64_t>(1, kPiece / (kLanes * args_.rule.run));
    for_each_worker(worker_count(blocks), blocks, [&](int64_t, int64_t first, int64_t last) {
      const auto block = std::make_unique<NmBlock<F, M>>();
      for (int64_t b = first; b < last; b += together) {
        process(b, std::min(b + together, last), *block);
      }
    });
  }

 private:
  // The blocks [first, last).
  void process(int64_t first, int64_t last, NmBlock<F, M>& block) const {
    populate(first * kLanes, std::min(last * kLanes, count_));
    const int run = args_.rule.run;
    if (neighbours_) {
      for (; first < last && (first + 1) * kLanes <= count_; ++first) {
        const int64_t entry = first * kLanes * run;
        run == 4 ? process_whole<4>(entry, block) : process_whole<0>(entry, block);
      }
    }
    if (first == last) return;
    RunWalk walk(args_.runs, run, first * kLanes);
    for (; first < last; ++first) {
      const int64_t left = count_ - first * kLanes;
      process_lanes(take(walk, static_cast<int>(std::min<int64_t>(kLanes, left))), block);
    }
  }

  // Pages of large outputs, from the first of some runs to the last.
  void populate(int64_t first, int64_t last) const {
    if (args_.output.work.numel() * static_cast<int64_t>(sizeof(M)) < kFreshPagesFrom) return;
    const Runs::Place from = args_.runs.place(first, args_.rule.run);
    const Runs::Place to = args_.runs.place(last - 1, args_.rule.run);
    const int64_t begin = from.entry - from.inner;
    const int64_t entries = to.entry - to.inner + to.size * step_ - begin;
    populate_pages(out_ + begin, entries * static_cast<int64_t>(sizeof(M)));
    if (product_ == nullptr) return;
    populate_pages(product_ + begin, entries * static_cast<int64_t>(sizeof(Bits)));
  }

  // kLanes runs that are whole and follow each other in memory, without a factor.
  template <int kRun>
  void process_whole(int64_t entry, NmBlock<F, M>& block) const {
    const int run = args_.rule.run;
    to_rows<Bits, kRun>(scores_ + entry, block.scores, run);
    set_keys<F, M, kRun>(block, run, args_.rule.is_signed);
    if (mask_ != nullptr) {
      to_rows<M, kRun>(mask_ + entry, block.mask, run);
    } else {
      std::fill_n(&block.mask[0][0], run * kLanes, one_);
    }
    set_due<kRun>(block, [&](int) { return run; });
    if (product_ != nullptr) to_rows<Bits, kRun>(t_ + entry, block.product, run);
    decide<kRun>(block);
    from_rows<M, kRun>(block.mask, out_ + entry, run);
    if (product_ != nullptr) from_rows<Bits, kRun>(block.product, product_ + entry, run);
  }

  Lanes take(RunWalk& walk, int count) const {
    Lanes lanes;
    lanes.count = count;
    lanes.whole = count == kLanes;
    for (int l = 0; l < count; ++l, ++walk) {
      const Runs::Place& place = *walk;
      lanes.entry[l] = place.entry;
      lanes.size[l] = place.size;
      lanes.whole &= place.size == args_.rule.run;
      lanes.side_by_side &= place.entry == lanes.entry[0] + l;
      if (args_.factor.tensor.defined()) {
        const Broadcast& at = args_.factor.broadcast;
        lanes.factor[l] = at.outer(place.outer) + place.first * at.along + at.inner(place.inner);
      }
    }
    return lanes;
  }

  // fn(row, lane, entry) for each entry of the runs.
  template <class Fn>
  void for_each_entry(const Lanes& lanes, const Fn& fn) const {
    for (int j = 0; j < args_.rule.run; ++j) {
      for (int l = 0; l < lanes.count; ++l) {
        if (j < lanes.size[l]) fn(j, l, lanes.entry[l] + j * step_);
      }
    }
  }

  template <class T>
  void load(const Lanes& lanes, const T* from, T (*rows)[kLanes]) const {
    if (lanes.side_by_side && lanes.whole) {
      for (int j = 0; j < args_.rule.run; ++j) {
        std::memcpy(rows[j], from + lanes.entry[0] + j * step_, sizeof(T) * kLanes);
      }
    } else {
      for_each_entry(lanes, [&](int j, int l, int64_t entry) { rows[j][l] = from[entry]; });
    }
  }

  template <class T>
  void store(const Lanes& lanes, const T (*rows)[kLanes], T* to) const {
    if (lanes.side_by_side && lanes.whole) {
      for (int j = 0; j < args_.rule.run; ++j) {
        std::memcpy(to + lanes.entry[0] + j * step_, rows[j], sizeof(T) * kLanes);
      }
    } else {
      for_each_entry(lanes, [&](int j, int l, int64_t entry) { to[entry] = rows[j][l]; });
    }
  }

  void load_factor(const Lanes& lanes, NmBlock<F, M>& block) const {
    const int64_t along = args_.factor.broadcast.along;
    dispatch_float(args_.factor.tensor.scalar_type(), [&](auto value) {
      const auto* from = args_.factor.tensor.const_data_ptr<decltype(value)>();
      for_each_entry(lanes, [&](int j, int l, int64_t) {
        block.factor[j][l] = static_cast<WideOf<F>>(from[lanes.factor[l] + j * along]);
      });
    });
  }

  template <int kRun, class SizeOf>
  void set_due(NmBlock<F, M>& block, const SizeOf& size_of) const {
    alignas(64) Key zeros[kLanes] = {};
    if (mask_ != nullptr || !neighbours_) {
      mark_inactive<F, M, kRun>(block, args_.rule.run, one_, zeros);
    }
    for (int l = 0; l < kLanes; ++l) {
      block.due[l] = static_cast<Key>(args_.rule.due(size_of(l), static_cast<int>(zeros[l])));
    }
  }

  void process_lanes(const Lanes& lanes, NmBlock<F, M>& block) const {
    const int run = args_.rule.run;
    std::fill_n(&block.scores[0][0], run * kLanes, Bits{0});
    for (int j = 0; j < run; ++j) {
      for (int l = 0; l < kLanes; ++l) block.mask[j][l] = j < lanes.size[l] ? one_ : kAbsent;
    }
    load(lanes, scores_, block.scores);
    if (mask_ != nullptr) load(lanes, mask_, block.mask);
    if (args_.factor.tensor.defined()) {
      load_factor(lanes, block);
      set_scaled_keys(block, run);
    } else {
      set_keys<F, M, 0>(block, run, args_.rule.is_signed);
    }
    set_due<0>(block, [&](int l) { return lanes.size[l]; });
    if (product_ != nullptr) load(lanes, t_, block.product);
    decide<0>(block);
    store(lanes, block.mask, out_);
    if (product_ != nullptr) store(lanes, block.product, product_);
  }

  template <int kRun>
  void decide(NmBlock<F, M>& block) const {
    const int run = args_.rule.run;
    if constexpr (can_multiply<F, M>(kFusion, /*has_old_mask=*/false)) {
      if (product_ != nullptr) return decide_block<F, M, kRun, true>(block, run);
    }
    decide_block<F, M, kRun, false>(block, run);
  }

  static constexpr M kAbsent = 2;  // of an entry that is not there: neither 0 nor 1

  const NmArgs& args_;
  int64_t count_;    // runs
  bool neighbours_;  // all runs are whole and follow each other in memory, and there is no factor
  int64_t step_;     // from an entry of a run to the next
  M one_;
  const Bits* scores_;
  const M* mask_;  // nullptr: all ones
  M* out_;
  const Bits* t_;
  Bits* product_;
};

at::Tensor run(NmArgs& args) {
  advise_huge_pages(args.output.work);
  if (args.product.defined()) advise_huge_pages(args.product);
  if (args.runs.count() > 0) {
    dispatch_scores(args.scores.scalar_type(), [&](auto format) {
      dispatch_mask_width(args.output.work.element_size(),
                          [&](auto bits) { NmKernel<decltype(format), decltype(bits)>{args}(); });
    });
  }
  return args.output.finish();
}

std::vector<at::Tensor> nm_masks(at::TensorList scores, const MaskList& masks, int64_t n, int64_t m,
                                 int64_t dim, const MaskList& factors, bool is_signed,
                                 std::optional<at::ScalarType> dtype) {
  const std::vector<at::Tensor> old_masks = to_vector(masks);
  const std::vector<at::Tensor> by = to_vector(factors);
  check_nm_masks("nm_masks", scores, old_masks, n, m, dim, by, is_signed, dtype);
  std::vector<at::Tensor> result;
  for (size_t i = 0; i < scores.size(); ++i) {
    NmArgs args(scores[i], at_or_none(old_masks, i), at_or_none(by, i), dim,
                {static_cast<int>(n), static_cast<int>(m), is_signed}, dtype);
    result.push_back(run(args));
  }
  return result;
}

TensorLists nm_prune(at::TensorList scores, const MaskList& masks, at::TensorList ts, int64_t n,
                     int64_t m, int64_t dim, const MaskList& factors, bool is_signed) {
  const std::vector<at::Tensor> old_masks = to_vector(masks);
  const std::vector<at::Tensor> by = to_vector(factors);
  check_prune("nm_prune", scores, ts);
  check_nm_masks("nm_prune", scores, old_masks, n, m, dim, by, is_signed, std::nullopt);
  TensorLists result;
  auto& [new_masks, products] = result;
  for (size_t i = 0; i < scores.size(); ++i) {
    NmArgs args(scores[i], at_or_none(old_masks, i), at_or_none(by, i), dim,
                {static_cast<int>(n), static_cast<int>(m), is_signed}, std::nullopt);
    if (keeps_bits(ts[i])) args.prepare_product(ts[i], kFusion);
    new_masks.push_back(run(args));
    products.push_back(args.product.defined() ? args.product
                                              : masked_muls(ts[i], new_masks.back())[0]);
  }
  return result;
}

}  // namespace

TORCH_LIBRARY_IMPL(fastprune, CPU, m) {
  m.impl("nm_masks", &nm_masks);
  m.impl("nm_prune", &nm_prune);
}

}  // namespace fastprune::cpu

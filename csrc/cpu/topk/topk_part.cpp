// A part of a selection over several (args/topk_part.h) on the CPU: the phases of topk_masks, with
// what other parts have to know in between.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/tensor.h>
#include <torch/library.h>

#include <algorithm>
#include <mutex>
#include <utility>
#include <vector>

#include "args/topk.h"
#include "args/topk_part.h"
#include "common/dtypes.h"
#include "cpu/topk/bracket.h"
#include "cpu/topk/fixup.h"
#include "cpu/topk/sweep.h"
#include "cpu/topk/tiles.h"
#include "cpu/util/each.h"
#include "cpu/util/fresh_pages.h"

namespace fastprune::cpu {
namespace {

// How many values are in each bin.
class Histogram {
 public:
  explicit Histogram(const PartBins& bins) : bins_(bins), counts_(kPartBins, 0) {}

  void add(int64_t value) {
    const int bin = bins_(value);
    if (bin >= 0) ++counts_[bin];
  }

  void add(const Histogram& other) {
    for (int bin = 0; bin < kPartBins; ++bin) counts_[bin] += other.counts_[bin];
  }

  at::Tensor tensor() const { return at::tensor(counts_, at::kLong); }

 private:
  PartBins bins_;
  std::vector<int64_t> counts_;
};

template <class F, class M>
class Part final : public TopkPart {
  using Key = typename F::Key;

 public:
  Part(TopkArgs args, at::ScalarType keys, bool active_only, bool largest)
      : TopkPart(args.scores.size()),
        args_(std::move(args)),
        list_(args_, 0, args_.scores.size(), active_only, largest),
        promotion_{key_layout<F>(), layout_of(keys), largest} {
    for (const Output& output : args_.outputs) advise_huge_pages(output.work);
  }

  std::tuple<at::Tensor, int64_t> sample(int64_t stretch) override {
    if (list_.total == 0) return {at::empty({0}, at::kLong), 0};
    stretch = std::clamp<int64_t>(stretch, 1, kTile);
    int64_t drawn = 0;
    for (const Tile<F, M>& tile : list_.tiles) drawn += (tile.size + stretch / 2) / stretch;
    const std::vector<Key> keys = sample_keys(list_, stretch);
    at::Tensor result = at::empty({static_cast<int64_t>(keys.size())}, at::kLong);
    auto* out = result.mutable_data_ptr<int64_t>();
    for (size_t i = 0; i < keys.size(); ++i) out[i] = promoted(keys[i]);
    return {std::move(result), drawn};
  }

  std::tuple<int64_t, int64_t, int64_t, bool> do_sweep(int64_t lo, int64_t pivot,
                                                       int64_t hi) override {
    if (list_.total == 0) return {0, 0, 0, true};
    const auto after = static_cast<uint64_t>(hi) + 1;
    bracket_ = {local(lo), static_cast<Key>(promotion_.lowest_from(after) - 1), 0, 0, 0};
    // An interval may be one key here and not elsewhere; the fixup takes its entries to be kept.
    pivot_ = bracket_.lo == bracket_.hi ? bracket_.lo : local(pivot);
    swept_ = cpu::sweep(list_, bracket_, pivot_);
    return {swept_.counts.active, swept_.counts.below, swept_.counts.inside, !swept_.overflow};
  }

  at::Tensor do_histogram(int64_t lo, int64_t shift, bool stored) override {
    return counted({lo, shift}, stored, [&](int64_t, int64_t, Key key, Histogram& histogram) {
      histogram.add(promoted(key));
    });
  }

  at::Tensor do_tie_histogram(int64_t key, int64_t lo, int64_t shift, bool stored,
                              const std::vector<at::Tensor>& places) override {
    std::vector<std::vector<int64_t>> tables;
    std::vector<std::pair<size_t, int64_t>> of_tile;  // its tensor, and its first entry there
    for (size_t s = 0; s < args_.scores.size(); ++s) {
      tables.push_back(places_table(args_.scores[s], places[s]));
      for (int64_t at = 0; at < args_.scores[s].numel(); at += kTile) of_tile.emplace_back(s, at);
    }
    const PartBins bins{lo, shift};
    const Key threshold = local(key);
    if (promoted(threshold) != key) return Histogram(bins).tensor();  // no score has it
    return counted(bins, stored, [&](int64_t t, int64_t i, Key of_entry, Histogram& histogram) {
      if (of_entry != threshold) return;
      const auto& [tensor, first] = of_tile[t];
      histogram.add(tie_place(tables[tensor].data(), first + i));
    });
  }

  void do_fixup(int64_t threshold, int64_t below, int64_t due, bool stored) override {
    if (list_.total == 0) return;
    if (!stored) {
      const Key key = local(threshold);
      bracket_ = {key, key, 0, 0, 0};
      pivot_ = key;
      swept_ = cpu::sweep(list_, bracket_, pivot_);
    }
    bracket_.below = swept_.counts.below;
    bracket_.inside = swept_.counts.inside;
    bracket_.rank = below + due - bracket_.below;
    cpu::fixup(list_, bracket_, pivot_, swept_);
  }

  std::vector<at::Tensor> do_masks() override { return args_.finish(); }

 private:
  Key local(int64_t key) const {
    return static_cast<Key>(promotion_.lowest_from(static_cast<uint64_t>(key)));
  }

  int64_t promoted(Key key) const { return static_cast<int64_t>(promotion_(key)); }

  // Calls fn(tile, entry of the tile, key, histogram) for each active entry, or each that the sweep
  // stored, in parallel; the sum of all histograms.
  template <class Fn>
  at::Tensor counted(const PartBins& bins, bool stored, const Fn& fn) const {
    Histogram sum(bins);
    if (list_.total == 0) return sum.tensor();
    std::mutex joining;
    list_.for_each_range([&](int64_t worker, int64_t first, int64_t last) {
      Histogram mine(bins);
      if (stored && bracket_.lo != bracket_.hi) {
        const Candidates<Key>& candidates = swept_.candidates[worker];
        size_t i = 0;
        for (int64_t t = first; t < last; ++t) {
          for (int32_t n = 0; n < swept_.inside[t]; ++n, ++i) {
            fn(t, candidates.offsets[i], candidates.keys[i], mine);
          }
        }
      } else {
        // The sweep stores nothing of an interval of one key, but counts by tile.
        for (int64_t t = first; t < last; ++t) {
          if (stored && swept_.inside[t] == 0) continue;
          const Tile<F, M>& tile = list_.tiles[t];
          for (int64_t i = 0; i < tile.size; ++i) {
            if (!list_.active(tile, i)) continue;
            const Key key = list_.key(tile, i);
            if (!stored || key == bracket_.lo) fn(t, i, key, mine);
          }
        }
      }
      const std::lock_guard<std::mutex> guard(joining);
      sum.add(mine);
    });
    return sum.tensor();
  }

  TopkArgs args_;
  TileList<F, M> list_;
  Promotion promotion_;
  Bracket<Key> bracket_{};
  Key pivot_ = 0;
  SweepResult<Key> swept_;
};

c10::intrusive_ptr<TopkPart> make_part(TopkArgs args, at::ScalarType keys, bool active_only,
                                       bool largest) {
  c10::intrusive_ptr<TopkPart> part;
  dispatch_scores(args.scores[0].scalar_type(), [&](auto format) {
    dispatch_mask_width(at::elementSize(args.mask_dtype), [&](auto bits) {
      using Made = Part<decltype(format), decltype(bits)>;
      part = c10::make_intrusive<Made>(std::move(args), keys, active_only, largest);
    });
  });
  return part;
}

}  // namespace

TORCH_LIBRARY_IMPL(fastprune, CPU, m) {
  define_topk_part();
  m.impl("topk_part", &topk_part<OnCpu, &make_part>);
}

}  // namespace fastprune::cpu

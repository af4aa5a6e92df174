// topk_part on CUDA: sampled bracket (Floyd-Rivest) with a radix-select fallback, over parts. Here
// the phases: the kernels of topk_masks for large inputs, and where those find their bracket and
// threshold by themselves, the host, as other parts say. Each phase waits for the device.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <limits>
#include <optional>
#include <tuple>
#include <utility>
#include <vector>

#include "args/topk_part.h"
#include "cuda/topk/launch.cuh"
#include "cuda/topk/part_kernels.cuh"

namespace fastprune::cuda {

// The device is the current one while this is made.
template <class F, class M>
class Part final : public TopkPart {
  using Key = typename F::Key;
  using State = TopkState<Key>;

 public:
  Part(TopkArgs args, at::ScalarType keys, bool active_only, bool largest)
      : TopkPart(args.scores.size()),
        args_(std::move(args)),
        device_(args_.scores[0].device()),
        map_(tile_map<F, M>(args_)),
        list_(args_.total == 0 ? TensorList{} : map_.list(device_)),
        options_(options_of<F, M>(args_, active_only, largest)),
        promotion_{key_layout<F>(), layout_of(keys), largest},
        grid_(grid_for<TopkPolicy>(list_.tiles)) {
    TORCH_INTERNAL_ASSERT(list_.tiles <= std::numeric_limits<int>::max());
    if (args_.total == 0) return;
    workspace_.emplace(list_, grid_, device_, TopkPolicy::kPartRoom);
    workspace_->clear_padding(list_.tiles);
  }

  std::tuple<at::Tensor, int64_t> sample(int64_t stretch) override {
    if (args_.total == 0) return {at::empty({0}, at::kLong), 0};
    const DeviceGuard guard(args_.scores[0]);
    TopkWork<F> drawn = work();
    drawn.stretch = std::max<int64_t>(stretch, 1);
    drawn.sample_size = ceil_div(list_.entries, drawn.stretch);
    constexpr auto kBytes = static_cast<int64_t>(sizeof(typename F::Bits));
    const at::Tensor sample = fresh({drawn.sample_size * kBytes}, at::kByte, device_);
    drawn.sample = reinterpret_cast<typename F::Bits*>(sample.mutable_data_ptr<uint8_t>());
    launch_sample<F, M>(list_, options_, drawn);
    const at::Tensor host = sample.cpu();
    const auto* keys = reinterpret_cast<const typename F::Bits*>(host.const_data_ptr<uint8_t>());
    std::vector<int64_t> active;
    for (int64_t i = 0; i < drawn.sample_size; ++i) {
      if (keys[i] != no_key<F>()) active.push_back(promoted(static_cast<Key>(keys[i])));
    }
    return {at::tensor(active, at::kLong), drawn.sample_size};
  }

  std::tuple<int64_t, int64_t, int64_t, bool> do_sweep(int64_t lo, int64_t pivot,
                                                       int64_t hi) override {
    if (args_.total == 0) return {0, 0, 0, true};
    const DeviceGuard guard(args_.scores[0]);
    const Key first = local(lo);
    const Key after = static_cast<Key>(promotion_.lowest_from(static_cast<uint64_t>(hi) + 1));
    const Key at = local(pivot);
    const auto last = static_cast<Key>(after - 1);
    has_keys_ = first < after;
    if (!has_keys_) {
      sweep_by(edges_at(first));
    } else if (at < after) {
      sweep_by({first, at, last, 0});
    } else {  // all keys of the interval that the format has are below the pivot
      sweep_by({first, last, last, static_cast<Key>(tiles())});
    }
    const int64_t inside = has_keys_ ? count_of(&SweepCounts::ties_lo) + stored_entries() +
                                           count_of(&SweepCounts::ties_hi)
                                     : 0;
    return {count_of(&SweepCounts::active), count_of(&SweepCounts::below), inside,
            stored_entries() <= work().room};
  }

  at::Tensor do_histogram(int64_t lo, int64_t shift, bool stored) override {
    if (args_.total == 0 || (stored && !has_keys_)) return at::zeros({kPartBins}, at::kLong);
    const DeviceGuard guard(args_.scores[0]);
    const PartBins bins{lo, shift};
    at::Tensor sum = counted([&](unsigned grid, unsigned long long* all) {
      FASTPRUNE_LAUNCH((topk_part_histogram_kernel<F, M>), grid, TopkPolicy::kThreads, list_,
                       options_, work(), source(stored), promotion_, bins, all);
    });
    if (!stored) return sum;
    // The sweep counts entries equal to an edge, and does not store them.
    const auto add = [&](Key edge, int64_t ties) {
      const int bin = bins(promoted(edge));
      if (bin >= 0) sum.mutable_data_ptr<int64_t>()[bin] += ties;
    };
    add(state_.edges.lo, count_of(&SweepCounts::ties_lo));
    add(state_.edges.hi, count_of(&SweepCounts::ties_hi));
    return sum;
  }

  at::Tensor do_tie_histogram(int64_t key, int64_t lo, int64_t shift, bool stored,
                              const std::vector<at::Tensor>& places) override {
    const std::vector<int64_t> tables = joined_tables(places);
    const Key tie = local(key);
    if (args_.total == 0 || (stored && !has_keys_) || promoted(tie) != key) {  // no score has it
      return at::zeros({kPartBins}, at::kLong);
    }
    const DeviceGuard guard(args_.scores[0]);
    const at::Tensor there = at::tensor(tables, at::kLong).to(device_);
    const bool edge = stored && at_edge(state_.edges, tie);
    const Ties<Key> ties{tie, edge ? Source::kEverything : source(stored), edge};
    return counted([&](unsigned grid, unsigned long long* all) {
      FASTPRUNE_LAUNCH((topk_part_ties_kernel<F, M>), grid, TopkPolicy::kThreads, list_, options_,
                       work(), ties, there.const_data_ptr<int64_t>(), PartBins{lo, shift}, all);
    });
  }

  // The kernels do not need to know how many are below.
  void do_fixup(int64_t threshold, int64_t, int64_t due, bool stored) override {
    if (args_.total == 0) return;
    const DeviceGuard guard(args_.scores[0]);
    const Key key = local(threshold);
    if (!stored) sweep_by(edges_at(key));
    state_.source = Source::kCandidates;
    const int64_t ties = std::numeric_limits<int64_t>::max();  // how many does not matter
    state_.bracket = {key, key, 0, due, ties};
    state_there().copy_(state_here());
    launch_fixup<F, M>(list_, options_, work(), grid_);
  }

  std::vector<at::Tensor> do_masks() override { return args_.finish(); }

 private:
  const TopkWork<F>& work() const { return workspace_->pointers; }

  int tiles() const { return static_cast<int>(list_.tiles); }

  // The lowest key of the format that is not below one of all parts. The highest keys, of NaN or
  // if flipped of zero, are the same, so there is one.
  Key local(int64_t key) const {
    return static_cast<Key>(promotion_.lowest_from(static_cast<uint64_t>(key)));
  }

  int64_t promoted(Key key) const { return static_cast<int64_t>(promotion_(key)); }

  int64_t count_of(unsigned long long SweepCounts::* count) const {
    return static_cast<int64_t>(state_.counts.*count);
  }

  int64_t stored_entries() const { return count_of(&SweepCounts::between); }

  static Source source(bool stored) { return stored ? Source::kCandidates : Source::kEverything; }

  // A sweep by these prunes all that is below a key.
  static Edges<Key> edges_at(Key key) { return {key, key, key, 0}; }

  void sweep_by(const Edges<Key>& edges) {
    state_ = State{};
    state_.edges = edges;
    state_there().copy_(state_here());
    launch_sweep<F, M>(list_, options_, work(), grid_, /*again=*/false);
    state_here().copy_(state_there());
  }

  // The state as bytes, here and in the device's memory.
  at::Tensor state_here() { return at::from_blob(&state_, {sizeof(State)}, at::kByte); }
  at::Tensor state_there() const { return workspace_->memory.slice(0, 0, sizeof(State)); }

  // The histogram that launch(grid, bins) adds to, on the host.
  template <class Launch>
  at::Tensor counted(const Launch& launch) const {
    at::Tensor bins = at::zeros({kPartBins}, at::device(device_).dtype(at::kLong));
    launch(grid_for(list_.tiles, 1),  // each block adds its bins to those in memory
           reinterpret_cast<unsigned long long*>(bins.mutable_data_ptr<int64_t>()));
    return bins.cpu();
  }

  // What topk_part_ties_kernel takes.
  std::vector<int64_t> joined_tables(const std::vector<at::Tensor>& places) const {
    std::vector<int64_t> begins;
    std::vector<int64_t> tables;
    for (size_t s = 0; s < args_.scores.size(); ++s) {
      const std::vector<int64_t> table = places_table(args_.scores[s], places[s]);
      if (args_.scores[s].numel() == 0) continue;  // not in the list
      begins.push_back(list_.count + static_cast<int64_t>(tables.size()));
      tables.insert(tables.end(), table.begin(), table.end());
    }
    begins.insert(begins.end(), tables.begin(), tables.end());
    return begins;
  }

  TopkArgs args_;
  at::Device device_;
  TileMap map_;
  TensorList list_;
  SelectionOptions options_;
  Promotion promotion_;
  unsigned grid_;
  std::optional<Workspace<F>> workspace_;
  State state_{};          // as it was after the last sweep
  bool has_keys_ = false;  // there are keys of the format in the interval that was swept
};

template <class F>
c10::intrusive_ptr<TopkPart> make_part(TopkArgs args, at::ScalarType keys, bool active_only,
                                       bool largest) {
  c10::intrusive_ptr<TopkPart> part;
  dispatch_mask_width(at::elementSize(args.mask_dtype), [&](auto bits) {
    part =
        c10::make_intrusive<Part<F, decltype(bits)>>(std::move(args), keys, active_only, largest);
  });
  return part;
}

}  // namespace fastprune::cuda

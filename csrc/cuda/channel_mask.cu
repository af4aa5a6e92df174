// channel_mask on CUDA: find the active channels, select among their scores in one block, write.
#include <cstdint>

#include "device.cuh"

namespace fastprune::cuda {

// A channel is active if any of its mask entries is non-zero. Writers of a flag all write 1.
template <class T>
__global__ void __launch_bounds__(kThreads)
    channel_active_kernel(const T* mask, int64_t size, int64_t channels, int64_t inner,
                          uint8_t* active) {
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < size;
       i += int64_t{gridDim.x} * kThreads) {
    if (mask[i] != static_cast<T>(0)) active[i / inner % channels] = 1;
  }
}

struct ChannelSelection {
  int64_t active;
};

// One block: marks in `prune` the budgeted active channels of lowest score, lowest channel first
// among equals. Scores are read once for each digit of the key.
__global__ void __launch_bounds__(kThreads)
    channel_select_kernel(const uint64_t* scores, const uint8_t* active, int64_t channels,
                          const Amount amount, ChannelSelection* selection, uint8_t* prune) {
  using Scan = cub::BlockScan<int, kThreads>;
  constexpr int kChannelDigit = 8;
  constexpr int kChannelBins = 1 << kChannelDigit;
  FASTPRUNE_SHARED(typename Scan::TempStorage, scan);
  FASTPRUNE_SHARED(unsigned[kChannelBins], bins);
  FASTPRUNE_SHARED(Bracket<uint64_t>, bracket);
  const auto is_active = [&](int64_t c) { return active == nullptr || active[c] != 0; };
  if (threadIdx.x == 0) bracket = {0, max_key<Fp64>(), 0, 0, channels};
  for (int pass = 0; pass < digit_passes(Fp64::kKeyBits, kChannelDigit); ++pass) {
    const Digit digit = digit_of_pass(Fp64::kKeyBits, kChannelDigit, pass);
    for (int b = threadIdx.x; b < kChannelBins; b += kThreads) bins[b] = 0;
    __syncthreads();
    const Bracket<uint64_t> current = bracket;
    for (int64_t c = threadIdx.x; c < channels; c += kThreads) {
      const uint64_t key = rank_key<Fp64>(scores[c], 0);
      if (!is_active(c) || !in_bracket(key, current.lo, current.hi)) continue;
      atomicAdd(&bins[(key - current.lo) >> digit.shift], 1u);
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      Bracket<uint64_t> b = current;
      if (pass == 0) {
        int64_t total = 0;
        for (int i = 0; i < kChannelBins; ++i) total += bins[i];
        const int64_t wanted = budget(amount, total);
        b.rank = wanted < total ? wanted : total;
        selection->active = total;
      }
      int64_t before = 0;
      int bin = 0;
      // With rank 0 this stays in bin 0 to the end: threshold 0, none of its ties due.
      while (before + bins[bin] < b.rank) before += bins[bin++];
      bracket = narrow(b, digit, bin, before, bins[bin]);
    }
    __syncthreads();
  }
  const uint64_t threshold = bracket.lo;
  int64_t due = bracket.rank;
  for (int64_t first = 0; first < channels; first += kThreads) {
    const int64_t c = first + threadIdx.x;
    const bool counts = c < channels && is_active(c);
    const uint64_t key = counts ? rank_key<Fp64>(scores[c], 0) : 0;
    const bool tie = counts && key == threshold;
    int before = 0;
    int total = 0;
    Scan(scan).ExclusiveSum(static_cast<int>(tie), before, total);
    if (c < channels) prune[c] = (counts && key < threshold) || (tie && before < due);
    due -= total;
    __syncthreads();  // before the next round uses `scan`
  }
}

// The old mask, times zero in pruned channels.
template <class T>
__global__ void __launch_bounds__(kThreads)
    channel_write_kernel(const T* mask, const uint8_t* prune, int64_t size, int64_t channels,
                         int64_t inner, T* out) {
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < size;
       i += int64_t{gridDim.x} * kThreads) {
    const T old = mask == nullptr ? static_cast<T>(1) : mask[i];
    out[i] = prune[i / inner % channels] ? static_cast<T>(old * static_cast<T>(0)) : old;
  }
}

}  // namespace fastprune::cuda

#include <ATen/ATen.h>

#include "../checks.h"
#include "../dispatch.h"
#include "launch.cuh"

namespace fastprune::cuda {
namespace {

template <class T>
void mask_channels(const ChannelMaskArgs& args, bool active_only) {
  const ChannelView& view = args.view;
  const int64_t size = args.work.numel();
  const auto bytes = args.scores.options().dtype(at::kByte);
  const T* mask = args.mask.defined() ? args.mask.const_data_ptr<T>() : nullptr;
  const unsigned grid = grid_for((size + kThreads - 1) / kThreads);
  const bool restricted = mask != nullptr && active_only;

  at::Tensor active;
  if (restricted) {
    active = at::zeros({view.channels}, bytes);
    FASTPRUNE_LAUNCH(channel_active_kernel<T>, grid, kThreads, mask, size, view.channels,
                     view.inner, active.mutable_data_ptr<uint8_t>());
  }
  at::Tensor prune = at::empty({view.channels}, bytes);
  at::Tensor selection = at::empty({static_cast<int64_t>(sizeof(ChannelSelection))}, bytes);
  FASTPRUNE_LAUNCH(channel_select_kernel, 1, kThreads,
                   reinterpret_cast<const uint64_t*>(args.scores.const_data_ptr<double>()),
                   restricted ? active.const_data_ptr<uint8_t>() : nullptr, view.channels,
                   args.amount,
                   reinterpret_cast<ChannelSelection*>(selection.mutable_data_ptr<uint8_t>()),
                   prune.mutable_data_ptr<uint8_t>());
  FASTPRUNE_LAUNCH(channel_write_kernel<T>, grid, kThreads, mask, prune.const_data_ptr<uint8_t>(),
                   size, view.channels, view.inner, args.work.mutable_data_ptr<T>());
  if (args.amount.is_count && restricted) {
    // Whether a count fits is known on the device alone; a fraction always does.
    const at::Tensor host = selection.cpu();
    check_count_fits(args.amount,
                     reinterpret_cast<const ChannelSelection*>(host.const_data_ptr())->active);
  }
}

at::Tensor channel_mask(const at::Tensor& scores, const at::Tensor& like,
                        const std::optional<at::Tensor>& mask, const at::Scalar& amount,
                        int64_t dim, bool active_only) {
  ChannelMaskArgs args = check_channel_mask(scores, like, mask, amount, dim);
  const bool restricted = args.mask.defined() && active_only;
  if (!restricted) check_count_fits(args.amount, args.view.channels);
  const DeviceGuard guard(like);
  if (like.numel() == 0) {
    if (restricted) check_count_fits(args.amount, 0);
  } else {
    dispatch_mask(args.out.scalar_type(),
                  [&](auto value) { mask_channels<decltype(value)>(args, active_only); });
  }
  return args.finish();
}

}  // namespace

FASTPRUNE_CUDA_IMPL(m) {
  m.impl("channel_mask", &channel_mask);
}

}  // namespace fastprune::cuda

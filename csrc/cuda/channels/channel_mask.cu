// channel_mask and channel_prune on CUDA. With an old mask one launch finds the active channels;
// then one launch selects channels and writes, or two launches if there are many channels.
#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cstdint>
#include <utility>

#include "args/channels.h"
#include "common/dtypes.h"
#include "common/op_types.h"
#include "cuda/channels/flags.cuh"
#include "cuda/channels/write.cuh"
#include "cuda/elementwise/masked_mul.h"
#include "cuda/util/launch.cuh"
#include "cuda/util/register.h"

namespace fastprune::cuda {
namespace {

// All bits but the signs, of as many elements as fit in the word.
uint64_t magnitude_bits(at::ScalarType dtype) {
  const int bits = static_cast<int>(at::elementSize(dtype)) * 8;
  uint64_t signs = 0;
  for (int at = bits - 1; at < 64 && at::isFloatingType(dtype); at += bits) {
    signs |= uint64_t{1} << at;
  }
  return ~signs;
}

// Fewer channels, or strips, than this are split into parts.
int64_t full_grid() {
  return int64_t{multiprocessors()} * ChannelsPolicy::kBlocksPerMultiprocessor;
}

template <class B>
void launch_flags_of_runs(const B* mask, FlagTask task) {
  const ChannelShape& s = task.shape;
  const int entries = task.vectorized ? vec_entries<B>() : 1;
  task.parts = s.channels < full_grid() ? kFlagParts : 1;
  task.lanes = kFewestLanes;
  while (task.lanes < ChannelsPolicy::kThreads &&
         int64_t{task.lanes} * entries * kFlagLoads < s.entries() / task.parts) {
    task.lanes *= 2;
  }
  const int at_once = ChannelsPolicy::kThreads / task.lanes;
  FASTPRUNE_LAUNCH(channel_flags_runs_kernel<B>,
                   grid_for<ChannelsPolicy>(ceil_div(s.channels * task.parts, at_once)),
                   ChannelsPolicy::kThreads, mask, task);
}

template <class B>
void launch_flags_of_strips(const B* mask, FlagTask task) {
  const ChannelShape& s = task.shape;
  const int entries = task.vectorized ? vec_entries<B>() : 1;
  // Rows of at least 128 bytes, if there are enough channels.
  const int across = task.vectorized ? 8 : 32;
  const int wanted = entries * std::max(1, across / static_cast<int>(s.inner));
  task.strip = std::min(wanted, int{ChannelsPolicy::kThreads});
  const int64_t strips = ceil_div(s.channels, task.strip);
  task.parts = strips < full_grid() ? kFlagParts : 1;
  FASTPRUNE_LAUNCH(channel_flags_strips_kernel<B>, grid_for<ChannelsPolicy>(strips * task.parts),
                   ChannelsPolicy::kThreads, mask, task);
}

// Returns a flag for each channel: non-zero if it is active.
at::Tensor find_active(const ChannelMaskArgs& args) {
  const ChannelShape& s = args.shape;
  at::Tensor flags = fresh({s.channels}, at::kLong, args.scores.device());
  FlagTask task{};
  task.shape = s;
  task.magnitude = magnitude_bits(args.mask.scalar_type());
  task.flags = reinterpret_cast<uint64_t*>(flags.mutable_data_ptr<int64_t>());
  dispatch_mask_width(args.mask.element_size(), [&](auto element) {
    using B = decltype(element);
    constexpr int kVec = vec_entries<B>();
    const auto* mask = static_cast<const B*>(args.mask.const_data_ptr());
    const bool runs = s.outer == 1 || s.inner >= kFlagLongRun;
    task.vectorized = (runs ? s.inner : s.channels * s.inner) % kVec == 0 && is_aligned(mask);
    runs ? launch_flags_of_runs(mask, task) : launch_flags_of_strips(mask, task);
  });
  return flags;
}

template <class T>
WriteTask write_task(const ChannelShape& shape, int64_t size, bool aligned) {
  constexpr int kVec = vec_entries<T>();
  return {{TileDivisor(shape.channels), TileDivisor(shape.inner)},
          size,
          aligned,
          shape.inner % kVec == 0,
          shape.inner == 1 && shape.channels % kVec == 0};
}

// Stores the number of active channels in `active`.
template <class T>
void launch_select_and_write(const ChannelMaskArgs& args, const ChannelScores& scores,
                             int64_t* active) {
  const T* mask = args.mask.defined() ? args.mask.const_data_ptr<T>() : nullptr;
  T* out = args.output.work.mutable_data_ptr<T>();
  FusedProduct<T> fused{};
  if (args.product.defined()) {
    fused = {args.t.const_data_ptr<T>(), args.product.mutable_data_ptr<T>()};
  }
  const WriteTask task = write_task<T>(
      args.shape, args.output.work.numel(),
      is_aligned(mask) && is_aligned(out) && is_aligned(fused.t) && is_aligned(fused.product));
  const int64_t tiles = ceil_div(task.size, kTile);
  if (scores.count <= ChannelsPolicy::kSelectByAll) {
    FASTPRUNE_LAUNCH(channel_mask_kernel<T>,
                     grid_for(tiles, ChannelsPolicy::kSelectorsPerMultiprocessor),
                     ChannelsPolicy::kThreads, mask, scores, args.amount, task, active, out, fused);
    return;
  }
  at::Tensor pruned = fresh({ceil_div(scores.count, 32)}, at::kInt, args.scores.device());
  auto* words = reinterpret_cast<unsigned*>(pruned.mutable_data_ptr<int>());
  FASTPRUNE_LAUNCH(channel_select_kernel<kSelectThreads>, 1, kSelectThreads, scores, args.amount,
                   active, words);
  FASTPRUNE_LAUNCH(channel_write_kernel<T>, grid_for<ChannelsPolicy>(tiles),
                   ChannelsPolicy::kThreads, mask, words, task, out, fused);
}

void select_and_write(const ChannelMaskArgs& args, bool active_only) {
  const bool restricted = args.mask.defined() && active_only;
  const bool empty = args.output.work.numel() == 0;
  if (!restricted || empty) check_count_fits(args.amount, restricted ? 0 : args.shape.channels);
  if (empty) return;
  const at::Tensor flags = restricted ? find_active(args) : at::Tensor();
  at::Tensor active = fresh({1}, at::kLong, args.scores.device());
  const ChannelScores scores{
      reinterpret_cast<const uint64_t*>(args.scores.const_data_ptr<double>()),
      restricted ? reinterpret_cast<const uint64_t*>(flags.const_data_ptr<int64_t>()) : nullptr,
      args.shape.channels};
  dispatch_mask(args.output.out.scalar_type(), [&](auto value) {
    launch_select_and_write<decltype(value)>(args, scores, active.mutable_data_ptr<int64_t>());
  });
  // Only the device knows whether a count fits. A fraction always does.
  if (restricted && args.amount.is_count) check_count_fits(args.amount, active.item<int64_t>());
}

at::Tensor channel_mask(const at::Tensor& scores, const at::Tensor& like,
                        const std::optional<at::Tensor>& mask, const at::Scalar& amount,
                        int64_t dim, bool active_only) {
  check_channel_mask("channel_mask", scores, "like", like, mask, amount, dim);
  const DeviceGuard guard(like);
  ChannelMaskArgs args = prepare_channel_mask(scores, like, mask, amount, dim);
  select_and_write(args, active_only);
  return args.output.finish();
}

TensorPair channel_prune(const at::Tensor& scores, const at::Tensor& t,
                         const std::optional<at::Tensor>& mask, const at::Scalar& amount,
                         int64_t dim, bool active_only) {
  check_channel_mask("channel_prune", scores, "t", t, mask, amount, dim);
  const DeviceGuard guard(t);
  ChannelMaskArgs args = prepare_channel_mask(scores, t, mask, amount, dim);
  prepare_channel_prune(args, t);
  select_and_write(args, active_only);
  at::Tensor new_mask = args.output.finish();
  if (!args.product.defined()) args.product = masked_muls({t}, {new_mask})[0];
  return {std::move(new_mask), std::move(args.product)};
}

}  // namespace

FASTPRUNE_CUDA_IMPL(m) {
  m.impl("channel_mask", &channel_mask);
  m.impl("channel_prune", &channel_prune);
}

}  // namespace fastprune::cuda

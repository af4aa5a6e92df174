// channel_mask and channel_prune on CUDA: with an old mask find the active channels, then select
// and write in one launch.
#include <cstdint>

#include "common/fusion.h"
#include "cuda/channels/flags.cuh"
#include "cuda/channels/select.cuh"
#include "cuda/util/tile_divisor.cuh"
#include "cuda/util/vec.cuh"

namespace fastprune::cuda {

struct WriteTask {
  TileChannels of;
  int64_t size;
  bool wide;      // all that is read and written is aligned for packs
  bool whole;     // a pack lies in one channel
  bool in_order;  // a pack lies in as many channels, whose bits are neighbours in a word
};

// The product with the mask that is written, where there is one.
template <class T>
struct Multiplied {
  const T* t;
  T* product;  // nullptr: the mask alone
};

// The old mask, or ones, times zero in pruned channels.
template <class T>
__device__ __forceinline__ void write_channels(const T* mask, const unsigned* pruned,
                                               const WriteTask& task, T* out,
                                               const Multiplied<T>& multiplied) {
  constexpr int kPack = pack_entries<T>();
  for (int64_t tile = blockIdx.x; tile * kTile < task.size; tile += gridDim.x) {
    const int64_t at = tile * kTile;
    const int size = static_cast<int>(task.size - at < kTile ? task.size - at : kTile);
    const ChannelPlace first = place_of(task.of, at);
    const auto bits_from = [&](int64_t c) { return pruned[c / 32] >> (c % 32); };
    for_each_pack<kPack, packs_in_flight<kPack, ChannelsPolicy::kThreads>(),
                  ChannelsPolicy::kThreads>(
        size, task.wide,
        [&](auto width, int i) {
          constexpr int N = decltype(width)::kEntries;
          if (mask != nullptr) return load_pack<N>(mask + at + i);
          Pack<T, N> ones;
#pragma unroll
          for (int v = 0; v < N; ++v) ones.at[v] = static_cast<T>(1);
          return ones;
        },
        [&](auto width, int i, auto entries) {
          constexpr int N = decltype(width)::kEntries;
          ChannelPlace place = place_in_tile(task.of, first, i);
          unsigned gone = bits_from(place.channel);
          if (N == 1 || task.whole) {
            gone = gone & 1 ? ~0u : 0u;
          } else if (!task.in_order) {
            gone &= 1;
            for (int v = 1; v < N; ++v) {
              place.next(task.of);
              gone |= (bits_from(place.channel) & 1) << v;
            }
          }
#pragma unroll
          for (int v = 0; v < N; ++v) {
            if (gone >> v & 1) {
              entries.at[v] = static_cast<T>(entries.at[v] * static_cast<T>(0));
            }
          }
          store_pack<N>(out + at + i, entries);
          if constexpr (can_multiply<T>()) {
            if (multiplied.product == nullptr) return;
            const auto t = load_pack<N>(multiplied.t + at + i);
            Pack<T, N> product;
#pragma unroll
            for (int v = 0; v < N; ++v) product.at[v] = static_cast<T>(entries.at[v] * t.at[v]);
            store_pack<N>(multiplied.product + at + i, product);
          }
        });
  }
}

// Every block selects for itself: blocks cannot wait for one that would do it for all.
template <class T>
__global__ void __launch_bounds__(ChannelsPolicy::kThreads)
    channel_mask_kernel(const T* mask, const ChannelScores scores, const Amount amount,
                        const WriteTask task, int64_t* active, T* out,
                        const Multiplied<T> multiplied) {
  FASTPRUNE_SHARED(unsigned[(ChannelsPolicy::kSelectByAll + 31) / 32], pruned);
  const LastChannel last = select_channels<ChannelsPolicy::kThreads>(scores, amount);
  if (blockIdx.x == 0 && threadIdx.x == 0) *active = last.active;
  write_pruned<ChannelsPolicy::kThreads>(scores, last, pruned);
  __syncthreads();
  write_channels(mask, pruned, task, out, multiplied);
}

// Of more channels than that, one block.
constexpr int kSelectThreads = 2 * ChannelsPolicy::kThreads;

__global__ void __launch_bounds__(kSelectThreads, 1)
    channel_select_kernel(const ChannelScores scores, const Amount amount, int64_t* active,
                          unsigned* pruned) {
  const LastChannel last = select_channels<kSelectThreads>(scores, amount);
  if (threadIdx.x == 0) *active = last.active;
  write_pruned<kSelectThreads>(scores, last, pruned);
}

template <class T>
__global__ void __launch_bounds__(ChannelsPolicy::kThreads)
    channel_write_kernel(const T* mask, const unsigned* pruned, const WriteTask task, T* out,
                         const Multiplied<T> multiplied) {
  write_channels(mask, pruned, task, out, multiplied);
}

}  // namespace fastprune::cuda

#include <ATen/ATen.h>

#include "args/channels.h"
#include "common/dtypes.h"
#include "common/op_types.h"
#include "cuda/elementwise/masked_mul.h"
#include "cuda/util/launch.cuh"

namespace fastprune::cuda {
namespace {

bool aligned(const void* p) {
  return reinterpret_cast<uintptr_t>(p) % kPackBytes == 0;
}

// The bits of an element that are not its sign, again and again.
uint64_t magnitude_bits(at::ScalarType dtype) {
  const int bits = static_cast<int>(at::elementSize(dtype)) * 8;
  uint64_t signs = 0;
  for (int at = bits - 1; at < 64 && at::isFloatingType(dtype); at += bits) {
    signs |= uint64_t{1} << at;
  }
  return ~signs;
}

template <class B>
void launch_flags(const B* mask, FlagTask task) {
  constexpr int kPack = pack_entries<B>();
  const ChannelShape& s = task.shape;
  const bool runs = s.outer == 1 || s.inner >= kFlagLongRun;
  task.wide = (runs ? s.inner : s.channels * s.inner) % kPack == 0 && aligned(mask);
  const int entries = task.wide ? kPack : 1;
  const int64_t few = int64_t{multiprocessors()} * ChannelsPolicy::kBlocksPerMultiprocessor;
  if (runs) {
    task.parts = s.channels < few ? kFlagParts : 1;
    task.lanes = kFewestLanes;
    while (task.lanes < ChannelsPolicy::kThreads &&
           int64_t{task.lanes} * entries * kFlagLoads < s.entries() / task.parts) {
      task.lanes *= 2;
    }
    const int at_once = ChannelsPolicy::kThreads / task.lanes;
    FASTPRUNE_LAUNCH(channel_flags_runs_kernel<B>,
                     grid_for<ChannelsPolicy>((s.channels * task.parts + at_once - 1) / at_once),
                     ChannelsPolicy::kThreads, mask, task);
  } else {
    // Rows of 128 bytes and more where the channels suffice.
    const int across = task.wide ? 8 : 32;
    const int wanted = entries * std::max(1, across / static_cast<int>(s.inner));
    task.strip = std::min(wanted, int{ChannelsPolicy::kThreads});
    const int64_t strips = (s.channels + task.strip - 1) / task.strip;
    task.parts = strips < few ? kFlagParts : 1;
    FASTPRUNE_LAUNCH(channel_flags_strips_kernel<B>, grid_for<ChannelsPolicy>(strips * task.parts),
                     ChannelsPolicy::kThreads, mask, task);
  }
}

at::Tensor find_active(const ChannelMaskArgs& args) {
  at::Tensor flags = at::empty({args.shape.channels}, args.scores.options().dtype(at::kLong));
  FlagTask task{};
  task.shape = args.shape;
  task.magnitude = magnitude_bits(args.mask.scalar_type());
  task.flags = reinterpret_cast<uint64_t*>(flags.mutable_data_ptr<int64_t>());
  dispatch_mask_width(args.mask.element_size(), [&](auto element) {
    using B = decltype(element);
    launch_flags(static_cast<const B*>(args.mask.const_data_ptr()), task);
  });
  return flags;
}

template <class T>
void select_and_write(const ChannelMaskArgs& args, const ChannelScores& scores, int64_t* active) {
  constexpr int kPack = pack_entries<T>();
  const ChannelShape& view = args.shape;
  const T* mask = args.mask.defined() ? args.mask.const_data_ptr<T>() : nullptr;
  T* out = args.output.work.mutable_data_ptr<T>();
  Multiplied<T> multiplied{};
  if (args.product.defined()) {
    multiplied = {args.t.const_data_ptr<T>(), args.product.mutable_data_ptr<T>()};
  }
  const int64_t size = args.output.work.numel();
  const WriteTask task{
      {TileDivisor(view.channels), TileDivisor(view.inner)},
      size,
      aligned(mask) && aligned(out) && aligned(multiplied.t) && aligned(multiplied.product),
      view.inner % kPack == 0,
      view.inner == 1 && view.channels % kPack == 0};
  const int64_t tiles = (size + kTile - 1) / kTile;
  if (view.channels <= ChannelsPolicy::kSelectByAll) {
    FASTPRUNE_LAUNCH(
        channel_mask_kernel<T>, grid_for(tiles, ChannelsPolicy::kSelectorsPerMultiprocessor),
        ChannelsPolicy::kThreads, mask, scores, args.amount, task, active, out, multiplied);
    return;
  }
  at::Tensor pruned = at::empty({(view.channels + 31) / 32}, args.scores.options().dtype(at::kInt));
  auto* words = reinterpret_cast<unsigned*>(pruned.mutable_data_ptr<int>());
  FASTPRUNE_LAUNCH(channel_select_kernel, 1, kSelectThreads, scores, args.amount, active, words);
  FASTPRUNE_LAUNCH(channel_write_kernel<T>, grid_for<ChannelsPolicy>(tiles),
                   ChannelsPolicy::kThreads, mask, words, task, out, multiplied);
}

void mask_channels(const ChannelMaskArgs& args, bool restricted) {
  at::Tensor flags;
  if (restricted) flags = find_active(args);
  at::Tensor active = at::empty({1}, args.scores.options().dtype(at::kLong));
  const ChannelScores scores{
      reinterpret_cast<const uint64_t*>(args.scores.const_data_ptr<double>()),
      restricted ? reinterpret_cast<const uint64_t*>(flags.const_data_ptr<int64_t>()) : nullptr,
      args.shape.channels};
  dispatch_mask(args.output.out.scalar_type(), [&](auto value) {
    select_and_write<decltype(value)>(args, scores, active.mutable_data_ptr<int64_t>());
  });
  // Whether a count fits is known on the device alone; a fraction always does.
  if (args.amount.is_count && restricted) check_count_fits(args.amount, active.item<int64_t>());
}

void run(const ChannelMaskArgs& args, bool active_only) {
  const bool restricted = args.mask.defined() && active_only;
  if (!restricted) check_count_fits(args.amount, args.shape.channels);
  if (args.output.work.numel() == 0) {
    if (restricted) check_count_fits(args.amount, 0);
  } else {
    mask_channels(args, restricted);
  }
}

at::Tensor channel_mask(const at::Tensor& scores, const at::Tensor& like,
                        const std::optional<at::Tensor>& mask, const at::Scalar& amount,
                        int64_t dim, bool active_only) {
  check_channel_mask("channel_mask", scores, "like", like, mask, amount, dim);
  const DeviceGuard guard(like);
  ChannelMaskArgs args = prepare_channel_mask(scores, like, mask, amount, dim);
  run(args, active_only);
  return args.output.finish();
}

TensorPair channel_prune(const at::Tensor& scores, const at::Tensor& t,
                         const std::optional<at::Tensor>& mask, const at::Scalar& amount,
                         int64_t dim, bool active_only) {
  check_channel_mask("channel_prune", scores, "t", t, mask, amount, dim);
  const DeviceGuard guard(t);
  ChannelMaskArgs args = prepare_channel_mask(scores, t, mask, amount, dim);
  prepare_channel_prune(args, t);
  run(args, active_only);
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

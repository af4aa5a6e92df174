// channel_norms of channels whose entries are in many short runs. A block processes a strip of
// neighbouring channels, a warp each, a chunk at a time: it copies rows of the strip to shared
// memory, coalesced, and each lane picks its entries there.
#pragma once

#include <cstdint>

#include "cuda/channels/norm_sums.cuh"

namespace fastprune::cuda {

constexpr int kStripChannels = ChannelsPolicy::kThreads / kNormLanes;
constexpr int kShortRun = 32;      // runs are shorter than this
constexpr int kStageBytes = 1024;  // in shared memory for each channel

template <NormKind kind, class T>
__global__ void __launch_bounds__(ChannelsPolicy::kThreads, kOneBlock)
    channel_norms_strips_kernel(const T* data, const NormTask task) {
  constexpr int kRun = kStageBytes / sizeof(T);
  constexpr int kLoads = kRun / kNormLanes;
  FASTPRUNE_SHARED(T[kRun * (kStripChannels + kShortRun / 2)], stage);
  const int lane = static_cast<int>(threadIdx.x) % kNormLanes;
  const int warp = static_cast<int>(threadIdx.x) / kNormLanes;
  const int64_t channels = task.shape.channels;
  const int inner = static_cast<int>(task.shape.inner);
  const int64_t size = task.shape.entries();
  const int64_t strips = ceil_div(channels, kStripChannels);
  for (int64_t at = blockIdx.x; at < strips * task.splits; at += gridDim.x) {
    const int64_t strip = at / task.splits;
    const int64_t first = strip * kStripChannels;
    const int count =
        static_cast<int>(first + kStripChannels < channels ? kStripChannels : channels - first);
    const int width = count * inner;
    // Entries j and j + 1 of a channel are in neighbouring banks, also across rows.
    const int stride = inner == 1 ? width | 1 : width + ((inner - width) & (kNormLanes - 1));
    const int most = kRun / inner;  // rows
    const int across = ChannelsPolicy::kThreads / width;
    const int rest = ChannelsPolicy::kThreads % width;

    T entry[kLoads];
    // Calls fn(u, row, column) for the thread's entries in `rows` rows of the strip.
    const auto for_each_entry = [&](int rows, const auto& fn) {
      int row = static_cast<int>(threadIdx.x) / width;
      int column = static_cast<int>(threadIdx.x) % width;
#pragma unroll
      for (int u = 0; u < kLoads; ++u) {
        if (row < rows) fn(u, row, column);
        row += across;
        column += rest;
        if (column >= width) {
          column -= width;
          ++row;
        }
      }
    };
    double total = norm_start<kind>();
    const int64_t first_chunk = at % task.splits;
    const int64_t last_chunk = task.splits == 1 ? task.chunks - 1 : first_chunk;
    for (int64_t chunk = first_chunk; chunk <= last_chunk; ++chunk) {
      const int64_t begin = chunk * kNormChunk;
      const int64_t end = begin + kNormChunk < size ? begin + kNormChunk : size;
      const int64_t last_row = (end - 1) / inner;
      const auto rows_from = [&](int64_t row) {
        return static_cast<int>(last_row - row < most ? last_row - row + 1 : most);
      };
      const auto fetch = [&](int64_t from) {
        for_each_entry(rows_from(from), [&](int u, int row, int column) {
          entry[u] = data[((from + row) * channels + first) * inner + column];
        });
      };
      double sum[1] = {norm_start<kind>()};
      fetch(begin / inner);
      for (int64_t from = begin / inner; from <= last_row; from += most) {
        __syncthreads();  // the rows before these have been read
        for_each_entry(rows_from(from), [&](int u, int row, int column) {
          stage[row * stride + column] = entry[u];
        });
        __syncthreads();
        if (from + most <= last_row) fetch(from + most);  // in flight while these are added
        const int64_t origin = from * inner;
        const int low = static_cast<int>(begin > origin ? begin - origin : 0);
        const int64_t left = end - origin;
        const int high = left < most * inner ? static_cast<int>(left) : most * inner;
        int j = low + ((lane - static_cast<int>((origin + low) % kNormLanes)) & (kNormLanes - 1));
        int row = j / inner;
        int place = j % inner;
        for (; warp < count && j < high; j += kNormLanes) {
          const double value = static_cast<double>(stage[row * stride + warp * inner + place]);
          sum[0] = norm_join<kind>(sum[0], norm_term<kind>(value, task.p));
          row += kNormLanes / inner;
          place += kNormLanes % inner;
          if (place >= inner) {
            place -= inner;
            ++row;
          }
        }
      }
      const double own = fold_lanes<kind>(sum);
      total = norm_join<kind>(total, own);
      if (task.splits > 1 && lane == 0 && warp < count) {
        *partial_norm(task, first, count, chunk, warp) = own;
      }
    }
    if (task.splits > 1) {
      join_chunks<kind, ChannelsPolicy::kThreads>(task, strip, first, count);
    } else if (lane == 0 && warp < count) {
      task.norms[first + warp] = norm_finish<kind>(total, task.p);
    }
  }
}

}  // namespace fastprune::cuda

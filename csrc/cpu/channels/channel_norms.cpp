// channel_norms on the CPU: the norm of each channel, summed in the order that norms.h fixes.
#include <ATen/core/Tensor.h>
#include <torch/library.h>

#include <algorithm>
#include <vector>

#include "args/channels.h"
#include "common/channel_shape.h"
#include "common/dtypes.h"
#include "common/norms.h"
#include "cpu/util/multiversion.h"
#include "cpu/util/parallel.h"
#include "cpu/util/prefetch.h"

namespace fastprune::cpu {
namespace {

constexpr int64_t kParallelFrom = 4096;  // entries

// Neighbouring channels that are read together if inner == 1: four cache lines of a row.
template <class T>
constexpr int64_t kChannelBlock = 256 / sizeof(T);

template <NormKind kind>
double fold_lanes(double* lanes, int64_t stride) {
  for (int half = kNormLanes / 2; half > 0; half /= 2) {
    for (int l = 0; l < half; ++l) {
      lanes[l * stride] = norm_join<kind>(lanes[l * stride], lanes[(l + half) * stride]);
    }
  }
  return lanes[0];
}

template <NormKind kind>
void add_to_lane(double& lane, double x, double p) {
  lane = norm_join<kind>(lane, norm_term<kind>(x, p));
}

// n rows of kNormLanes elements.
template <NormKind kind, class T>
FASTPRUNE_MULTIVERSION void add_rows(double* __restrict__ lanes, const T* __restrict__ x, int64_t n,
                                     double p) {
  for (int64_t row = 0; row < n; ++row, x += kNormLanes) {
    for (int l = 0; l < kNormLanes; ++l) {
      lanes[l] = norm_join<kind>(lanes[l], norm_term<kind>(static_cast<double>(x[l]), p));
    }
  }
}

// One row of n neighbouring channels, and one lane of each.
template <NormKind kind, class T>
FASTPRUNE_MULTIVERSION void add_columns(double* __restrict__ lanes, const T* __restrict__ x,
                                        int64_t n, double p) {
  for (int64_t c = 0; c < n; ++c) {
    lanes[c] = norm_join<kind>(lanes[c], norm_term<kind>(static_cast<double>(x[c]), p));
  }
}

// n neighbouring elements of one channel; the first belongs to lane `lane`.
template <NormKind kind, class T>
void add_run(double* lanes, int64_t lane, const T* x, int64_t n, double p) {
  int64_t i = 0;
  for (; i < n && lane != 0; ++i, lane = (lane + 1) % kNormLanes) {
    add_to_lane<kind>(lanes[lane], static_cast<double>(x[i]), p);
  }
  const int64_t rows = (n - i) / kNormLanes;
  add_rows<kind>(lanes, x + i, rows, p);
  for (i += rows * kNormLanes; i < n; ++i, ++lane) {
    add_to_lane<kind>(lanes[lane], static_cast<double>(x[i]), p);
  }
}

// Elements [begin, end) of one channel, in logical order.
template <NormKind kind, class T>
double chunk_of_channel(const T* data, const ChannelShape& v, int64_t channel, int64_t begin,
                        int64_t end, double p) {
  double lanes[kNormLanes];
  std::fill(lanes, lanes + kNormLanes, norm_start<kind>());
  for (int64_t j = begin; j < end;) {
    const int64_t outer = j / v.inner;
    const int64_t first = j % v.inner;
    const int64_t run = std::min(v.inner - first, end - j);
    const T* x = data + (outer * v.channels + channel) * v.inner + first;
    add_run<kind>(lanes, (j - begin) % kNormLanes, x, run, p);
    j += run;
  }
  return fold_lanes<kind>(lanes, 1);
}

constexpr int64_t kRowsAhead = 16;  // that are prefetched

// The same chunk of `width` neighbouring channels, kChannelBlock<T> at most, if inner == 1: each
// row has one element of each channel, and rows are read from left to right.
template <NormKind kind, class T>
void chunk_of_columns(const T* data, const ChannelShape& v, int64_t channel, int64_t width,
                      int64_t begin, int64_t end, double p, double* out, int64_t out_stride) {
  double lanes[kNormLanes][kChannelBlock<T>];
  std::fill(&lanes[0][0], &lanes[0][0] + kNormLanes * kChannelBlock<T>, norm_start<kind>());
  for (int64_t j = begin; j < end; ++j) {
    const T* row = data + j * v.channels + channel;
    if (j + kRowsAhead < end) prefetch(row + kRowsAhead * v.channels, width);
    add_columns<kind>(lanes[(j - begin) % kNormLanes], row, width, p);
  }
  for (int64_t c = 0; c < width; ++c) {
    out[c * out_stride] = fold_lanes<kind>(&lanes[0][c], kChannelBlock<T>);
  }
}

template <NormKind kind, class T>
void norms_of(const T* data, const ChannelShape& v, double p, double* norms) {
  const int64_t size = v.entries();
  const int64_t chunks = norm_chunks(size);
  const bool columns = v.inner == 1;
  const int64_t width = columns ? kChannelBlock<T> : 1;
  const int64_t blocks = (v.channels + width - 1) / width;
  std::vector<double> partial(v.channels * chunks);
  const int64_t workers = worker_count(v.channels * size < kParallelFrom ? 1 : blocks * chunks);
  for_each_worker(workers, blocks * chunks, [&](int64_t, int64_t first, int64_t last) {
    for (int64_t task = first; task < last; ++task) {
      const int64_t channel = task / chunks * width;
      const int64_t chunk = task % chunks;
      const int64_t begin = chunk * kNormChunk;
      const int64_t end = std::min(size, begin + kNormChunk);
      double* out = partial.data() + channel * chunks + chunk;
      if (columns) {
        chunk_of_columns<kind>(data, v, channel, std::min(width, v.channels - channel), begin, end,
                               p, out, chunks);
      } else {
        *out = chunk_of_channel<kind>(data, v, channel, begin, end, p);
      }
    }
  });
  for (int64_t c = 0; c < v.channels; ++c) {
    double total = norm_start<kind>();
    for (int64_t k = 0; k < chunks; ++k) total = norm_join<kind>(total, partial[c * chunks + k]);
    norms[c] = norm_finish<kind>(total, p);
  }
}

at::Tensor channel_norms(const at::Tensor& t, double p, int64_t dim) {
  check_channel_norms(t, dim);
  const at::Tensor data = t.contiguous();
  const ChannelShape shape = channel_shape(t, dim);
  at::Tensor norms = fresh({shape.channels}, at::kDouble, t.device());
  dispatch_float(t.scalar_type(), [&](auto value) {
    using T = decltype(value);
    dispatch_norm(norm_kind(p), [&](auto kind) {
      norms_of<decltype(kind)::value, T>(data.const_data_ptr<T>(), shape, p,
                                         norms.mutable_data_ptr<double>());
    });
  });
  return norms;
}

}  // namespace

TORCH_LIBRARY_IMPL(fastprune, CPU, m) {
  m.impl("channel_norms", &channel_norms);
}

}  // namespace fastprune::cpu

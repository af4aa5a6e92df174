// channel_mask on the CPU: prune the active channels of lowest score, keep the old mask elsewhere.
#include <ATen/ATen.h>
#include <torch/library.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "../checks.h"
#include "../dispatch.h"
#include "../selection.h"
#include "parallel.h"

namespace fastprune::cpu {
namespace {

constexpr int64_t kRunsPerTask = 1 << 14;  // entries a worker takes at a time

// Calls fn(channel, offset, length) for each run of neighbouring entries of one channel.
template <class Fn>
void for_each_run(const ChannelView& v, const Fn& fn) {
  const int64_t runs = v.outer * v.channels;
  const int64_t tasks = std::max<int64_t>(1, runs * v.inner / kRunsPerTask);
  for_each_worker(worker_count(tasks), runs, [&](int64_t, int64_t first, int64_t last) {
    int64_t channel = v.channels == 0 ? 0 : first % v.channels;
    for (int64_t run = first; run < last; ++run) {
      fn(channel, run * v.inner, v.inner);
      if (++channel == v.channels) channel = 0;
    }
  });
}

// A channel is active if any of its mask entries is non-zero.
template <class T>
std::vector<uint8_t> active_channels(const T* mask, const ChannelView& v) {
  std::vector<uint8_t> active(v.channels, 0);
  for_each_run(v, [&](int64_t channel, int64_t offset, int64_t length) {
    uint8_t& flag = active[channel];
    if (__atomic_load_n(&flag, __ATOMIC_RELAXED)) return;
    for (int64_t i = 0; i < length; ++i) {
      if (mask[offset + i] != static_cast<T>(0)) {
        __atomic_store_n(&flag, uint8_t{1}, __ATOMIC_RELAXED);
        return;
      }
    }
  });
  return active;
}

std::vector<uint8_t> channels_to_prune(const double* scores, const std::vector<uint8_t>& active,
                                       const Amount& amount) {
  std::vector<std::pair<uint64_t, int64_t>> ranked;
  for (size_t c = 0; c < active.size(); ++c) {
    if (!active[c]) continue;
    uint64_t bits;
    std::memcpy(&bits, scores + c, sizeof bits);
    ranked.emplace_back(rank_key<Fp64>(bits, 0), static_cast<int64_t>(c));
  }
  const int64_t count = static_cast<int64_t>(ranked.size());
  check_count_fits(amount, count);
  const int64_t k = budget(amount, count);
  std::nth_element(ranked.begin(), ranked.begin() + k, ranked.end());
  std::vector<uint8_t> prune(active.size(), 0);
  for (int64_t i = 0; i < k; ++i) prune[ranked[i].second] = 1;
  return prune;
}

template <class T>
void write_mask(const T* mask, const ChannelView& v, const std::vector<uint8_t>& prune, T* out) {
  for_each_run(v, [&](int64_t channel, int64_t offset, int64_t length) {
    const T factor = static_cast<T>(prune[channel] ? 0 : 1);
    if (mask == nullptr) {
      std::fill(out + offset, out + offset + length, factor);
    } else if (!prune[channel]) {
      std::copy(mask + offset, mask + offset + length, out + offset);
    } else {
      for (int64_t i = 0; i < length; ++i) {
        out[offset + i] = static_cast<T>(mask[offset + i] * factor);
      }
    }
  });
}

at::Tensor channel_mask(const at::Tensor& scores, const at::Tensor& like,
                        const std::optional<at::Tensor>& mask, const at::Scalar& amount,
                        int64_t dim, bool active_only) {
  ChannelMaskArgs args = check_channel_mask(scores, like, mask, amount, dim);
  dispatch_mask(args.out.scalar_type(), [&](auto value) {
    using T = decltype(value);
    const T* old = args.mask.defined() ? args.mask.const_data_ptr<T>() : nullptr;
    const std::vector<uint8_t> active = args.mask.defined() && active_only
                                            ? active_channels(old, args.view)
                                            : std::vector<uint8_t>(args.view.channels, 1);
    const auto prune = channels_to_prune(args.scores.const_data_ptr<double>(), active, args.amount);
    write_mask(old, args.view, prune, args.work.mutable_data_ptr<T>());
  });
  return args.finish();
}

}  // namespace

TORCH_LIBRARY_IMPL(fastprune, CPU, m) {
  m.impl("channel_mask", &channel_mask);
}

}  // namespace fastprune::cpu

// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/Parallel.h>

#include <algorithm>
#include <atomic>
#include <cstdint>

namespace sao::ops {

/// Rows of a product that a thread takes at a time, and how many there must be of them for each: the weights, of which
/// it then reads all, are paid for.
inline constexpr std::int64_t kLeastRows = 48, kMostRows = 192;

/// Chunks of nearly equal size, `at_most` each: a short last one would multiply at a fraction of the speed.
inline std::int64_t even_chunk(std::int64_t rows, std::int64_t at_most) {
  const std::int64_t chunks = std::max<std::int64_t>(1, (rows + at_most - 1) / at_most);
  return (rows + chunks - 1) / chunks;
}

/// Calls work(begin, end, slot) for all of 0 .. count from LibTorch's threads, each of which takes the next share when
/// it has done one: a thread whose processor is slower or busy gets less. Shares shrink towards the end, from `largest`
/// to `smallest`, of which all but the last are multiples. Results must not depend on the shares. No two calls at one
/// time have the same slot, which is below at::get_num_threads().
template <class Work>
void for_each_share(std::int64_t count, std::int64_t smallest, std::int64_t largest, const Work& work) {
  const std::int64_t threads = at::in_parallel_region() ? 1 : at::get_num_threads();
  if (threads == 1 || count <= smallest) {
    for (std::int64_t begin = 0; begin < count; begin += largest) work(begin, std::min(count, begin + largest), 0);
    return;
  }
  std::atomic<std::int64_t> next{0};
  at::parallel_for(0, threads, 1, [&](std::int64_t, std::int64_t) {
    std::int64_t begin = next.load();
    while (begin < count) {
      const std::int64_t wanted = std::clamp((count - begin) / (2 * threads), smallest, largest) / smallest * smallest;
      const std::int64_t end = std::min(count, begin + wanted);
      if (!next.compare_exchange_weak(begin, end)) continue;
      work(begin, end, at::get_thread_num());
      begin = next.load();
    }
  });
}

}  // namespace sao::ops

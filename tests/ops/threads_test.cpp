// SPDX-License-Identifier: Apache-2.0
// at::parallel_for is a template that runs in one thread unless OpenMP is switched on where it is compiled: what links
// to sao::torch must have it.
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <mutex>
#include <set>
#include <thread>
#include <vector>

#include "ops/shares.h"

namespace sao {
namespace {

TEST(Threads, ParallelForUsesThem) {
#ifndef INTRA_OP_PARALLEL
  GTEST_SKIP() << "built without OpenMP, as for the thread sanitizer";
#endif
  const int before = at::get_num_threads();
  at::set_num_threads(2);
  std::mutex mutex;
  std::set<std::thread::id> threads;
  at::parallel_for(0, 2, 1, [&](std::int64_t, std::int64_t) {
    const std::lock_guard lock(mutex);
    threads.insert(std::this_thread::get_id());
  });
  at::set_num_threads(before);
  EXPECT_EQ(threads.size(), 2u);
}

TEST(Threads, SharesCoverEverythingOnce) {
  for (const std::int64_t count : {0, 1, 47, 48, 49, 1000, 5003}) {
    std::vector<std::atomic<int>> seen(static_cast<std::size_t>(count));
    std::atomic<bool> fits = true;
    ops::for_each_share(count, 48, 192, [&](std::int64_t begin, std::int64_t end, std::int64_t slot) {
      if (slot >= at::get_num_threads() || end - begin > 192 || begin % 48 != 0) fits = false;
      for (std::int64_t i = begin; i < end; ++i) ++seen[static_cast<std::size_t>(i)];
    });
    EXPECT_TRUE(fits) << count;
    EXPECT_TRUE(std::all_of(seen.begin(), seen.end(), [](const std::atomic<int>& n) { return n == 1; })) << count;
  }
}

}  // namespace
}  // namespace sao

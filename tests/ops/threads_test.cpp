// SPDX-License-Identifier: Apache-2.0
// at::parallel_for is a template that runs in one thread unless OpenMP is switched on where it is compiled: what links
// to sao::torch must have it.
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <mutex>
#include <set>
#include <thread>

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

}  // namespace
}  // namespace sao

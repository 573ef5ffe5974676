// SPDX-License-Identifier: Apache-2.0
// Counts the bytes that LibTorch's CPU tensors hold, and can run out of them.
#pragma once

#include <c10/core/CPUAllocator.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <functional>
#include <new>

namespace sao::testing {

/// LibTorch's CPU allocator while one lives; tensors may outlive the scope.
class CountingAllocator {
 public:
  CountingAllocator() { c10::SetCPUAllocator(&counting(), kPriority); }
  ~CountingAllocator() {
    counting().left = -1;
    c10::SetCPUAllocator(counting().inner, kPriority);
  }
  CountingAllocator(const CountingAllocator&) = delete;
  CountingAllocator& operator=(const CountingAllocator&) = delete;

  /// Bytes held now, of those allocated in such a scope.
  std::int64_t now() const { return counting().now; }
  /// Bytes that `work` held at its peak, beyond those held before.
  std::int64_t peak_of(const std::function<void()>& work) const {
    const std::int64_t before = counting().now;
    counting().peak = before;
    work();
    return counting().peak - before;
  }
  /// Allocations that `work` makes.
  std::int64_t count_of(const std::function<void()>& work) const {
    const std::int64_t before = counting().count;
    work();
    return counting().count - before;
  }
  /// Lets the next `allocations` pass; the one after them throws std::bad_alloc.
  void fail_after(std::int64_t allocations) { counting().left = allocations; }

 private:
  static constexpr std::uint8_t kPriority = 255;

  struct Counting : c10::Allocator {
    struct Held {
      at::DataPtr data;
      std::int64_t bytes;
    };
    at::DataPtr allocate(std::size_t bytes) override {
      ++count;
      if (left >= 0 && left-- == 0) throw std::bad_alloc();
      auto* held = new Held{inner->allocate(bytes), static_cast<std::int64_t>(bytes)};
      now += held->bytes;
      peak = std::max<std::int64_t>(peak, now);
      void* data = held->data.get();
      return {data, held, &release, at::Device(at::kCPU)};
    }
    c10::DeleterFnPtr raw_deleter() const override { return nullptr; }
    void copy_data(void* to, const void* from, std::size_t bytes) const override { inner->copy_data(to, from, bytes); }
    static void release(void* context) {
      auto* gone = static_cast<Held*>(context);
      counting().now -= gone->bytes;
      delete gone;
    }
    c10::Allocator* inner = c10::GetCPUAllocator();
    std::atomic<std::int64_t> now = 0, peak = 0, count = 0, left = -1;
  };

  static Counting& counting() {
    static Counting allocator;
    return allocator;
  }
};

}  // namespace sao::testing

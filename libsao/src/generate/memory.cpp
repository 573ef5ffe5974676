// SPDX-License-Identifier: Apache-2.0
#include "generate/memory.h"

#include <c10/core/DeviceGuard.h>
#include <dlfcn.h>

#include <algorithm>
#include <cstddef>
#include <fstream>
#include <string>

namespace sao::detail {
namespace {

constexpr std::int64_t kUnknown = 2LL << 30;

// The number that stands after `name` in a file; -1 where there is none.
std::int64_t number_in(const char* file, const std::string& name) {
  std::ifstream stream(file);
  for (std::string word; stream >> word;) {
    std::int64_t number = 0;
    if (word == name && stream >> number) return number;
  }
  return -1;
}

std::int64_t free_on_cpu() {
  const std::int64_t available = number_in("/proc/meminfo", "MemAvailable:");
  std::int64_t bytes = available < 0 ? kUnknown : available << 10;
  // A container's own limit, where it has one.
  std::int64_t most = 0, used = 0;
  if (std::ifstream("/sys/fs/cgroup/memory.max") >> most && std::ifstream("/sys/fs/cgroup/memory.current") >> used) {
    const std::int64_t cached = std::max<std::int64_t>(number_in("/sys/fs/cgroup/memory.stat", "inactive_file"), 0);
    bytes = std::min(bytes, std::max<std::int64_t>(most - used + cached, 0));
  }
  return bytes;
}

// From the CUDA runtime that came with the model; programs do not link to it.
std::int64_t free_on_cuda(c10::Device device) {
  using MemoryInfo = int(std::size_t*, std::size_t*);
  const auto memory_info = reinterpret_cast<MemoryInfo*>(dlsym(RTLD_DEFAULT, "cudaMemGetInfo"));
  const c10::DeviceGuard guard(device);
  std::size_t bytes = 0, total = 0;
  if (memory_info == nullptr || memory_info(&bytes, &total) != 0) return kUnknown;
  return static_cast<std::int64_t>(bytes);
}

}  // namespace

std::int64_t free_memory(c10::Device device) {
  return device.is_cpu() ? free_on_cpu() : device.is_cuda() ? free_on_cuda(device) : kUnknown;
}

}  // namespace sao::detail

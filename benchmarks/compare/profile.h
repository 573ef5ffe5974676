// SPDX-License-Identifier: Apache-2.0
// Where the time of a program's measured part goes: kernels on the GPU by their sum, the time in which none ran, and
// the calls on the CPU. To standard error.
#pragma once

#include <fmt/format.h>
#include <torch/csrc/autograd/profiler_kineto.h>

#include <algorithm>
#include <cstdio>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace sao::benchmarks {

template <class Work>
void profile(const Work& work) {
  namespace profiler = torch::autograd::profiler;
  using torch::profiler::impl::ActivityType;
  const torch::profiler::impl::ProfilerConfig config(torch::profiler::impl::ProfilerState::KINETO);
  const std::set<ActivityType> activities{ActivityType::CPU, ActivityType::CUDA};
  profiler::prepareProfiler(config, activities);
  profiler::enableProfiler(config, activities);
  work();
  const auto result = profiler::disableProfiler();

  struct Sum {
    std::uint64_t count = 0, nanoseconds = 0;
  };
  std::map<std::string, Sum> kernels, calls;
  std::vector<std::pair<std::uint64_t, std::uint64_t>> spans;
  for (const profiler::KinetoEvent& event : result->events()) {
    const bool on_gpu = event.deviceType() == c10::DeviceType::CUDA;
    Sum& sum = (on_gpu ? kernels : calls)[event.name().substr(0, 90)];
    ++sum.count;
    sum.nanoseconds += event.durationNs();
    if (on_gpu) spans.emplace_back(event.startNs(), event.endNs());
  }
  std::sort(spans.begin(), spans.end());
  std::uint64_t busy = 0, end = 0, waits = 0;  // waits: 10 us and more, for the host
  for (const auto& [from, to] : spans) {
    if (end > 0 && from >= end + 10'000) waits += from - end;
    if (to > end) busy += to - std::max(from, end);
    end = std::max(end, to);
  }
  const double whole = spans.empty() ? 0.0 : static_cast<double>(end - spans.front().first) * 1e-6;
  std::fprintf(stderr, "%s",
               fmt::format("GPU busy {:.2f} of {:.2f} ms, idle for 10 us and more {:.2f} ms, {} kernels and copies\n",
                           static_cast<double>(busy) * 1e-6, whole, static_cast<double>(waits) * 1e-6, spans.size())
                   .c_str());
  for (const auto* table : {&kernels, &calls}) {
    std::vector<std::pair<std::string, Sum>> rows(table->begin(), table->end());
    std::sort(rows.begin(), rows.end(),
              [](const auto& a, const auto& b) { return a.second.nanoseconds > b.second.nanoseconds; });
    rows.resize(std::min<std::size_t>(rows.size(), 40));
    std::fprintf(stderr, "%s\n", table == &kernels ? "kernels" : "calls");
    for (const auto& [name, sum] : rows) {
      std::fprintf(
          stderr, "%s",
          fmt::format("  {:9.3f} ms {:7} x {:8.1f} us  {}\n", static_cast<double>(sum.nanoseconds) * 1e-6, sum.count,
                      static_cast<double>(sum.nanoseconds) * 1e-3 / static_cast<double>(sum.count), name)
              .c_str());
    }
  }
}

}  // namespace sao::benchmarks

// SPDX-License-Identifier: Apache-2.0
// libsao_generate FOLDER MODEL WORKLOAD THREADS DTYPE DEVICE [PROFILE]: libsao's Engine on FOLDER/workloads.json, one
// JSON line as the peers print it, and a trace of the measured part in PROFILE where it is given.
// libsao_generate limits - - THREADS DTYPE DEVICE: what the machine can do: GEMM peak and reading.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sao/sao.h>
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>
#include <thread>

#include "../../gpu_seconds.h"
#include "../profile.h"

namespace {

double seconds_of(const auto& work) {
  const auto begin = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

// The best of some seconds: float32 GFLOP/s of a product of 2,048 x 2,048 matrices, LibTorch's or ours, whichever is
// faster (LibTorch's reaches half of what an AMD processor can), GB/s of reading 512 MiB.
void print_cpu_limits(std::int64_t threads) {
  const at::Tensor a = at::randn({2048, 2048}), b = at::randn({2048, 2048});
  double gemm = 1e9, read = 1e9;
  const auto packed = sao::ops::PackedWeight::pack({&b, 1});
  for (int i = 0; i < 12; ++i) {
    gemm = std::min({gemm, seconds_of([&] { at::mm(a, b); }), seconds_of([&] { packed.multiply(a); })});
  }
  const std::vector<float> memory(std::size_t{1} << 27, 1.0f);
  std::vector<float> sums(static_cast<std::size_t>(threads) * 16);
  for (int i = 0; i < 12; ++i) {
    read = std::min(read, seconds_of([&] {
                      std::vector<std::thread> workers;
                      for (std::int64_t t = 0; t < threads; ++t) {
                        workers.emplace_back([&, t] {
                          // Asked for ahead, as our kernels do: the processor alone stops at every page.
                          const std::size_t share = memory.size() / static_cast<std::size_t>(threads);
                          const float* from = memory.data() + static_cast<std::size_t>(t) * share;
                          float lanes[64] = {};
                          for (std::size_t k = 0; k + 64 <= share; k += 64) {
                            for (std::size_t line = 0; line < 64; line += 16) {
                              __builtin_prefetch(from + k + 1024 + line, 0, 2);
                            }
                            for (std::size_t lane = 0; lane < 64; ++lane) lanes[lane] += from[k + lane];
                          }
                          for (const float lane : lanes) sums[static_cast<std::size_t>(t) * 16] += lane;
                        });
                      }
                      for (std::thread& worker : workers) worker.join();
                    }));
  }
  std::printf("%s\n", fmt::format(R"({{"gemm_gflops": {:.1f}, "read_gbs": {:.1f}, "sum": {}}})",
                                  2e-9 * 2048.0 * 2048.0 * 2048.0 / gemm,
                                  4e-9 * static_cast<double>(memory.size()) / read, sums[0])
                          .c_str());
}

// The same of a GPU: bfloat16 products of 8,192 x 8,192 matrices, copying 4 GiB (bytes read and written).
void print_gpu_limits() {
  sao::ops::enable_cuda(0);
  const auto options = at::TensorOptions(at::kCUDA).dtype(at::kBFloat16);
  const at::Tensor a = at::randn({8192, 8192}, options), b = at::randn({8192, 8192}, options);
  at::Tensor from = at::zeros({std::int64_t{1} << 31}, options), to = at::empty_like(from);
  double gemm = 1e9, copy = 1e9;
  for (int i = 0; i < 10; ++i) gemm = std::min(gemm, sao::benchmarks::gpu_seconds([&] { at::mm(a, b); }));
  for (int i = 0; i < 10; ++i) copy = std::min(copy, sao::benchmarks::gpu_seconds([&] { to.copy_(from); }));
  std::printf("%s\n", fmt::format(R"({{"gemm_gflops": {:.1f}, "read_gbs": {:.1f}}})",
                                  2e-9 * 8192.0 * 8192.0 * 8192.0 / gemm, 2e-9 * 4294967296.0 / copy)
                          .c_str());
}

}  // namespace

int main(int argc, char** argv) try {
  sao::keep_freed_memory();
  if (argc != 7 && argc != 8) {
    throw sao::InputError("usage: libsao_generate FOLDER MODEL WORKLOAD THREADS DTYPE DEVICE [profile]");
  }
  const std::filesystem::path folder = argv[1];
  const std::string_view workload = argv[3];
  const bool int8 = std::string_view(argv[5]) == "int8";
  const sao::LoadOptions where{.device = argv[6],
                               .dtype = int8 ? sao::DType::kFloat32 : sao::parse_dtype(argv[5]),
                               .purpose = sao::purpose_of({.int8_weights = int8})};
  at::set_num_threads(std::stoi(argv[4]));
  if (std::string_view(argv[1]) == "limits") {
    where.device == "cpu" ? print_cpu_limits(std::stoll(argv[4])) : print_gpu_limits();
    return 0;
  }
  const nlohmann::json work = nlohmann::json::parse(std::ifstream(folder / "workloads.json")).at(argv[3]);
  const auto prompts = work.at("prompts").get<std::vector<sao::TokenIds>>();
  const auto new_tokens = work.at("new_tokens").get<std::vector<std::int64_t>>();
  sao::EngineOptions options{.max_batch = work.at("batch").get<std::int64_t>(), .int8_weights = int8};
  const sao::CausalLM model = sao::CausalLM::load(folder / argv[2], where);
  if (where.device != "cpu") {
    options.prefill_tokens = 8192;
    // Room for the whole batch: more than half of what is free beside a large model, which the engine would take.
    std::int64_t blocks = 1024;
    for (std::size_t i = 0; i < prompts.size() && i < static_cast<std::size_t>(options.max_batch); ++i) {
      const std::int64_t sampled = new_tokens.empty() ? 0 : new_tokens[i];
      blocks += sao::KvCache::blocks_for(static_cast<std::int64_t>(prompts[i].size()) + sampled);
    }
    options.cache_bytes = blocks * sao::KvCache::bytes_per_block(model.config(), model.dtype());
  }
  sao::Engine engine(model, sao::ChatTokenizer::load(folder / argv[2]), options);
  const bool greedy = workload == "check";
  const sao::SamplingOptions sampling{.temperature = greedy ? 0.0 : 1.0, .max_new_tokens = 3, .ignore_eos = true};

  std::vector<sao::TokenIds> found(prompts.size());
  const auto judge = [&] {
    std::vector<sao::NextTokenRequest> requests;
    for (const sao::TokenIds& prompt : prompts) requests.push_back({.ids = prompt, .candidates = {300, 301}});
    for (std::size_t i = 0; const auto& log_probs : engine.next_token_log_probs(requests))
      found[i++] = sao::TokenIds(log_probs.size() / 2, 0);
  };
  const auto generate = [&] {
    std::vector<sao::GenerationRequest> requests;
    for (std::size_t i = 0; i < prompts.size(); ++i)
      requests.push_back({.prompt_ids = prompts[i],
                          .seed = sao::Seed{1}.fork(static_cast<std::uint64_t>(i)),
                          .max_new_tokens = new_tokens[i]});
    engine.generate(requests, sampling, [&](std::size_t request, std::int64_t, sao::Completion completion) {
      found[request] = std::move(completion.ids);
    });
  };
  const auto run = [&] { new_tokens.empty() ? judge() : generate(); };
  engine.generate_all(std::vector<sao::GenerationRequest>(2, {.prompt_ids = sao::TokenIds(16, 300)}), sampling);
  // A GPU's memory and kernels are had on first use: once as a whole.
  if (where.device != "cpu") run();
  if (argc == 8) sao::benchmarks::profile(run);
  const sao::EngineStats before = engine.stats();
  const double seconds = seconds_of(run);
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  std::vector<std::size_t> lengths;
  for (const sao::TokenIds& ids : found) lengths.push_back(ids.size());
  std::printf(
      "%s\n",
      fmt::format(R"({{"system": "libsao", "version": "{}", "seconds": {:.4f}, "lengths": {}, "ids": {}, )"
                  R"("computed_tokens": {}, "steps": {}, "peak_mib": {:.0f}}})",
                  SAO_VERSION, seconds, nlohmann::json(lengths).dump(), greedy ? nlohmann::json(found).dump() : "[]",
                  engine.stats().prompt_tokens - before.prompt_tokens, engine.stats().steps - before.steps,
                  static_cast<double>(usage.ru_maxrss) / 1024)
          .c_str());
} catch (const sao::Error& error) {
  std::fprintf(stderr, "libsao_generate: %s\n", error.what());
  return 1;
}

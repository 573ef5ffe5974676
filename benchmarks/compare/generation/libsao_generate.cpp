// SPDX-License-Identifier: Apache-2.0
// libsao_generate FOLDER MODEL WORKLOAD THREADS DTYPE: libsao's Engine on FOLDER/workloads.json, one JSON line as the
// peers print it. libsao_generate limits - - THREADS -: what the machine can do: GEMM peak and copying.
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

namespace {

double seconds_of(const auto& work) {
  const auto begin = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

// The best of some seconds: float32 GFLOP/s of a product of 2,048 x 2,048 matrices, GB/s of reading 512 MiB.
void print_limits(std::int64_t threads) {
  const at::Tensor a = at::randn({2048, 2048}), b = at::randn({2048, 2048});
  double gemm = 1e9, read = 1e9;
  for (int i = 0; i < 12; ++i) gemm = std::min(gemm, seconds_of([&] { at::mm(a, b); }));
  const std::vector<float> memory(std::size_t{1} << 27, 1.0f);
  std::vector<float> sums(static_cast<std::size_t>(threads) * 16);
  for (int i = 0; i < 12; ++i) {
    read = std::min(read, seconds_of([&] {
                      std::vector<std::thread> workers;
                      for (std::int64_t t = 0; t < threads; ++t) {
                        workers.emplace_back([&, t] {
                          const std::size_t share = memory.size() / static_cast<std::size_t>(threads);
                          const float* from = memory.data() + static_cast<std::size_t>(t) * share;
                          float lanes[64] = {};
                          for (std::size_t k = 0; k + 64 <= share; k += 64) {
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

}  // namespace

int main(int argc, char** argv) try {
  if (argc != 6) throw sao::InputError("usage: libsao_generate FOLDER MODEL WORKLOAD THREADS DTYPE");
  const std::filesystem::path folder = argv[1];
  const std::string_view workload = argv[3];
  at::set_num_threads(std::stoi(argv[4]));
  if (std::string_view(argv[1]) == "limits") {
    print_limits(std::stoll(argv[4]));
    return 0;
  }
  const nlohmann::json work = nlohmann::json::parse(std::ifstream(folder / "workloads.json")).at(argv[3]);
  sao::Engine engine(sao::CausalLM::load(folder / argv[2]), sao::ChatTokenizer::load(folder / argv[2]),
                     {.max_batch = work.at("batch").get<std::int64_t>()});
  const auto prompts = work.at("prompts").get<std::vector<sao::TokenIds>>();
  const auto new_tokens = work.at("new_tokens").get<std::vector<std::int64_t>>();
  const bool greedy = workload == "check";
  const sao::SamplingOptions sampling{.temperature = greedy ? 0.0 : 1.0, .max_new_tokens = 3, .ignore_eos = true};

  engine.generate_all(std::vector<sao::GenerationRequest>(2, {.prompt_ids = sao::TokenIds(16, 300)}), sampling);
  std::vector<sao::TokenIds> found(prompts.size());
  const double seconds = seconds_of([&] {
    if (new_tokens.empty()) {
      std::vector<sao::NextTokenRequest> requests;
      for (const sao::TokenIds& prompt : prompts) requests.push_back({.ids = prompt, .candidates = {300, 301}});
      for (std::size_t i = 0; const auto& log_probs : engine.next_token_log_probs(requests))
        found[i++] = sao::TokenIds(log_probs.size() / 2, 0);
      return;
    }
    std::vector<sao::GenerationRequest> requests;
    for (std::size_t i = 0; i < prompts.size(); ++i)
      requests.push_back({.prompt_ids = prompts[i],
                          .seed = sao::Seed{1}.fork(static_cast<std::uint64_t>(i)),
                          .max_new_tokens = new_tokens[i]});
    engine.generate(requests, sampling, [&](std::size_t request, std::int64_t, sao::Completion completion) {
      found[request] = std::move(completion.ids);
    });
  });
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  std::vector<std::size_t> lengths;
  for (const sao::TokenIds& ids : found) lengths.push_back(ids.size());
  std::printf(
      "%s\n",
      fmt::format(R"({{"system": "libsao", "version": "{}", "seconds": {:.4f}, "lengths": {}, "ids": {}, )"
                  R"("computed_tokens": {}, "steps": {}, "peak_mib": {:.0f}}})",
                  SAO_VERSION, seconds, nlohmann::json(lengths).dump(), greedy ? nlohmann::json(found).dump() : "[]",
                  engine.stats().prompt_tokens, engine.stats().steps, static_cast<double>(usage.ru_maxrss) / 1024)
          .c_str());
} catch (const sao::Error& error) {
  std::fprintf(stderr, "libsao_generate: %s\n", error.what());
  return 1;
}

// SPDX-License-Identifier: Apache-2.0
// libsao_score FOLDER MODEL WORKLOAD THREADS DTYPE DEVICE [PROFILE]: Engine::score on FOLDER/scoring.json, one JSON
// line as the peers print it; any seventh argument: a profile of the measured part on standard error.
#include <ATen/Parallel.h>
#include <fmt/format.h>
#include <sao/sao.h>
#include <sys/resource.h>

#include <chrono>
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>
#include <numeric>

#include "../profile.h"

int main(int argc, char** argv) try {
  sao::keep_freed_memory();
  if (argc != 7 && argc != 8) {
    throw sao::InputError("usage: libsao_score FOLDER MODEL WORKLOAD THREADS DTYPE DEVICE [profile]");
  }
  const std::filesystem::path folder = argv[1];
  at::set_num_threads(std::stoi(argv[4]));
  const auto rows = nlohmann::json::parse(std::ifstream(folder / "scoring.json"))
                        .at(argv[3])
                        .get<std::vector<std::array<sao::TokenIds, 2>>>();
  std::vector<sao::ScoreRequest> requests;
  for (const auto& [prompt, response] : rows) requests.push_back({.prompt_ids = prompt, .response_ids = response});
  sao::Engine engine(
      sao::CausalLM::load(folder / argv[2],
                          {.device = argv[6], .dtype = sao::parse_dtype(argv[5]), .purpose = sao::Purpose::kInference}),
      sao::ChatTokenizer::load(folder / argv[2]));
  engine.score(std::span(requests).first(1));
  if (argc == 8) sao::benchmarks::profile([&] { engine.score(requests); });
  const auto begin = std::chrono::steady_clock::now();
  const std::vector<std::vector<double>> found = engine.score(requests);
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  std::vector<double> sums;
  for (const std::vector<double>& logps : found) sums.push_back(std::accumulate(logps.begin(), logps.end(), 0.0));
  std::printf(
      "%s\n",
      fmt::format(R"({{"system": "libsao", "version": "{}", "seconds": {:.4f}, "sums": {}, "peak_mib": {:.0f}}})",
                  SAO_VERSION, seconds, nlohmann::json(sums).dump(), static_cast<double>(usage.ru_maxrss) / 1024)
          .c_str());
} catch (const sao::Error& error) {
  std::fprintf(stderr, "libsao_score: %s\n", error.what());
  return 1;
}

// SPDX-License-Identifier: Apache-2.0
// libsao_step FOLDER MODEL LOSS PAIRS STEPS THREADS DTYPE DEVICE [profile]: libsao's trainer on FOLDER/pairs.jsonl, one
// JSON line as peer_trl.py prints it.
#include <ATen/Parallel.h>
#include <dlfcn.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sao/sao.h>
#include <sys/resource.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <fstream>

#include "../profile.h"

namespace {

double resident_mib() {
  std::int64_t pages = 0, resident = 0;
  std::ifstream("/proc/self/statm") >> pages >> resident;
  return static_cast<double>(resident) * static_cast<double>(sysconf(_SC_PAGESIZE)) / (1 << 20);
}

// In use on the GPU, with what LibTorch keeps for later: at the end of a run the most it ever had.
double gpu_mib() {
  using MemoryInfo = int(std::size_t*, std::size_t*);
  std::size_t free = 0, total = 0;
  reinterpret_cast<MemoryInfo*>(dlsym(RTLD_DEFAULT, "cudaMemGetInfo"))(&free, &total);
  return static_cast<double>(total - free) / (1 << 20);
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc != 9 && argc != 10) {
    throw sao::InputError("usage: libsao_step FOLDER MODEL LOSS PAIRS STEPS THREADS DTYPE DEVICE [profile]");
  }
  const std::filesystem::path folder = argv[1];
  const std::int64_t pairs = std::stoll(argv[4]), steps = std::stoll(argv[5]);
  at::set_num_threads(std::stoi(argv[6]));
  const auto policy = sao::CausalLM::load(folder / argv[2], {.device = argv[8], .dtype = sao::parse_dtype(argv[7])});
  const auto rows = sao::read_jsonl<sao::Preference>(folder / "pairs.jsonl");
  sao::PreferenceLoss loss = sao::DPO{.beta = 0.1};
  if (std::string_view(argv[3]) == "simpo") loss = sao::SimPO{.beta = 2.0, .gamma_beta_ratio = 0.5};

  std::vector<double> times, losses;
  const bool on_gpu = std::string_view(argv[8]) != "cpu";
  const double before = on_gpu ? gpu_mib() : resident_mib();
  sao::TrainerOptions options;
  options.loss = loss;
  options.optimizer.learning_rate = 1e-5;
  options.schedule.kind = "constant";
  options.schedule.warmup_ratio = 0.0;
  options.max_steps = steps;
  options.batch_size = pairs;
  options.max_length = 0;
  options.shuffle = false;
  if (on_gpu) {
    options.micro_batch_tokens = 7168;  // what fits beside the optimizer's state of 2.6 billion weights
    options.chunk_tokens = 2048;
  }
  // Reference log-probs are had once, before the first step, which is not counted: what a step's share of them takes is
  // measured apart and added.
  const std::vector<sao::TokenPair> all = sao::tokenize_pairs(rows);
  double reference = 0.0;
  if (sao::needs_reference(loss)) {
    std::vector<sao::PromptedResponse> completions;
    for (const sao::TokenPair& pair : std::span(all).first(static_cast<std::size_t>(pairs))) {
      completions.push_back({pair.prompt, pair.chosen});
      completions.push_back({pair.prompt, pair.rejected});
    }
    for (int i = 0; i < 2; ++i) {
      const auto begin = std::chrono::steady_clock::now();
      sao::sequence_logps(policy, completions,
                          {.batch_tokens = options.micro_batch_tokens, .chunk_tokens = options.chunk_tokens});
      reference = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    }
  }
  sao::Trainer trainer(policy, all, options);
  for (std::int64_t i = 0; i < steps; ++i) {
    if (argc == 10 && i + 1 == steps) {
      sao::benchmarks::profile([&] { trainer.step(); });
      break;
    }
    const auto begin = std::chrono::steady_clock::now();
    trainer.step();
    times.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count() + reference);
    losses.push_back(trainer.metrics().loss);
  }
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  std::printf(
      "%s\n",
      fmt::format(
          R"({{"system": "libsao", "times": [{:.4f}], "losses": [{:.7f}], "reference": {:.4f}, "before_mib": {:.0f}, )"
          R"("peak_mib": {:.0f}}})",
          fmt::join(times, ", "), fmt::join(losses, ", "), reference, before,
          on_gpu ? gpu_mib() : static_cast<double>(usage.ru_maxrss) / 1024)
          .c_str());
} catch (const sao::Error& error) {
  std::fprintf(stderr, "libsao_step: %s\n", error.what());
  return 1;
}

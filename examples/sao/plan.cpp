// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <sao/loop/memory_plan.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <memory>

#include "arguments.h"
#include "commands.h"
#include "run_options.h"

namespace sao::cli {
namespace {

constexpr double kMebibyte = 1 << 20;

// What this program itself has in memory: its code, LibTorch and the tokenizer, which a run has too.
std::int64_t resident_bytes() {
  std::int64_t pages = 0, resident = 0;
  std::ifstream("/proc/self/statm") >> pages >> resident;
  return resident * sysconf(_SC_PAGESIZE);
}

std::string parts_to_text(const StageMemory& stage) {
  std::string text;
  for (const MemoryPart& part : stage.parts) {
    if (part.bytes == 0) continue;
    text +=
        fmt::format("{}{} {:.0f}", text.empty() ? "" : ", ", part.name, static_cast<double>(part.bytes) / kMebibyte);
    if (part.name == "KV cache" && stage.sequences > 0) text += fmt::format(" ({} sequences)", stage.sequences);
  }
  return text;
}

struct PlanCommand {
  explicit PlanCommand(CLI::App& app) : arguments(app) {
    // So that the file of a run serves as it stands.
    arguments.add("output", output, "as of run; nothing is written", "o");
    arguments.add("resume", resume, "as of run; no effect");
    arguments.add("threads", threads, "as of run; no effect");
    add_run_settings(arguments, settings);
  }

  void run() {
    arguments.finish();
    arguments.require("model");
    check_options(settings);
    const MemoryPlan plan = plan_memory(settings);
    const std::int64_t program = settings.device == "cpu" ? resident_bytes() : 0;
    const StageMemory* largest = &plan.stages.front();
    std::printf("%-32s %10s   of which\n", "MiB at most in", "all");
    for (const StageMemory& stage : plan.stages) {
      if (total_bytes(stage.parts) > total_bytes(largest->parts)) largest = &stage;
      const double all = static_cast<double>(total_bytes(stage.parts) + program) / kMebibyte;
      std::printf("%-32s %10.0f   %s\n", stage.name.c_str(), all,
                  fmt::format("{}{}", parts_to_text(stage),
                              program > 0 ? fmt::format(", program and libraries {:.0f}",
                                                        static_cast<double>(program) / kMebibyte)
                                          : "")
                      .c_str());
    }
    const std::int64_t need = total_bytes(largest->parts) + program;
    if (plan.available == 0) {
      std::printf("\nThe most is %.0f MiB, in %s. What %s has free is not known here.\n",
                  static_cast<double>(need) / kMebibyte, largest->name.c_str(), settings.device.c_str());
      return;
    }
    const bool fits = need <= plan.available + program;
    std::printf("\nThe most is %.0f MiB, in %s; %s has %.0f MiB free: %s\n", static_cast<double>(need) / kMebibyte,
                largest->name.c_str(), settings.device.c_str(), static_cast<double>(plan.available) / kMebibyte,
                fits ? "it fits." : advice(largest->name));
  }

  static const char* advice(const std::string& stage) {
    return stage == "training" ? "it does not fit. Lower train.micro_batch_tokens or train.chunk_tokens, or set "
                                 "train.activation_checkpointing."
                               : "it does not fit. Set engine.cache_bytes, or lower engine.max_batch, "
                                 "engine.prefill_tokens or max_new_tokens.";
  }

  Arguments arguments;
  RunSettings settings;
  std::string output;
  bool resume = false;
  std::int64_t threads = 0;
};

}  // namespace

Run plan_command(CLI::App& app) {
  return [command = std::make_shared<PlanCommand>(app)] { command->run(); };
}

}  // namespace sao::cli

// SPDX-License-Identifier: Apache-2.0
// The commands of `sao`. Each adds its options to its part of the command line and gives back what to run.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>

namespace sao::cli {

using Run = std::function<void()>;

Run tokenize_command(CLI::App& app);
Run score_command(CLI::App& app);
Run generate_command(CLI::App& app);
Run judge_command(CLI::App& app);
Run train_command(CLI::App& app);
Run merge_command(CLI::App& app);
Run winrate_command(CLI::App& app);
Run arena_command(CLI::App& app);
Run mt_bench_command(CLI::App& app);
Run eval_command(CLI::App& app);
Run run_command(CLI::App& app);
Run plan_command(CLI::App& app);
Run report_command(CLI::App& app);

}  // namespace sao::cli

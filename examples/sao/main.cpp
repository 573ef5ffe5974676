// SPDX-License-Identifier: Apache-2.0
// sao: every stage of Self-Alignment Optimization as a command. JSON Lines in, JSON Lines out.
//   sao generate --model gemma-2-2b-it --temperature 0.6 prompts.jsonl > responses.jsonl
#include <c10/util/Exception.h>
#include <sao/base/error.h>
#include <sao/base/memory.h>
#include <sao/base/version.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <csignal>
#include <cstdio>
#include <new>
#include <string>
#include <string_view>
#include <vector>

#include "arguments.h"
#include "commands.h"

namespace {

constexpr int kBadInput = 1;
constexpr int kWrongUsage = 2;

/// One line, whatever the message holds.
int fail(std::string message, int status) {
  std::replace(message.begin(), message.end(), '\n', ' ');
  std::replace(message.begin(), message.end(), '\r', ' ');
  while (!message.empty() && message.back() == ' ') message.pop_back();
  std::fprintf(stderr, "sao: %s\n", message.c_str());
  return status;
}

struct Command {
  const char* name;
  const char* help;
  sao::cli::Run (*make)(CLI::App&);
};

constexpr std::array<Command, 13> kCommands = {
    {{"tokenize", "text or conversations to token ids, or back", sao::cli::tokenize_command},
     {"score", "log-probabilities of given responses", sao::cli::score_command},
     {"generate", "sample responses", sao::cli::generate_command},
     {"judge", "which of two responses is better", sao::cli::judge_command},
     {"train", "train on preference pairs", sao::cli::train_command},
     {"merge", "a model with adapters added to its weights", sao::cli::merge_command},
     {"winrate", "AlpacaEval's win rates from its annotations", sao::cli::winrate_command},
     {"arena", "Arena-Hard's scores from judgments or battles", sao::cli::arena_command},
     {"mtbench", "MT-Bench's scores from judgments", sao::cli::mt_bench_command},
     {"eval", "accuracy on choices or written answers, perplexity of texts", sao::cli::eval_command},
     {"run", "rounds of self-alignment in a run folder", sao::cli::run_command},
     {"plan", "the memory that a run will need, before it is started", sao::cli::plan_command},
     {"report", "a run as a page for people", sao::cli::report_command}}};

/// Throws UsageError for a command that does not exist.
void check_command(const std::string& name) {
  std::string names;
  for (const Command& command : kCommands) {
    if (name == command.name) return;
    names += std::string(names.empty() ? "" : ", ") + command.name;
  }
  throw sao::cli::UsageError("no command \"" + name + "\", expected one of " + names);
}

/// --max_new_tokens is --max-new-tokens.
std::vector<std::string> arguments_of(int argc, char** argv) {
  std::vector<std::string> arguments;
  for (int i = 1; i < argc; ++i) {
    std::string argument = argv[i];
    if (argument.starts_with("--")) {
      const auto end = std::min(argument.find('='), argument.size());
      std::replace(argument.begin(), argument.begin() + static_cast<std::ptrdiff_t>(end), '_', '-');
    }
    arguments.push_back(std::move(argument));
  }
  return arguments;
}

}  // namespace

int main(int argc, char** argv) try {
  sao::keep_freed_memory();
  std::signal(SIGXFSZ, SIG_IGN);  // a limit on files is an error to report, like a full disk
  CLI::App app("Self-Alignment Optimization: a chat model writes prompts, answers them, judges the answers and learns.",
               "sao");
  app.set_version_flag("--version", SAO_VERSION);
  app.require_subcommand(1);
  std::vector<std::pair<CLI::App*, sao::cli::Run>> commands;
  for (const Command& command : kCommands) {
    CLI::App* part = app.add_subcommand(command.name, command.help);
    commands.emplace_back(part, command.make(*part));
  }
  try {
    std::vector<std::string> arguments = arguments_of(argc, argv);
    if (!arguments.empty() && !arguments[0].starts_with('-')) check_command(arguments[0]);
    std::reverse(arguments.begin(), arguments.end());  // as CLI11 takes them
    app.parse(arguments);
  } catch (const CLI::Success& wanted) {  // --help, --version
    return app.exit(wanted);
  } catch (const CLI::ParseError& error) {
    return fail(error.what(), kWrongUsage);
  }
  for (const auto& [part, run] : commands) {
    if (part->parsed()) run();
  }
  return 0;
} catch (const sao::cli::UsageError& error) {
  return fail(error.what(), kWrongUsage);
} catch (const sao::Error& error) {
  return fail(error.what(), kBadInput);
} catch (const std::bad_alloc&) {
  return fail("out of memory", kBadInput);
} catch (const c10::Error& error) {
  const std::string_view what = error.what_without_backtrace();
  return fail(std::string(what.substr(0, what.find('\n'))), kBadInput);
} catch (const std::exception& error) {
  return fail(error.what(), kBadInput);
}

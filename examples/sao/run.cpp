// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <sao/base/error.h>
#include <sao/loop/round.h>

#include <memory>

#include "arguments.h"
#include "commands.h"
#include "model_options.h"
#include "run_options.h"

namespace sao::cli {
namespace {

struct RunCommand {
  explicit RunCommand(CLI::App& app) : arguments(app) {
    arguments.add("output", output, "the run's folder", "o");
    arguments.add("resume", resume, "continue the run in the folder");
    arguments.add("threads", threads, "processor threads; 0 = as many as there are cores");
    add_run_settings(arguments, settings);
  }

  void run() {
    arguments.finish();
    for (const char* name : {"model", "output"}) arguments.require(name);
    check_threads(threads);
    check_options(settings);
    set_threads(threads);
    const LogSink log = message_log();
    for (const std::string& sentence : unusual_settings(settings.train.loss)) log(LogLevel::kWarning, sentence);
    sao::Run loop(output, settings, {.resume = resume}, log, terminal_progress());
    while (loop.step()) continue;
  }

  Arguments arguments;
  RunSettings settings;
  std::string output;
  bool resume = false;
  std::int64_t threads = 0;
};

}  // namespace

Run run_command(CLI::App& app) {
  return [command = std::make_shared<RunCommand>(app)] { command->run(); };
}

}  // namespace sao::cli

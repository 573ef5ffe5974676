// SPDX-License-Identifier: Apache-2.0
#include <sao/io/files.h>
#include <sao/loop/report.h>

#include <filesystem>
#include <memory>

#include "arguments.h"
#include "commands.h"

namespace sao::cli {
namespace {

struct Report {
  explicit Report(CLI::App& app) : arguments(app) {
    arguments.add_positional("RUN", run_folder, "folder of a run");
    arguments.add("output", output, "file for the page; nothing is RUN/report.html", "o");
  }

  void run() {
    arguments.finish();
    const std::filesystem::path page =
        output.empty() ? std::filesystem::path(run_folder) / "report.html" : std::filesystem::path(output);
    write_file_atomically(page, render_report(run_folder));
  }

  Arguments arguments;
  std::string run_folder, output;
};

}  // namespace

Run report_command(CLI::App& app) {
  return [command = std::make_shared<Report>(app)] { command->run(); };
}

}  // namespace sao::cli

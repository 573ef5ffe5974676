// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <sao/base/error.h>
#include <sao/eval/alpaca_eval.h>

#include <memory>

#include "arguments.h"
#include "commands.h"
#include "rows.h"

namespace sao::cli {
namespace {

struct WinRateCommand {
  explicit WinRateCommand(CLI::App& app) : arguments(app) {
    arguments.add_positional("ANNOTATIONS", annotations_file, "AlpacaEval's annotations.json");
    arguments.add("difficulty", difficulty_file, "AlpacaEval's instruction_difficulty.csv");
    arguments.add("gamed", gamed_file, "AlpacaEval's df_gamed.csv");
    arguments.add("output", output, "file for the result; nothing is the standard output", "o");
  }

  void run() {
    arguments.finish();
    if (difficulty_file.empty() != gamed_file.empty()) {
      throw UsageError("--difficulty and --gamed belong together: the length-controlled fit needs both");
    }
    Output out(output);
    const AlpacaAnnotations annotations = read_alpaca_annotations(annotations_file);
    const AlpacaWinRate plain = alpaca_win_rate(annotations);
    nlohmann::ordered_json result = {{"win_rate", plain.win_rate},
                                     {"standard_error", plain.standard_error},
                                     {"length_controlled_winrate", nullptr},
                                     {"lc_standard_error", nullptr},
                                     {"discrete_win_rate", plain.discrete_win_rate},
                                     {"n", plain.n}};
    if (!difficulty_file.empty()) {
      const AlpacaLengthControlled controlled =
          alpaca_length_controlled(annotations, read_alpaca_difficulty(difficulty_file), read_alpaca_gamed(gamed_file));
      result["length_controlled_winrate"] = controlled.length_controlled_winrate;
      result["lc_standard_error"] = controlled.lc_standard_error;
    }
    out.write(result);
    out.finish();
  }

  Arguments arguments;
  std::string annotations_file, difficulty_file, gamed_file, output;
};

}  // namespace

Run winrate_command(CLI::App& app) {
  return [command = std::make_shared<WinRateCommand>(app)] { command->run(); };
}

}  // namespace sao::cli

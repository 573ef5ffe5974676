// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <sao/base/error.h>
#include <sao/eval/alpaca_eval.h>
#include <sao/eval/win_rate.h>

#include <limits>
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
    arguments.add("c", fit.c, "inverse strength of the official fit's penalty; 0 chooses it by cross-validation");
    arguments.add("legacy-folds", fit.legacy_folds, "cross-validate as older scikit-learn: most published entries");
    arguments.add_fields(own_fit, with_dashes);
    arguments.add("output", output, "file for the result; nothing is the standard output", "o");
  }

  void run() {
    arguments.finish();
    if (difficulty_file.empty() != gamed_file.empty()) {
      throw UsageError("--difficulty and --gamed belong together: the length-controlled fit needs both");
    }
    check_options(own_fit);
    if (!(fit.c >= 0.0)) throw UsageError(fmt::format("--c is {}, expected 0 or more", fit.c));
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
      const AlpacaLengthControlled controlled = alpaca_length_controlled(
          annotations, read_alpaca_difficulty(difficulty_file), read_alpaca_gamed(gamed_file), fit);
      result["length_controlled_winrate"] = controlled.length_controlled_winrate;
      result["lc_standard_error"] = controlled.lc_standard_error;
    }
    add_own_fit(annotations, result);
    out.write(result);
    out.finish();
  }

  /// The fit that any set of prompts has, in percent as the others.
  void add_own_fit(const AlpacaAnnotations& annotations, nlohmann::ordered_json& result) const {
    std::vector<double> preferences;
    for (const double raw : annotations.preferences) {
      const double preference = raw == 0.0 ? 1.5 : raw;
      const bool good = preference >= 1.0 && preference <= 2.0;
      preferences.push_back(good ? preference - 1.0 : std::numeric_limits<double>::quiet_NaN());
    }
    const LengthControlledWinRate found =
        length_controlled_win_rate(preferences, annotations.model_lengths, annotations.baseline_lengths, own_fit);
    result["own_length_controlled_winrate"] = 100.0 * found.win_rate;
    result["own_lc_standard_error"] = 100.0 * found.standard_error;
    result["own_lc_interval"] = {100.0 * found.low, 100.0 * found.high};
  }

  Arguments arguments;
  AlpacaFitOptions fit;
  LengthControlOptions own_fit;
  std::string annotations_file, difficulty_file, gamed_file, output;
};

}  // namespace

Run winrate_command(CLI::App& app) {
  return [command = std::make_shared<WinRateCommand>(app)] { command->run(); };
}

}  // namespace sao::cli

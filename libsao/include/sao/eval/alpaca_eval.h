// SPDX-License-Identifier: Apache-2.0
// AlpacaEval 2.0's numbers from its own files: win rate and length-controlled win rate, in percent as its table has
// them.
//   auto annotations = sao::read_alpaca_annotations("annotations.json");
//   auto plain = sao::alpaca_win_rate(annotations);
//   auto controlled = sao::alpaca_length_controlled(annotations,
//   sao::read_alpaca_difficulty("instruction_difficulty.csv"),
//                                                   sao::read_alpaca_gamed("df_gamed.csv"));
// Follows: Dubois et al. 2024 and alpaca_eval 0.6.6, metrics/winrate.py and metrics/glm_winrate.py.
// Checked against published leaderboard values by eval/alpaca_eval_test.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

namespace sao {

/// The rows of an annotations.json, in file order.
struct AlpacaAnnotations {
  std::vector<double> preferences = {};       ///< as in the file: 1 baseline to 2 model; 0 a draw; NaN none
  std::vector<double> baseline_lengths = {};  ///< Unicode code points of output_1
  std::vector<double> model_lengths = {};     ///< of output_2
  std::string baseline = {};                  ///< generator_1
  std::string model = {};                     ///< generator_2
};

/// Reads the JSON list that alpaca_eval writes (NaN and unpaired surrogates, which Python lets through, included).
/// Throws InputError naming the file, the row and the field: not a list of objects, output_1, output_2 or preference
/// missing or of another type, rows of more than one generator_1, generator_2 or annotator.
AlpacaAnnotations read_alpaca_annotations(const std::filesystem::path& file);

struct AlpacaWinRate {
  double win_rate = 0;           ///< percent
  double standard_error = 0;     ///< percent
  double discrete_win_rate = 0;  ///< percent
  std::int64_t n_wins = 0;       ///< of the model
  std::int64_t n_wins_base = 0;
  std::int64_t n_draws = 0;
  std::int64_t n = 0;  ///< rows with a preference ("n_total")
};

/// 0 counts as 1.5; values outside 1 to 2 and NaN are left out. Throws InputError when no row is left.
AlpacaWinRate alpaca_win_rate(const AlpacaAnnotations& annotations);

/// instruction_difficulty.csv: the column instruction_difficulty, in the order of the column index where there is one.
/// Throws InputError naming file, line and column.
std::vector<double> read_alpaca_difficulty(const std::filesystem::path& file);

/// df_gamed.csv: the baseline asked to be verbose and to be concise; it anchors the length term of the fit.
struct AlpacaGamed {
  std::vector<double> std_delta_len = {};  ///< length difference over its standard deviation
  std::vector<double> difficulty = {};
  std::vector<double> preferences = {};  ///< 0 to 1
};

/// The columns std_delta_len, instruction_difficulty and preference. Throws InputError naming file, line and column.
AlpacaGamed read_alpaca_gamed(const std::filesystem::path& file);

struct AlpacaFitOptions {
  double c = 0;  ///< inverse strength of the L1 penalty; 0 chooses among 10 values from 1e-4 to 1e4 by cross-validation
  /// Which rows each of the five folds holds: true as older scikit-learn with NumPy's unstable sort (most published
  /// entries were made with it), false as scikit-learn 1.9.
  bool legacy_folds = false;
};

struct AlpacaLengthControlled {
  double length_controlled_winrate = 0;     ///< percent
  double lc_standard_error = 0;             ///< percent
  std::array<double, 3> coefficients = {};  ///< tanh(length), difficulty, model
  double c = 0;                             ///< as given or chosen
  std::int64_t n = 0;                       ///< rows in the mean: all of them
};

/// The length-controlled win rate "length_controlled_v1": L1-penalised logistic regression without intercept on
/// (tanh(delta / sd), difficulty of the row, 1), with the gamed rows at weight 0.1 and third feature 0; then
/// 100 * mean sigma(w_difficulty * difficulty + w_model) over all rows. Difficulty goes by row number, as in the
/// original. The penalised problem is solved to its optimum by proximal Newton steps (liblinear stops up to 0.02 points
/// earlier). A model that is its own baseline has 50. Throws InputError: more rows than difficulties, all lengths
/// differing alike, no preference.
AlpacaLengthControlled alpaca_length_controlled(const AlpacaAnnotations& annotations,
                                                std::span<const double> difficulty, const AlpacaGamed& gamed,
                                                const AlpacaFitOptions& options = {});

}  // namespace sao

// SPDX-License-Identifier: Apache-2.0
// AlpacaEval's annotations.json, instruction_difficulty.csv and df_gamed.csv.
#include "fuzz/input.h"
#include "fuzz/targets.h"
#include "sao/eval/alpaca_eval.h"

void sao::fuzz::annotations(std::string_view input) {
  static const Folder folder;
  const std::vector<std::string_view> files = parts(input, 3);
  AlpacaAnnotations annotations;
  std::vector<double> difficulty;
  AlpacaGamed gamed;
  const bool rows =
      accepted([&] { annotations = read_alpaca_annotations(folder.write("annotations.json", files[0])); });
  const bool difficulties =
      accepted([&] { difficulty = read_alpaca_difficulty(folder.write("difficulty.csv", files[1])); });
  const bool anchors = accepted([&] { gamed = read_alpaca_gamed(folder.write("gamed.csv", files[2])); });
  if (!rows) return;
  accepted([&] {
    const AlpacaWinRate rate = alpaca_win_rate(annotations);
    expect(rate.win_rate >= 0.0 && rate.win_rate <= 100.0, "win rates are in percent");
  });
  constexpr std::size_t kMostRows = 40;  // the fit is no reader, and takes its time
  if (!difficulties || !anchors || annotations.preferences.size() > kMostRows || gamed.preferences.size() > kMostRows)
    return;
  accepted([&] {
    const AlpacaLengthControlled rate = alpaca_length_controlled(annotations, difficulty, gamed, {.c = 1.0});
    expect(rate.length_controlled_winrate >= 0.0 && rate.length_controlled_winrate <= 100.0,
           "win rates are in percent");
  });
}

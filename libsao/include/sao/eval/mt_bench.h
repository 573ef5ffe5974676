// SPDX-License-Identifier: Apache-2.0
// MT-Bench: scores in judges' texts, means over turns, pairwise verdicts in two orders.
//   for (const sao::MtBenchScore& score : sao::read_mt_bench_scores("gpt-4_single.jsonl")) ...
// Follows: Zheng et al. 2023; FastChat's llm_judge, common.py and show_result.py.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace sao {

/// The first `[[r]]` in a judge's text, else the first `[r]`, r a number; -1 where there is neither.
double mt_bench_rating(std::string_view judgment);

/// "A" where `[[A]]` stands in a pairwise judge's text, else "B" for `[[B]]`, else "tie" for `[[C]]`, else "error".
std::string mt_bench_winner(std::string_view judgment);

struct MtBenchScore {
  std::string model = {};
  double score = 0;       ///< mean over all rated answers of both turns
  double first_turn = 0;  ///< NaN without answers
  double second_turn = 0;
  std::int64_t n = 0;       ///< rated answers
  std::int64_t failed = 0;  ///< answers without a rating: left out
};

/// Rows with `model`, `turn` (1 or 2) and `score`, or the judge's text in `judgment`; a score of -1 is a failure. The
/// best model first. Throws InputError naming file, line and field.
std::vector<MtBenchScore> read_mt_bench_scores(const std::filesystem::path& file);

struct MtBenchPair {
  std::string model = {};
  std::int64_t wins = 0;
  std::int64_t losses = 0;
  std::int64_t ties = 0;
  double win_rate = 0;           ///< wins / n
  double loss_rate = 0;          ///< losses / n
  double adjusted_win_rate = 0;  ///< (wins + ties / 2) / n
  std::int64_t failed = 0;       ///< pairs of games of which one has no verdict: left out
};

/// Rows with `model_1`, `model_2` and the winners of the two games, `g1_winner` and `g2_winner`: "model_1", "model_2",
/// "tie" or "error"; or the texts `g1_judgment` (model_1 is A) and `g2_judgment` (model_1 is B). A tie in the first
/// game and games that disagree are a tie; an error in either leaves both out. The largest adjusted win rate first.
/// Throws InputError naming file, line and field.
std::vector<MtBenchPair> read_mt_bench_pairs(const std::filesystem::path& file);

}  // namespace sao

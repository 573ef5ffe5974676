// SPDX-License-Identifier: Apache-2.0
#include "sao/eval/mt_bench.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <limits>
#include <map>
#include <optional>

#include "io/json.h"
#include "sao/base/error.h"
#include "sao/io/jsonl.h"

namespace sao {
namespace {

using detail::Json;

bool is_digit(char c) { return c >= '0' && c <= '9'; }

/// The first \d+\.?\d* between `open` and `close`.
std::optional<double> number_between(std::string_view text, std::string_view open, std::string_view close) {
  for (std::size_t at = 0; (at = text.find(open, at)) != std::string_view::npos; ++at) {
    const std::size_t begin = at + open.size();
    std::size_t end = begin;
    while (end < text.size() && is_digit(text[end])) ++end;
    if (end == begin) continue;
    if (end < text.size() && text[end] == '.') ++end;
    while (end < text.size() && is_digit(text[end])) ++end;
    if (text.substr(end, close.size()) != close) continue;
    double value = 0;
    std::from_chars(text.data() + begin, text.data() + end, value);
    return value;
  }
  return std::nullopt;
}

/// "model_1", "model_2", "tie" or "error".
std::string pair_winner(const Json& row, const char* winner_name, const char* judgment_name, bool swapped) {
  if (row.contains(winner_name)) {
    const auto winner = detail::get_field<std::string>(row, winner_name, "");
    if (winner != "model_1" && winner != "model_2" && winner != "tie" && winner != "error") {
      detail::throw_field_error("", winner_name, row[winner_name], "model_1, model_2, tie or error");
    }
    return winner;
  }
  const std::string winner = mt_bench_winner(detail::get_field<std::string>(row, judgment_name, ""));
  if (winner != "A" && winner != "B") return winner;
  return (winner == "A") != swapped ? "model_1" : "model_2";
}

}  // namespace

double mt_bench_rating(std::string_view judgment) {
  const auto rating = number_between(judgment, "[[", "]]");
  return rating ? *rating : number_between(judgment, "[", "]").value_or(-1.0);
}

std::string mt_bench_winner(std::string_view judgment) {
  const auto has = [&](std::string_view mark) { return judgment.find(mark) != std::string_view::npos; };
  return has("[[A]]") ? "A" : has("[[B]]") ? "B" : has("[[C]]") ? "tie" : "error";
}

std::vector<MtBenchScore> read_mt_bench_scores(const std::filesystem::path& file) {
  struct Sums {
    double sum[2] = {0, 0};
    std::int64_t count[2] = {0, 0};
    std::int64_t failed = 0;
  };
  std::map<std::string, Sums> models;
  for_each_line(file, [&](std::string_view line) {
    const Json row = detail::parse_json_object(line, "");
    Sums& model = models[detail::get_field<std::string>(row, "model", "")];
    const auto turn = detail::find_field<std::int64_t>(row, "turn", "").value_or(1);
    if (turn != 1 && turn != 2) detail::throw_field_error("", "turn", row["turn"], "1 or 2");
    const double score = row.contains("score") ? detail::get_field<double>(row, "score", "")
                                               : mt_bench_rating(detail::get_field<std::string>(row, "judgment", ""));
    if (score == -1.0) {
      ++model.failed;
      return;
    }
    model.sum[turn - 1] += score;
    ++model.count[turn - 1];
  });
  if (models.empty()) throw InputError(fmt::format("{}: no rows, expected judgments", file.string()));
  const auto ratio = [](double sum, std::int64_t count) {
    return count > 0 ? sum / static_cast<double>(count) : std::numeric_limits<double>::quiet_NaN();
  };
  std::vector<MtBenchScore> scores;
  for (const auto& [name, model] : models) {
    const std::int64_t n = model.count[0] + model.count[1];
    scores.push_back({.model = name,
                      .score = ratio(model.sum[0] + model.sum[1], n),
                      .first_turn = ratio(model.sum[0], model.count[0]),
                      .second_turn = ratio(model.sum[1], model.count[1]),
                      .n = n,
                      .failed = model.failed});
  }
  std::stable_sort(scores.begin(), scores.end(),
                   [](const MtBenchScore& a, const MtBenchScore& b) { return a.score > b.score; });
  return scores;
}

std::vector<MtBenchPair> read_mt_bench_pairs(const std::filesystem::path& file) {
  std::map<std::string, MtBenchPair> models;
  for_each_line(file, [&](std::string_view line) {
    const Json row = detail::parse_json_object(line, "");
    MtBenchPair& one = models[detail::get_field<std::string>(row, "model_1", "")];
    MtBenchPair& two = models[detail::get_field<std::string>(row, "model_2", "")];
    const std::string first = pair_winner(row, "g1_winner", "g1_judgment", /*swapped=*/false);
    const std::string second = pair_winner(row, "g2_winner", "g2_judgment", /*swapped=*/true);
    if (first == "error" || second == "error") {
      ++one.failed;
      ++two.failed;
    } else if (first == "tie" || first != second) {
      ++one.ties;
      ++two.ties;
    } else {
      ++(first == "model_1" ? one : two).wins;
      ++(first == "model_1" ? two : one).losses;
    }
  });
  if (models.empty()) throw InputError(fmt::format("{}: no rows, expected judgments", file.string()));
  std::vector<MtBenchPair> pairs;
  for (auto& [name, pair] : models) {
    pair.model = name;
    const auto n = static_cast<double>(pair.wins + pair.losses + pair.ties);
    if (n > 0) {
      pair.win_rate = static_cast<double>(pair.wins) / n;
      pair.loss_rate = static_cast<double>(pair.losses) / n;
      pair.adjusted_win_rate = (static_cast<double>(pair.wins) + 0.5 * static_cast<double>(pair.ties)) / n;
    }
    pairs.push_back(pair);
  }
  std::stable_sort(pairs.begin(), pairs.end(), [](const MtBenchPair& a, const MtBenchPair& b) {
    return a.adjusted_win_rate > b.adjusted_win_rate;
  });
  return pairs;
}

}  // namespace sao

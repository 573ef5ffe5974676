// SPDX-License-Identifier: Apache-2.0
// Arena-Hard and MT-Bench, against scikit-learn, FastChat, and published battles beside the checkout.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "sao/base/error.h"
#include "sao/eval/arena.h"
#include "sao/eval/mt_bench.h"
#include "sao/io/files.h"
#include "support/message_of.h"
#include "support/parity_report.h"
#include "support/paths.h"

namespace sao {
namespace {

using nlohmann::json;
using sao::testing::message_of;

json golden_json(const std::string& name) {
  std::ifstream file(sao::testing::golden("eval") / name);
  return json::parse(file);
}

std::string or_none(const std::optional<std::string>& label) { return label.value_or("none"); }

TEST(ArenaTest, VerdictsAreThoseOfTheRegularExpression) {
  const json expected = golden_json("arena.json");
  std::int64_t different = 0;
  for (const json& at : expected["verdicts"]) {
    const auto text = at["text"].get<std::string>();
    const auto known = [](const json& label) {
      const std::string name = label.is_null() ? "none" : label.get<std::string>();
      const bool good = name == "A>>B" || name == "A>B" || name == "A=B" || name == "B>A" || name == "B>>A";
      return good ? name : std::string("none");  // others are given no weight
    };
    EXPECT_EQ(or_none(arena_verdict(text)), known(at["unique"])) << text;
    EXPECT_EQ(or_none(arena_verdict(text, /*last=*/true)), known(at["last"])) << text;
    different += or_none(arena_verdict(text)) != known(at["unique"]) ? 1 : 0;
  }
  sao::testing::report_parity({.area = "evaluation",
                               .subject = "Arena-Hard",
                               .what = "verdicts in texts",
                               .compared = static_cast<std::int64_t>(expected["verdicts"].size()),
                               .worst = static_cast<double>(different)});
}

TEST(ArenaTest, ScoresAreScikitLearns) {
  const json expected = golden_json("arena.json");
  const ArenaBattles games = read_arena_battles(sao::testing::golden("eval") / "arena_battles.jsonl");
  ASSERT_EQ(games.battles.size(), 400U);
  const std::vector<ArenaScore> scores = arena_scores(games.battles, "base", {.bootstrap = 20});
  ASSERT_EQ(scores.size(), 5U);
  double worst = 0;
  for (const ArenaScore& one : scores) {
    worst = std::max(worst, std::abs(one.score - expected["score"][one.model].get<double>()));
    EXPECT_NEAR(one.elo, expected["elo"][one.model].get<double>(), 1e-3) << one.model;
    EXPECT_LE(one.low, one.score);
    EXPECT_GE(one.high, one.score);
  }
  EXPECT_LE(worst, 1e-4);
  EXPECT_EQ(scores[0].model, "best");
  sao::testing::report_parity({.area = "evaluation",
                               .subject = "Arena-Hard, five models",
                               .what = "Bradley-Terry score, percent",
                               .compared = 5,
                               .worst = worst,
                               .tolerance = 1e-4});
}

TEST(ArenaTest, BootstrapIsSeeded) {
  const ArenaBattles games = read_arena_battles(sao::testing::golden("eval") / "arena_battles.jsonl");
  const auto low = [&](std::uint64_t seed) {
    return arena_scores(games.battles, "base", {.bootstrap = 5, .seed = {seed}})[0].low;
  };
  EXPECT_EQ(low(1), low(1));
  EXPECT_NE(low(1), low(2));
}

/// Battles of Arena-Hard's own repository with the scores its code gives, kept beside the checkout.
TEST(ArenaTest, ReproducesTheRepositorysScores) {
  const auto folder = std::filesystem::path(SAO_SOURCE_DIR).parent_path() / "shared" / "alpaca-eval" / "arena_hard";
  if (!std::filesystem::exists(folder)) GTEST_SKIP() << "no battles at " << folder;
  const ArenaBattles games = read_arena_battles(folder / "battles.jsonl");
  const std::string baseline = "claude-3-haiku-20240307";
  std::map<std::string, ArenaScore> scores;
  for (const ArenaScore& one : arena_scores(games.battles, baseline, {.bootstrap = 400, .seed = {1}})) {
    scores[one.model] = one;
  }
  std::ifstream file(folder / "expected.csv");
  std::string line;
  std::getline(file, line);
  double worst = 0, worst_interval = 0;
  std::int64_t models = 0;
  while (std::getline(file, line)) {
    std::stringstream stream(line);
    std::vector<std::string> fields;
    for (std::string field; std::getline(stream, field, ',');) fields.push_back(field);
    const ArenaScore& one = scores.at(fields[0]);
    EXPECT_EQ(one.wins, std::stod(fields[3]));
    EXPECT_EQ(one.ties, std::stod(fields[4]));
    EXPECT_EQ(one.losses, std::stod(fields[5]));
    EXPECT_NEAR(one.elo, std::stod(fields[6]), 1e-4);
    EXPECT_NEAR(one.score, std::stod(fields[8]), 1e-6) << "all battles are against the baseline";
    worst = std::max(worst, std::abs(one.score - std::stod(fields[7])));
    worst_interval = std::max(
        {worst_interval, std::abs(one.low - std::stod(fields[9])), std::abs(one.high - std::stod(fields[10]))});
    ++models;
  }
  EXPECT_EQ(models, 2);
  EXPECT_LE(worst, 1e-6);
  EXPECT_LE(worst_interval, 0.7) << "two bootstraps of 400 rounds";
  sao::testing::report_parity({.area = "evaluation",
                               .subject = "Arena-Hard, two models",
                               .what = "score of compute_mle_elo, percent",
                               .compared = models,
                               .worst = worst,
                               .tolerance = 1e-6});
}

class JudgesFilesTest : public ::testing::Test {
 protected:
  std::filesystem::path write(const std::string& text) {
    write_file_atomically(folder_ / "file.jsonl", text);
    return folder_ / "file.jsonl";
  }
  sao::testing::TemporaryFolder folder_;
};

TEST_F(JudgesFilesTest, ArenaJudgments) {
  const ArenaBattles games =
      read_arena_battles(write(R"({"question_id": "a", "model": "m", "games": [{"score": "B>>A"}, {"score": "A>B"}]}
{"question_id": "b", "model": "m", "games": [{"score": null}, {"judgment": "so [[A=B]]"}]}
{"question_id": "c", "model": "m", "baseline": "other", "games": [{"judgment": "[[A>B]] [[B>A]]"}]}
)"),
                         "base");
  ASSERT_EQ(games.battles.size(), 3U);
  EXPECT_EQ(games.battles[0].outcome, 1.0);
  EXPECT_EQ(games.battles[0].weight, 3);
  EXPECT_EQ(games.battles[0].model_a, "base");
  EXPECT_EQ(games.battles[1].outcome, 1.0) << "A is the model in the second game";
  EXPECT_EQ(games.battles[2].outcome, 0.5);
  EXPECT_EQ(games.dropped, (std::map<std::string, std::int64_t>{{"no_game", 1}, {"no_verdict", 2}}));
  const std::vector<ArenaScore> scores = arena_scores(games.battles, "base");
  EXPECT_EQ(scores[0].model, "m");
  EXPECT_NEAR(scores[0].score, 100.0 * 4.5 / 5.0, 1e-6);
  EXPECT_EQ(scores[1].score, 50.0);

  EXPECT_THAT(message_of([&] { arena_scores(games.battles, "nobody"); }), ::testing::HasSubstr("base"));
  EXPECT_THAT(message_of([&] { arena_scores({}, "base"); }), ::testing::HasSubstr("none"));
  EXPECT_THAT(message_of([&] { read_arena_battles(write("{\"x\": 1}\n")); }), ::testing::HasSubstr("file.jsonl:1"));
  EXPECT_THAT(message_of([&] { read_arena_battles(write(R"({"model_a": "a", "model_b": "b", "winner": "a"})")); }),
              ::testing::HasSubstr("winner"));
  const std::vector<ArenaBattle> apart = {{"base", "a", 1.0, 1}, {"b", "c", 1.0, 1}};
  EXPECT_THAT(message_of([&] { arena_scores(apart, "base"); }), ::testing::HasSubstr("\"b\""));
}

TEST(MtBenchTest, ReadsTextsAsFastChatDoes) {
  const json expected = golden_json("mt_bench.json");
  std::int64_t different = 0;
  for (const json& at : expected["cases"]) {
    const auto text = at["text"].get<std::string>();
    EXPECT_EQ(mt_bench_rating(text), at["rating"].get<double>()) << text;
    EXPECT_EQ(mt_bench_winner(text), at["winner"]) << text;
    different += mt_bench_rating(text) != at["rating"].get<double>() || mt_bench_winner(text) != at["winner"] ? 1 : 0;
  }
  sao::testing::report_parity({.area = "evaluation",
                               .subject = "MT-Bench, FastChat",
                               .what = "ratings and winners in texts",
                               .compared = static_cast<std::int64_t>(expected["cases"].size()),
                               .worst = static_cast<double>(different)});
}

TEST(MtBenchTest, MeansAndPairsAreFastChats) {
  const json expected = golden_json("mt_bench.json");
  double worst = 0;
  for (const MtBenchScore& one : read_mt_bench_scores(sao::testing::golden("eval") / "mt_bench_single.jsonl")) {
    const json& scores = expected["scores"][one.model];
    worst = std::max({worst, std::abs(one.score - scores["score"].get<double>()),
                      std::abs(one.first_turn - scores["first"].get<double>()),
                      std::abs(one.second_turn - scores["second"].get<double>())});
    EXPECT_EQ(one.n + one.failed, 24);
  }
  for (const MtBenchPair& one : read_mt_bench_pairs(sao::testing::golden("eval") / "mt_bench_pair.jsonl")) {
    const json& row = expected["pairs"][one.model];
    EXPECT_EQ(one.wins, row["win"]);
    EXPECT_EQ(one.losses, row["loss"]);
    EXPECT_EQ(one.ties, row["tie"]);
    worst = std::max({worst, std::abs(one.win_rate - row["win_rate"].get<double>()),
                      std::abs(one.loss_rate - row["loss_rate"].get<double>()),
                      std::abs(one.adjusted_win_rate - row["win_rate_adjusted"].get<double>())});
  }
  EXPECT_LE(worst, 1e-12);
  sao::testing::report_parity({.area = "evaluation",
                               .subject = "MT-Bench, FastChat",
                               .what = "means and win rates of three models",
                               .compared = 18,
                               .worst = worst,
                               .tolerance = 1e-12});
}

TEST_F(JudgesFilesTest, MtBenchJudgments) {
  const auto scores = read_mt_bench_scores(write(R"({"model": "a", "turn": 1, "judgment": "Rating: [[8]]"}
{"model": "a", "turn": 2, "judgment": "none"}
)"));
  EXPECT_EQ(scores[0].score, 8.0);
  EXPECT_EQ(scores[0].failed, 1);
  EXPECT_TRUE(std::isnan(scores[0].second_turn));
  const auto pairs =
      read_mt_bench_pairs(write(R"({"model_1": "a", "model_2": "b", "g1_judgment": "[[A]]", "g2_judgment": "[[B]]"})"));
  EXPECT_EQ(pairs[0].model, "a");
  EXPECT_EQ(pairs[0].wins, 1);
  EXPECT_THAT(message_of([&] { read_mt_bench_scores(write(R"({"model": "a", "turn": 3, "score": 1})")); }),
              ::testing::HasSubstr("turn"));
  EXPECT_THAT(message_of([&] { read_mt_bench_scores(write("")); }), ::testing::HasSubstr("no rows"));
}

}  // namespace
}  // namespace sao

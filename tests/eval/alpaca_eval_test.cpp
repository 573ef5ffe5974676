// SPDX-License-Identifier: Apache-2.0
#include "sao/eval/alpaca_eval.h"

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
#include "sao/io/files.h"
#include "support/parity_report.h"
#include "support/paths.h"

namespace sao {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

TEST(AlpacaEvalTest, MatchesScikitLearn) {
  const auto folder = sao::testing::golden("eval");
  const auto annotations = read_alpaca_annotations(folder / "annotations.json");
  const auto difficulty = read_alpaca_difficulty(folder / "instruction_difficulty.csv");
  const auto gamed = read_alpaca_gamed(folder / "df_gamed.csv");
  std::ifstream file(folder / "alpaca.json");
  const auto expected = nlohmann::json::parse(file);

  EXPECT_EQ(annotations.baseline, "base");
  EXPECT_EQ(annotations.model, "ours");
  EXPECT_EQ(gamed.preferences.size(), 80U);
  const AlpacaWinRate plain = alpaca_win_rate(annotations);
  EXPECT_NEAR(plain.win_rate, expected["plain"]["win_rate"].get<double>(), 1e-9);
  EXPECT_NEAR(plain.standard_error, expected["plain"]["standard_error"].get<double>(), 1e-9);
  EXPECT_NEAR(plain.discrete_win_rate, expected["plain"]["discrete_win_rate"].get<double>(), 1e-9);
  EXPECT_EQ(plain.n, expected["plain"]["n"].get<std::int64_t>());
  EXPECT_EQ(plain.n_wins, expected["plain"]["n_wins"].get<std::int64_t>());
  EXPECT_EQ(plain.n_wins_base, expected["plain"]["n_wins_base"].get<std::int64_t>());
  EXPECT_EQ(plain.n_draws, expected["plain"]["n_draws"].get<std::int64_t>());

  for (const auto& at : expected["by_c"]) {
    const double c = at["c"].get<double>();
    SCOPED_TRACE(c);
    const auto fit = alpaca_length_controlled(annotations, difficulty, gamed, {.c = c});
    for (std::size_t j = 0; j < 3; ++j) EXPECT_NEAR(fit.coefficients[j], at["coefficients"][j].get<double>(), 1e-6);
    EXPECT_NEAR(fit.length_controlled_winrate, at["lc"].get<double>(), 1e-5);
    EXPECT_NEAR(fit.lc_standard_error, at["lc_se"].get<double>(), 1e-5);
    EXPECT_EQ(fit.n, 60);
  }
  const auto chosen = alpaca_length_controlled(annotations, difficulty, gamed);
  EXPECT_NEAR(chosen.c, expected["by_c"][expected["chosen"].get<std::size_t>()]["c"].get<double>(), 1e-9);
}

TEST(AlpacaEvalTest, ModelThatIsItsOwnBaselineHasFifty) {
  AlpacaAnnotations annotations = read_alpaca_annotations(sao::testing::golden("eval") / "annotations.json");
  annotations.model = annotations.baseline;
  const auto fit = alpaca_length_controlled(annotations, {}, {});
  EXPECT_EQ(fit.length_controlled_winrate, 50.0);
  EXPECT_EQ(fit.lc_standard_error, 0.0);
}

class AlpacaFilesTest : public ::testing::Test {
 protected:
  std::filesystem::path write(const std::string& text) {
    write_file_atomically(folder_ / "file", text);
    return folder_ / "file";
  }
  sao::testing::TemporaryFolder folder_;
};

TEST_F(AlpacaFilesTest, ReadsWhatPythonWrites) {
  const auto annotations = read_alpaca_annotations(write(
      R"([{"output_1": "a\ud83d\ude00\u00e9", "output_2": "\ud83d x \\u \" NaN", "preference": NaN, "generator_1": "g", "raw": {"x": [1, -Infinity]}},
          {"output_1": "", "output_2": "é\ude00\/", "preference": 1.25, "generator_1": "g"}])"));
  EXPECT_EQ(annotations.baseline_lengths, (std::vector<double>{3, 0}));  // code points, a surrogate pair is one
  EXPECT_EQ(annotations.model_lengths, (std::vector<double>{12, 3}));
  EXPECT_TRUE(std::isnan(annotations.preferences[0]));
  EXPECT_EQ(annotations.preferences[1], 1.25);
}

TEST_F(AlpacaFilesTest, BadFilesAreNamed) {
  const auto expect = [&](const std::string& text, const std::string& row, const std::string& field) {
    SCOPED_TRACE(text);
    EXPECT_THAT([&] { read_alpaca_annotations(write(text)); },
                ThrowsMessage<InputError>(AllOf(HasSubstr("file"), HasSubstr(row), HasSubstr(field))));
  };
  expect("{}", "", "list");
  expect("[", "", "list");
  expect("[3]", "row 0", "object");
  expect(R"([{"output_1": "", "output_2": ""}])", "row 0", "preference");
  expect(R"([{"output_1": "", "output_2": "", "preference": "2"}])", "row 0", "preference");
  expect(R"([{"output_1": "", "preference": 1}])", "row 0", "output_2");
  expect(R"([{"output_1": "", "output_2": "", "preference": 1, "annotator": "a"},
             {"output_1": "", "output_2": "", "preference": 1, "annotator": "b"}])",
         "row 1", "annotator");
  expect(R"([{"output_1": "", "output_2": "", "preference": 1, "generator_2": "a"},
             {"output_1": "", "output_2": "", "preference": 1, "generator_2": "b"}])",
         "row 1", "generator_2");
  EXPECT_THAT([&] { read_alpaca_difficulty(write("index,instruction_difficulty\n0,1\n1,x\n")); },
              ThrowsMessage<InputError>(AllOf(HasSubstr("row 2"), HasSubstr("instruction_difficulty"))));
  EXPECT_THROW(read_alpaca_difficulty(write("index,instruction_difficulty\n0,1\n0,2\n")), InputError);
  EXPECT_THROW(read_alpaca_difficulty(write("")), InputError);
  EXPECT_EQ(read_alpaca_difficulty(write("index,instruction_difficulty\r\n1,5\r\n0,4\r\n")),
            (std::vector<double>{4, 5}));
  EXPECT_THROW(read_alpaca_gamed(write("std_delta_len,instruction_difficulty\n1,2\n")), InputError);
  EXPECT_THROW(read_alpaca_gamed(write("std_delta_len,instruction_difficulty,preference\n1,2,3\n")), InputError);
}

TEST(AlpacaEvalTest, FitThatCannotBeMadeThrows) {
  AlpacaAnnotations annotations = {.preferences = {1.0, 2.0}, .baseline_lengths = {3, 4}, .model_lengths = {1, 2}};
  const std::vector<double> difficulty = {0.0, 0.0};
  const AlpacaGamed gamed = {.std_delta_len = {1.0}, .difficulty = {0.0}, .preferences = {0.5}};
  EXPECT_THROW(alpaca_length_controlled(annotations, difficulty, gamed), InputError);  // one length difference
  annotations.model_lengths[0] = 7;
  EXPECT_THROW(alpaca_length_controlled(annotations, {difficulty.data(), 1}, gamed), InputError);  // more rows
  annotations.preferences = {NAN, -1.0};
  EXPECT_THROW(alpaca_length_controlled(annotations, difficulty, gamed), InputError);
  EXPECT_THROW(alpaca_win_rate(annotations), InputError);
}

/// Published judgements of AlpacaEval models, kept beside the checkout.
std::filesystem::path published() {
  return std::filesystem::path(SAO_SOURCE_DIR).parent_path() / "shared" / "alpaca-eval";
}

using CsvRow = std::map<std::string, std::string>;
std::vector<CsvRow> read_rows(const std::filesystem::path& path) {
  std::ifstream file(path);
  std::string line;
  const auto split = [&] {
    std::vector<std::string> fields;
    std::stringstream stream(line);
    for (std::string field; std::getline(stream, field, ',');) fields.push_back(field);
    return fields;
  };
  std::getline(file, line);
  const auto names = split();
  std::vector<CsvRow> rows;
  while (std::getline(file, line)) {
    const auto fields = split();
    CsvRow row;
    for (std::size_t i = 0; i < fields.size(); ++i) row[names[i]] = fields[i];
    rows.push_back(std::move(row));
  }
  return rows;
}

AlpacaAnnotations read_compact(const std::filesystem::path& path) {
  AlpacaAnnotations annotations;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    const auto row = nlohmann::json::parse(line);
    annotations.preferences.push_back(row["preference"].is_null() ? NAN : row["preference"].get<double>());
    annotations.baseline_lengths.push_back(row["len_1"].get<double>());
    annotations.model_lengths.push_back(row["len_2"].get<double>());
  }
  return annotations;
}

TEST(AlpacaEvalTest, ReproducesThePublishedLeaderboard) {
  if (!std::filesystem::exists(published())) GTEST_SKIP() << "no published judgements at " << published();
  const auto difficulty = read_alpaca_difficulty(published() / "instruction_difficulty.csv");
  const auto gamed = read_alpaca_gamed(published() / "df_gamed_reconstructed.csv");
  std::size_t fitted = 0;
  sao::testing::ParityResult plain_report = {.area = "evaluation",
                                             .subject = "AlpacaEval leaderboard",
                                             .what = "WR, SE, discrete WR, percent",
                                             .tolerance = 1e-9};
  sao::testing::ParityResult published_report = {.area = "evaluation",
                                                 .subject = "AlpacaEval leaderboard",
                                                 .what = "LC win rate as published, at the published C, percent",
                                                 .tolerance = 0.02};
  sao::testing::ParityResult exact_report = {
      .area = "evaluation",
      .subject = "AlpacaEval leaderboard",
      .what = "LC win rate and SE, the exact optimum at the published C, percent",
      .tolerance = 1e-6};
  sao::testing::ParityResult chosen_report = {.area = "evaluation",
                                              .subject = "AlpacaEval leaderboard",
                                              .what = "LC win rate and SE at the C of cross-validation, percent",
                                              .tolerance = 1e-6};
  for (const CsvRow& expected : read_rows(published() / "expected.csv")) {
    const auto note = [&](sao::testing::ParityResult& report, double found, double wanted) {
      ++report.compared;
      if (std::abs(found - wanted) <= report.worst) return;
      report.worst = std::abs(found - wanted);
      report.worst_case = expected.at("model");
    };
    SCOPED_TRACE(expected.at("model"));
    const auto number = [&](const std::string& name) { return std::stod(expected.at(name)); };
    const auto annotations = read_compact(published() / "models" / expected.at("file"));
    const AlpacaWinRate plain = alpaca_win_rate(annotations);
    EXPECT_NEAR(plain.win_rate, number("lb_win_rate"), 1e-9);
    EXPECT_NEAR(plain.standard_error, number("lb_standard_error"), 1e-9);
    EXPECT_NEAR(plain.discrete_win_rate, number("lb_discrete_win_rate"), 1e-9);
    note(plain_report, plain.win_rate, number("lb_win_rate"));
    note(plain_report, plain.standard_error, number("lb_standard_error"));
    note(plain_report, plain.discrete_win_rate, number("lb_discrete_win_rate"));
    EXPECT_EQ(plain.n, number("lb_n_total"));
    EXPECT_EQ(plain.n_wins, number("lb_n_wins"));
    EXPECT_EQ(plain.n_wins_base, number("lb_n_wins_base"));
    EXPECT_EQ(plain.n_draws, number("lb_n_draws"));
    if (expected.at("is_baseline") == "1") continue;

    const auto at_c = alpaca_length_controlled(annotations, difficulty, gamed, {.c = number("C_pub")});
    EXPECT_NEAR(at_c.length_controlled_winrate, number("ex_lc"), 1e-6);
    EXPECT_NEAR(at_c.lc_standard_error, number("ex_lc_se"), 1e-6);
    EXPECT_NEAR(at_c.length_controlled_winrate, number("lb_lc"), 0.02);
    note(exact_report, at_c.length_controlled_winrate, number("ex_lc"));
    note(exact_report, at_c.lc_standard_error, number("ex_lc_se"));
    note(published_report, at_c.length_controlled_winrate, number("lb_lc"));
    for (const auto& [legacy, name] : {std::pair{false, "cvS"}, std::pair{true, "cvL"}}) {
      const auto chosen = alpaca_length_controlled(annotations, difficulty, gamed, {.legacy_folds = legacy});
      EXPECT_NEAR(chosen.c / number(std::string(name) + "_C"), 1.0, 1e-9) << name;
      EXPECT_NEAR(chosen.length_controlled_winrate, number(std::string(name) + "_lc"), 1e-6) << name;
      EXPECT_NEAR(chosen.lc_standard_error, number(std::string(name) + "_lc_se"), 1e-6) << name;
      note(chosen_report, chosen.length_controlled_winrate, number(std::string(name) + "_lc"));
      note(chosen_report, chosen.lc_standard_error, number(std::string(name) + "_lc_se"));
    }
    ++fitted;
  }
  EXPECT_GE(fitted, 11U);
  for (const auto& report : {plain_report, exact_report, chosen_report, published_report}) {
    sao::testing::report_parity(report);
  }
}

TEST(AlpacaEvalTest, ReadsPublishedAnnotations) {
  if (!std::filesystem::exists(published())) GTEST_SKIP() << "no published judgements at " << published();
  std::size_t files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(published() / "annotations")) {
    SCOPED_TRACE(entry.path().string());
    const auto full = read_alpaca_annotations(entry.path());
    const auto compact = read_compact(published() / "models" / (entry.path().stem().string() + ".jsonl"));
    EXPECT_EQ(full.baseline_lengths, compact.baseline_lengths);
    EXPECT_EQ(full.model_lengths, compact.model_lengths);
    ASSERT_EQ(full.preferences.size(), compact.preferences.size());
    for (std::size_t i = 0; i < full.preferences.size(); ++i) {
      EXPECT_TRUE(full.preferences[i] == compact.preferences[i] ||
                  (std::isnan(full.preferences[i]) && std::isnan(compact.preferences[i])));
    }
    ++files;
  }
  EXPECT_EQ(files, 4U);
}

}  // namespace
}  // namespace sao

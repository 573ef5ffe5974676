// SPDX-License-Identifier: Apache-2.0
#include "sao/eval/win_rate.h"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <vector>

#include "eval/logistic.h"
#include "sao/base/error.h"
#include "sao/base/seed.h"
#include "support/paths.h"

namespace sao {
namespace {

TEST(WinRateTest, CountsTiesAsHalves) {
  const WinRate rate = win_rate(std::vector<double>{1.0, 0.8, 0.5, 0.0, NAN});
  EXPECT_EQ(rate.n, 4);
  EXPECT_NEAR(rate.win_rate, 2.3 / 4.0, 1e-15);
  EXPECT_NEAR(rate.discrete_win_rate, 2.5 / 4.0, 1e-15);
  EXPECT_EQ(rate.wins, 2);
  EXPECT_EQ(rate.ties, 1);
  EXPECT_EQ(rate.losses, 1);
  double squares = 0;
  for (double x : {1.0, 0.8, 0.5, 0.0}) squares += (x - 0.575) * (x - 0.575);
  EXPECT_NEAR(rate.standard_error, std::sqrt(squares / 3.0 / 4.0), 1e-15);
}

TEST(WinRateTest, NothingIsAHalf) {
  EXPECT_EQ(win_rate({}).win_rate, 0.5);
  EXPECT_EQ(win_rate(std::vector<double>{NAN}).n, 0);
  EXPECT_EQ(length_controlled_win_rate({}, {}, {}).win_rate, 0.5);
}

TEST(WinRateTest, BadInputThrows) {
  const std::vector<double> one = {0.5};
  const std::vector<double> two = {1.0, 2.0};
  EXPECT_THROW(win_rate(two), InputError);
  EXPECT_THROW(equal_length_win_rate(one, two, two), InputError);
  EXPECT_THROW(length_controlled_win_rate(one, two, one), InputError);
  EXPECT_THROW(length_controlled_win_rate(one, std::vector<double>{-1.0}, one), InputError);
  EXPECT_THROW(length_controlled_win_rate(one, one, one, {.confidence = 1.0}), InputError);
}

TEST(LengthControlTest, MatchesSciPy) {
  std::ifstream file(sao::testing::golden("eval") / "length_control.json");
  for (const auto& expected : nlohmann::json::parse(file)) {
    SCOPED_TRACE(expected["name"].get<std::string>());
    const auto number = [&](const char* name) { return expected[name].get<double>(); };
    const auto list = [&](const char* name) { return expected[name].get<std::vector<double>>(); };
    const auto y = list("preferences");
    const auto model = list("model_lengths");
    const auto baseline = list("baseline_lengths");
    const auto controlled = length_controlled_win_rate(y, model, baseline, {.bootstrap = 0});
    EXPECT_NEAR(controlled.win_rate, number("win_rate"), 1e-9);
    EXPECT_NEAR(controlled.intercept, number("intercept"), 1e-6);
    EXPECT_NEAR(controlled.length_coefficient, number("length_coefficient"), 1e-6);
    EXPECT_NEAR(controlled.standard_error, number("standard_error"), 1e-9);
    EXPECT_NEAR(controlled.high, std::min(1.0, controlled.win_rate + 1.959963984540054 * controlled.standard_error),
                1e-12);
    const WinRate plain = win_rate(y);
    EXPECT_NEAR(plain.win_rate, expected["plain"]["win_rate"].get<double>(), 1e-12);
    EXPECT_NEAR(plain.standard_error, expected["plain"]["standard_error"].get<double>(), 1e-12);
    EXPECT_NEAR(plain.discrete_win_rate, expected["plain"]["discrete_win_rate"].get<double>(), 1e-12);
    const WinRate equal = equal_length_win_rate(y, model, baseline);
    EXPECT_EQ(equal.n, expected["equal_n"].get<std::int64_t>());
    EXPECT_NEAR(equal.win_rate, number("equal_win_rate"), 1e-12);
  }
}

/// Judgements of a model that is no better but longer, before a judge that likes length.
struct Judgements {
  std::vector<double> y, model, baseline;
  explicit Judgements(std::uint64_t seed, std::size_t n, double quality, double liking) {
    const Seed s{seed};
    for (std::size_t i = 0; i < n; ++i) {
      baseline.push_back(100.0 + 400.0 * uniform(s.fork("length"), i));
      model.push_back(baseline.back() + 200.0 * normal(s.fork("difference"), i) + 60.0);
      if (model.back() < 0.0) model.back() = 0.0;
      const double p = detail::sigmoid(quality + liking * std::tanh((model.back() - baseline.back()) / 200.0));
      y.push_back(uniform(s.fork("verdict"), i) < p ? 1.0 : 0.0);
    }
  }
};

TEST(LengthControlTest, TakesOutAJudgesLikingForLength) {
  const Judgements judgements(4, 4000, 0.0, 2.0);
  EXPECT_GT(win_rate(judgements.y).win_rate, 0.55);
  const auto controlled =
      length_controlled_win_rate(judgements.y, judgements.model, judgements.baseline, {.bootstrap = 200});
  EXPECT_NEAR(controlled.win_rate, 0.5, 0.03);
  EXPECT_LT(controlled.length_coefficient, -1.5);
  // At zero length difference, swapping the two models gives the complement.
  std::vector<double> flipped;
  for (double y : judgements.y) flipped.push_back(1.0 - y);
  const auto swapped = length_controlled_win_rate(flipped, judgements.baseline, judgements.model, {.bootstrap = 0});
  EXPECT_NEAR(swapped.win_rate, 1.0 - controlled.win_rate, 1e-9);
}

TEST(LengthControlTest, BootstrapAgreesWithTheStandardErrorAndTheSeed) {
  const Judgements judgements(5, 500, 0.4, 1.0);
  const auto get = [&](std::uint64_t seed) {
    return length_controlled_win_rate(judgements.y, judgements.model, judgements.baseline,
                                      {.bootstrap = 1000, .seed = Seed{seed}});
  };
  const auto one = get(1);
  EXPECT_LT(one.low, one.win_rate);
  EXPECT_GT(one.high, one.win_rate);
  EXPECT_NEAR((one.high - one.low) / (2.0 * 1.96), one.standard_error, 0.15 * one.standard_error);
  EXPECT_EQ(get(1).low, one.low);
  EXPECT_NE(get(2).low, one.low);
}

TEST(LengthControlTest, IntervalCoversTheTruth) {
  // 95 % of intervals hold sigma(0.3); of 200, fewer than 178 would be four standard deviations below.
  int covered = 0;
  constexpr int kWorlds = 200;
  for (std::uint64_t world = 0; world < kWorlds; ++world) {
    const Judgements judgements(100 + world, 200, 0.3, 1.0);
    const auto controlled =
        length_controlled_win_rate(judgements.y, judgements.model, judgements.baseline, {.bootstrap = 0});
    const double truth = detail::sigmoid(0.3);
    covered += controlled.low <= truth && truth <= controlled.high ? 1 : 0;
  }
  EXPECT_GT(covered, 178);
}

}  // namespace
}  // namespace sao

// SPDX-License-Identifier: Apache-2.0
#include "sao/base/seed.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>

#include "base/philox.h"
#include "sao/base/error.h"
#include "sao/base/statistics.h"

namespace sao {
namespace {

// The known-answer vectors that Random123 publishes for philox4x32 with 10 rounds.
TEST(Seed, PhiloxGivesThePublishedAnswers) {
  using detail::philox4x32_10;
  using detail::PhiloxCounter;
  EXPECT_EQ(philox4x32_10({0, 0, 0, 0}, {0, 0}), (PhiloxCounter{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(philox4x32_10({0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, {0xffffffff, 0xffffffff}),
            (PhiloxCounter{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox4x32_10({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (PhiloxCounter{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Seed, BitsAreTheFirstTwoWordsOfPhilox) {
  EXPECT_EQ(random_bits(Seed{0}, 0), 0xe169c58d6627e8d5ULL);
  const std::uint64_t position = 0x85a308d3243f6a88ULL;
  const auto words = detail::philox4x32_10({0x243f6a88, 0x85a308d3, 0, 0}, {0x00000007, 0x00000001});
  EXPECT_EQ(random_bits(Seed{0x0000000100000007ULL}, position), (std::uint64_t{words[1]} << 32) | words[0]);
}

// Worked out in Python from the header's words. A change of these numbers changes every run anyone has made.
TEST(Seed, StreamsStayWhatTheyAre) {
  EXPECT_EQ(Seed{42}.fork("answers").value, 1295526983899244808ULL);
  EXPECT_EQ(Seed{42}.fork(17).value, 6277950667713450570ULL);
}

TEST(Seed, ForksDifferByNameByIndexAndByOrder) {
  const Seed seed{42};
  std::set<std::uint64_t> values = {seed.value};
  for (const char* name : {"", "prompts", "answers", "judge", "0", "1"}) values.insert(seed.fork(name).value);
  for (std::uint64_t i = 0; i < 1000; ++i) values.insert(seed.fork(i).value);
  values.insert(seed.fork("a").fork("b").value);
  values.insert(seed.fork("b").fork("a").value);
  values.insert(seed.fork("ab").value);
  values.insert(seed.fork(3).fork("a").value);
  values.insert(seed.fork("a").fork(3).value);
  EXPECT_EQ(values.size(), 1u + 6 + 1000 + 5);
}

TEST(Seed, UniformIsInRangeWithTheMomentsOfTheUniform) {
  std::vector<double> values;
  for (std::uint64_t i = 0; i < 20000; ++i) values.push_back(uniform(Seed{7}, i));
  EXPECT_GE(*std::min_element(values.begin(), values.end()), 0.0);
  EXPECT_LT(*std::max_element(values.begin(), values.end()), 1.0);
  EXPECT_NEAR(mean(values), 0.5, 5 * std::sqrt(1.0 / 12 / 20000));
  EXPECT_NEAR(standard_deviation(values), std::sqrt(1.0 / 12), 0.005);
}

TEST(Seed, UniformBelowHitsEveryValueEvenly) {
  constexpr std::uint64_t kSides = 6;
  std::vector<double> counts(kSides);
  for (std::uint64_t i = 0; i < 60000; ++i) ++counts.at(uniform_below(Seed{3}, i, kSides));
  double chi_squared = 0.0;
  for (const double count : counts) chi_squared += (count - 10000) * (count - 10000) / 10000;
  EXPECT_LT(chi_squared, 20.5);  // 99.9 % of 5 degrees of freedom
  EXPECT_EQ(uniform_below(Seed{3}, 0, 1), 0u);
  EXPECT_THROW(uniform_below(Seed{3}, 0, 0), InputError);
}

TEST(Seed, NormalHasItsMoments) {
  std::vector<double> values;
  for (std::uint64_t i = 0; i < 20000; ++i) values.push_back(normal(Seed{11}, i));
  EXPECT_NEAR(mean(values), 0.0, 5 / std::sqrt(20000.0));
  EXPECT_NEAR(standard_deviation(values), 1.0, 0.03);
  const auto beyond_two = std::count_if(values.begin(), values.end(), [](double x) { return std::abs(x) > 2; });
  EXPECT_NEAR(static_cast<double>(beyond_two) / 20000, 0.0455, 0.008);
}

TEST(Seed, PermutationHoldsEveryIndexOnceAndIsEven) {
  std::vector<double> first(5);
  for (std::uint64_t i = 0; i < 20000; ++i) {
    std::vector<std::size_t> order = permutation(Seed{5}.fork(i), 5);
    ++first.at(order[0]);
    std::sort(order.begin(), order.end());
    ASSERT_EQ(order, (std::vector<std::size_t>{0, 1, 2, 3, 4}));
  }
  for (const double count : first) EXPECT_NEAR(count, 4000, 300);
  EXPECT_TRUE(permutation(Seed{5}, 0).empty());
}

}  // namespace
}  // namespace sao

// SPDX-License-Identifier: Apache-2.0
#include "sao/base/statistics.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "sao/base/error.h"

namespace sao {
namespace {

TEST(Statistics, OfKnownNumbers) {
  const std::vector<double> values = {2, 4, 4, 4, 5, 5, 7, 9};  // mean 5, sum of squared deviations 32
  EXPECT_DOUBLE_EQ(mean(values), 5.0);
  EXPECT_DOUBLE_EQ(standard_deviation(values), std::sqrt(32.0 / 7.0));
  EXPECT_DOUBLE_EQ(standard_error(values), std::sqrt(32.0 / 7.0 / 8.0));
}

TEST(Statistics, OfFewValues) {
  EXPECT_TRUE(std::isnan(mean({})));
  const std::vector<double> one = {3};
  EXPECT_EQ(mean(one), 3.0);
  EXPECT_EQ(standard_deviation(one), 0.0);
  EXPECT_EQ(standard_error({}), 0.0);
  EXPECT_EQ(correlation(one, one), 0.0);
}

TEST(Statistics, Correlation) {
  const std::vector<double> x = {1, 2, 3, 4};
  const std::vector<double> down = {8, 6, 4, 2};
  const std::vector<double> y = {1, 3, 2, 4};
  EXPECT_DOUBLE_EQ(correlation(x, x), 1.0);
  EXPECT_DOUBLE_EQ(correlation(x, down), -1.0);
  EXPECT_DOUBLE_EQ(correlation(x, y), 0.8);
  const std::vector<double> constant = {0.1, 0.1, 0.1, 0.1};  // whose mean is not exactly 0.1 in binary
  EXPECT_EQ(correlation(x, constant), 0.0);
  EXPECT_THROW(correlation(x, {}), InputError);
}

}  // namespace
}  // namespace sao

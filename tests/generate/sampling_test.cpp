// SPDX-License-Identifier: Apache-2.0
#include "sao/generate/sampling.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "sao/base/error.h"
#include "sao/generate/generator.h"

namespace sao {
namespace {

using ::testing::HasSubstr;

TEST(Sampling, NamesEveryFieldOutOfRange) {
  EXPECT_NO_THROW(validate(SamplingOptions{}));
  EXPECT_NO_THROW(validate({.temperature = 0.0, .top_k = 5, .top_p = 0.01, .min_p = 1.0, .max_new_tokens = 1}));
  try {
    validate({.temperature = -1.0, .top_k = -2, .top_p = 0.0, .min_p = 2.0, .max_new_tokens = 0});
    FAIL();
  } catch (const InputError& error) {
    for (const char* field : {"temperature is -1", "top_k is -2", "top_p is 0", "min_p is 2", "max_new_tokens is 0"}) {
      EXPECT_THAT(error.what(), HasSubstr(field));
    }
  }
  EXPECT_THROW(validate({.temperature = std::nan("")}), InputError);
  EXPECT_THROW(validate({.temperature = INFINITY}), InputError);
  EXPECT_THROW(validate({.top_p = 1.01}), InputError);
}

TEST(Sampling, FinishReasonsHaveNames) {
  EXPECT_EQ(to_string(FinishReason::kStop), "stop");
  EXPECT_EQ(to_string(FinishReason::kLength), "length");
}

}  // namespace
}  // namespace sao

// SPDX-License-Identifier: Apache-2.0
#include "sao/base/error.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace sao {
namespace {

TEST(Error, CheckThrowsInternalErrorThatNamesTheCondition) {
  const int one = 1;
  EXPECT_NO_THROW(SAO_CHECK(one == 1));
  try {
    SAO_CHECK(one == 2);
    FAIL() << "no exception";
  } catch (const InternalError& error) {
    EXPECT_THAT(error.what(), testing::AllOf(testing::HasSubstr("one == 2"), testing::HasSubstr("error_test.cpp"),
                                             testing::HasSubstr("bug in libsao")));
  }
}

TEST(Error, EveryKindIsAnErrorButNotEachOther) {
  EXPECT_THROW(throw InputError("x"), Error);
  EXPECT_THROW(throw ResourceError("x"), Error);
  EXPECT_THROW(throw InternalError("x"), std::runtime_error);
  static_assert(!std::is_base_of_v<InputError, ResourceError>);
}

}  // namespace
}  // namespace sao

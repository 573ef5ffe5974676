// SPDX-License-Identifier: Apache-2.0
#include "sao/base/device.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "sao/base/error.h"

namespace sao {
namespace {

TEST(Device, DtypeNamesGoBothWays) {
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat16, DType::kFloat64}) {
    EXPECT_EQ(parse_dtype(to_string(dtype)), dtype);
  }
  EXPECT_EQ(to_string(DType::kBFloat16), "bfloat16");
}

TEST(Device, UnknownDtypeIsNamedWithWhatIsAccepted) {
  try {
    parse_dtype("int8");
    FAIL() << "no exception";
  } catch (const InputError& error) {
    EXPECT_THAT(error.what(), testing::AllOf(testing::HasSubstr("\"int8\""), testing::HasSubstr("bfloat16")));
  }
}

TEST(Device, DevicesGetTheirCanonicalName) {
  EXPECT_EQ(parse_device("cpu"), "cpu");
  EXPECT_EQ(parse_device("cuda"), "cuda:0");
  EXPECT_EQ(parse_device("cuda:3"), "cuda:3");
  EXPECT_EQ(parse_device("cuda:007"), "cuda:7");
}

TEST(Device, OtherDevicesAreRefused) {
  for (const char* text :
       {"", "gpu", "cuda:", "cuda:x", "cuda:1x", "cuda:-1", "cuda:128", "cuda:99999999999", "CPU", "cpu:0"}) {
    EXPECT_THROW(parse_device(text), InputError) << text;
  }
}

}  // namespace
}  // namespace sao

// SPDX-License-Identifier: Apache-2.0
// sao/sao.h includes every public header, and none of them brings more of LibTorch than ATen/core/Tensor.h: the macros
// make ATen's own headers stop the build on a heavier one.
#define AT_PER_OPERATOR_HEADERS
#define TORCH_ASSERT_ONLY_METHOD_OPERATORS
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>

#include "sao/sao.h"

namespace {

TEST(Umbrella, IncludesEveryPublicHeader) {
  const std::filesystem::path include = std::filesystem::path(SAO_SOURCE_DIR) / "libsao" / "include";
  std::ifstream stream(include / "sao" / "sao.h");
  std::stringstream text;
  text << stream.rdbuf();
  for (const auto& entry : std::filesystem::recursive_directory_iterator(include)) {
    const std::string name = std::filesystem::relative(entry.path(), include).string();
    if (!entry.is_regular_file() || name == "sao/sao.h") continue;
    EXPECT_NE(text.str().find("#include \"" + name + "\""), std::string::npos) << name << " is missing";
  }
}

}  // namespace

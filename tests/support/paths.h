// SPDX-License-Identifier: Apache-2.0
// Where tests find fixtures, and a folder of their own that goes when they end.
#pragma once

#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <string>

namespace sao::testing {

/// tests/golden/<set>: fixtures that live in the repository.
inline std::filesystem::path golden(const std::string& set) {
  return std::filesystem::path(SAO_SOURCE_DIR) / "tests" / "golden" / set;
}

/// Fixtures made by the reference implementations, kept beside the checkout; may be absent.
inline std::filesystem::path parity(const std::string& set) {
  return std::filesystem::path(SAO_SOURCE_DIR).parent_path() / "shared" / "parity" / set;
}

/// A fresh folder, removed with everything in it when the object goes.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "sao-test-XXXXXX").string();
    path_ = mkdtemp(pattern.data());
  }
  ~TemporaryFolder() { std::filesystem::remove_all(path_); }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path operator/(const std::string& name) const { return path_ / name; }

 private:
  std::filesystem::path path_;
};

}  // namespace sao::testing

/// Skips the test, with the reason, where the parity fixtures are not beside the checkout.
#define SAO_NEED_PARITY(set)                                                             \
  do {                                                                                   \
    if (!std::filesystem::exists(sao::testing::parity(set)))                             \
      GTEST_SKIP() << "no reference fixtures at " << sao::testing::parity(set).string(); \
  } while (false)

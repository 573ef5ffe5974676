// SPDX-License-Identifier: Apache-2.0
// The corpus of every target, whole and damaged; `./dev fuzz` goes on from here with libFuzzer.
#include <gtest/gtest.h>

#include <algorithm>
#include <ostream>

#include "fuzz/mutations.h"
#include "fuzz/targets.h"
#include "sao/io/files.h"
#include "support/paths.h"

namespace sao::fuzz {

static void PrintTo(const Target& target, std::ostream* out) { *out << target.name; }  // where GoogleTest finds it

namespace {

class Fuzz : public ::testing::TestWithParam<Target> {
 protected:
  Fuzz() {
    const std::filesystem::path folder = std::filesystem::path(SAO_SOURCE_DIR) / "tests/fuzz/corpus" / GetParam().name;
    for (const auto& entry : std::filesystem::directory_iterator(folder)) files_.push_back(entry.path());
    std::ranges::sort(files_);
    for (const std::filesystem::path& file : files_) corpus_.push_back(read_file(file));
  }

  std::vector<std::filesystem::path> files_;
  std::vector<std::string> corpus_;
};

TEST_P(Fuzz, TheCorpusIsAnsweredOrRefused) {
  ASSERT_FALSE(corpus_.empty());
  for (std::size_t i = 0; i < corpus_.size(); ++i) {
    EXPECT_NO_THROW(GetParam().run(corpus_[i])) << files_[i].string();
  }
}

TEST_P(Fuzz, DamagedFilesAreAnsweredOrRefused) {
  ASSERT_FALSE(corpus_.empty());
  constexpr int kInputs = 500;
  Mutator mutator(corpus_, 1);
  for (int i = 0; i < kInputs; ++i) {
    const std::string input = mutator.next();
    ASSERT_NO_THROW(GetParam().run(input)) << "input " << i << ":\n" << input;
  }
}

INSTANTIATE_TEST_SUITE_P(Targets, Fuzz, ::testing::ValuesIn(kTargets),
                         [](const auto& target) { return std::string(target.param.name); });

}  // namespace
}  // namespace sao::fuzz

// SPDX-License-Identifier: Apache-2.0
#include "sao/synth/diversity.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "sao/base/error.h"
#include "support/paths.h"

namespace sao {
namespace {

TEST(DiversityTest, MatchesNltkAndTheDefinitions) {
  std::ifstream file(sao::testing::golden("synth") / "diversity.json");
  const auto cases = nlohmann::json::parse(file);
  ASSERT_EQ(cases.size(), 6U);
  for (const auto& expected : cases) {
    SCOPED_TRACE(expected["name"].get<std::string>());
    const auto texts = expected["texts"].get<std::vector<std::string>>();
    EXPECT_NEAR(self_bleu(texts), expected["self_bleu"].get<double>(), 1e-12);
    EXPECT_NEAR(exact_duplicate_share(texts), expected["exact_duplicate_share"].get<double>(), 1e-12);
    EXPECT_NEAR(near_duplicate_share(texts), expected["near_duplicate_share"].get<double>(), 1e-12);
    EXPECT_NEAR(repeated_ngram_share(texts), expected["repeated_4gram_share"].get<double>(), 1e-12);
    const Diversity all = measure_diversity(texts);
    for (std::size_t n = 1; n <= 4; ++n) {
      EXPECT_NEAR(distinct_ngram_share(texts, static_cast<std::int64_t>(n)), expected["distinct"][n - 1].get<double>(),
                  1e-12);
      EXPECT_EQ(all.distinct[n - 1], distinct_ngram_share(texts, static_cast<std::int64_t>(n)));
    }
    EXPECT_EQ(all.self_bleu, self_bleu(texts));
    EXPECT_EQ(all.near_duplicate_share, near_duplicate_share(texts));
    EXPECT_EQ(all.texts, static_cast<std::int64_t>(texts.size()));
  }
}

TEST(DiversityTest, ExtremesAreExact) {
  const std::vector<std::string> copies(5, "one two three four five");
  const Diversity same = measure_diversity(copies);
  EXPECT_EQ(same.exact_duplicate_share, 0.8);
  EXPECT_EQ(same.near_duplicate_share, 1.0);
  EXPECT_EQ(same.repeated_ngram_share, 1.0);
  EXPECT_NEAR(same.self_bleu, 1.0, 1e-15);
  EXPECT_EQ(same.mean_words, 5.0);
  const Diversity none = measure_diversity({});
  EXPECT_EQ(none.texts, 0);
  EXPECT_EQ(none.self_bleu, 0.0);
  EXPECT_EQ(none.distinct[0], 0.0);
}

TEST(DiversityTest, DrawsTextsForSelfBleuBySeed) {
  std::vector<std::string> texts;
  for (int i = 0; i < 60; ++i) {
    texts.push_back("the cat number " + std::to_string(i % 20) + " sat on the mat number " + std::to_string(i % 7));
  }
  EXPECT_EQ(self_bleu(texts, 20, Seed{1}), self_bleu(texts, 20, Seed{1}));
  EXPECT_NE(self_bleu(texts, 20, Seed{1}), self_bleu(texts, 20, Seed{2}));
  EXPECT_LT(self_bleu(texts, 20, Seed{1}), self_bleu(texts));  // fewer references
  std::vector<std::string> reordered = texts;
  std::reverse(reordered.begin(), reordered.end());
  EXPECT_NEAR(self_bleu(reordered), self_bleu(texts), 1e-12);
}

TEST(DiversityTest, OptionsOutOfRangeThrow) {
  const std::vector<std::string> texts = {"a", "b"};
  EXPECT_THROW(measure_diversity(texts, {.near_duplicate_threshold = 0.1}), InputError);
  EXPECT_THROW(measure_diversity(texts, {.repeated_ngram = 0}), InputError);
  EXPECT_THROW(measure_diversity(texts, {.self_bleu_texts = 1}), InputError);
}

}  // namespace
}  // namespace sao

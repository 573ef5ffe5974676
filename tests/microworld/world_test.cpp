// SPDX-License-Identifier: Apache-2.0
#include "world.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <set>
#include <sstream>

#include "templates.h"

namespace microworld {
namespace {

double mean_words(const std::vector<std::string>& texts) {
  double words = 0.0;
  for (const std::string& t : texts) words += 1.0 + std::ranges::count(t, ' ');
  return words / static_cast<double>(texts.size());
}

TEST(World, DocumentIsAPureFunctionOfSeedAndIndex) {
  for (std::uint64_t i = 0; i < 500; ++i) {
    const Document a = compose_document(7, i);
    compose_document(8, i + 1);
    const Document b = compose_document(7, i);
    ASSERT_EQ(a.turns.size(), b.turns.size());
    for (std::size_t t = 0; t < a.turns.size(); ++t) EXPECT_EQ(a.turns[t].text, b.turns[t].text);
  }
}

TEST(World, HeldOutRequestsAreNeverTrainedOn) {
  std::set<std::string> held_out;
  for (std::uint64_t i = 0; i < 3000; ++i) {
    held_out.insert(compose_request(9, i, compose_persona(9, i, Split::kHeldOut), Split::kHeldOut).text);
  }
  for (std::uint64_t i = 0; i < 20000; ++i) {
    const Document d = compose_document(10, i);
    for (const Turn& turn : d.turns) EXPECT_FALSE(held_out.contains(turn.text)) << turn.text;
    if (d.kind != DocumentKind::kJudge) continue;
    const std::string& text = d.turns[0].text;
    const std::size_t from = text.find("Request: ") + 9;
    EXPECT_FALSE(held_out.contains(text.substr(from, text.find('\n', from) - from)));
  }
}

TEST(World, PersonasOfTheTwoSplitsAreDisjoint) {
  std::set<std::pair<int, int>> train;
  for (std::uint64_t i = 0; i < 5000; ++i) {
    const Persona p = compose_persona(11, i, Split::kTrain);
    train.insert({p.job, p.hobby});
  }
  for (std::uint64_t i = 0; i < 5000; ++i) {
    const Persona p = compose_persona(11, i, Split::kHeldOut);
    EXPECT_FALSE(train.contains({p.job, p.hobby}));
  }
}

TEST(World, PersonasRepeatTheirRequestsFarLessThanUnguided) {
  std::set<std::string> guided;
  std::set<std::string> unguided;
  for (std::uint64_t i = 0; i < 1000; ++i) {
    const Persona p = compose_persona(12, i, Split::kHeldOut);
    guided.insert(compose_request(12, i, p, Split::kTrain).text);
    unguided.insert(compose_unguided(12, i).text);
  }
  EXPECT_LT(1000 - guided.size(), (1000 - unguided.size()) / 4);
}

TEST(World, LengthTellsLittleAboutQuality) {
  std::vector<std::string> clean;
  std::vector<std::string> flawed;
  for (std::uint64_t i = 0; i < 20000; ++i) {
    const Request r = compose_any_request(13, i, Split::kTrain);
    const Answer a = compose_mixed_answer(r, i);
    (a.flaws == 0 ? clean : flawed).push_back(a.text);
  }
  EXPECT_NEAR(mean_words(clean), mean_words(flawed), 1.0);
  EXPECT_NEAR(static_cast<double>(clean.size()) / 20000.0, 0.225, 0.02);
}

TEST(World, VerdictIsRightUpToTheNoise) {
  int right = 0;
  int first = 0;
  constexpr int kMany = 5000;
  for (std::uint64_t i = 0; i < kMany; ++i) {
    const Judgement j = compose_judgement(14, i, Split::kTrain);
    EXPECT_NE(score_of(j.first.flaws), score_of(j.second.flaws));
    EXPECT_EQ(j.first_is_better, score_of(j.first.flaws) > score_of(j.second.flaws));
    right += j.label_first == j.first_is_better ? 1 : 0;
    first += j.first_is_better ? 1 : 0;
  }
  EXPECT_NEAR(right / static_cast<double>(kMany), 0.95, 0.015);
  EXPECT_NEAR(first / static_cast<double>(kMany), 0.5, 0.03);
}

TEST(World, LabelSpanIsTheVerdict) {
  for (std::uint64_t i = 0; i < 300; ++i) {
    const Document d = compose_document(15, i);
    if (d.kind != DocumentKind::kJudge) continue;
    const Turn& t = d.turns[1];
    const std::string label =
        t.text.substr(static_cast<std::size_t>(t.label_begin), static_cast<std::size_t>(t.label_end - t.label_begin));
    EXPECT_TRUE(label == kJudgeFirst || label == kJudgeSecond) << label;
    EXPECT_TRUE(t.text.starts_with(kJudgePrefix));
  }
}

#ifdef MICROWORLD_DIR
TEST(World, TemplatesFileHasTheSameTexts) {
  std::ifstream in(std::string(MICROWORLD_DIR) + "/sao_templates.json");
  std::stringstream read;
  read << in.rdbuf();
  const std::string json = read.str();
  for (std::string text : {std::string(kPersonaTemplate), std::string(kUnguidedTemplate), std::string(kJudgeTemplate),
                           std::string(kJudgePrefix), std::string(kJudgeFirst), std::string(kJudgeSecond)}) {
    for (std::size_t at; (at = text.find('\n')) != std::string::npos;) text.replace(at, 1, "\\n");
    EXPECT_NE(json.find('"' + text + '"'), std::string::npos) << text;
  }
}
#endif

}  // namespace
}  // namespace microworld

// SPDX-License-Identifier: Apache-2.0
#include "sao/eval/alpaca_outputs.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "sao/eval/alpaca_eval.h"
#include "sao/io/files.h"
#include "support/fake_generator.h"
#include "support/message_of.h"

namespace sao {
namespace {

using sao::testing::message_of;
using ::testing::HasSubstr;

TEST(AlpacaOutputsTest, GoBothWaysAndPairByInstruction) {
  const sao::testing::TemporaryFolder folder;
  const std::vector<AlpacaOutput> ours = {{"Why?", "Because \xF0\x9F\x90\x95.", "ours", "helpful_base"},
                                          {"Why?", "No.", "ours", ""},
                                          {"When?", "", "ours", ""}};
  write_file_atomically(folder / "ours.json", alpaca_outputs_json(ours));
  const std::vector<AlpacaOutput> read = read_alpaca_outputs(folder / "ours.json");
  ASSERT_EQ(read.size(), 3U);
  EXPECT_EQ(read[0].output, ours[0].output);
  EXPECT_EQ(read[0].dataset, "helpful_base");
  EXPECT_EQ(read[2].generator, "ours");

  const std::vector<AlpacaOutput> base = {
      {"When?", "Now.", "base", ""}, {"Why?", "One.", "base", ""}, {"Why?", "No.", "base", ""}};
  const std::vector<AlpacaPair> pairs = pair_alpaca_outputs(read, base);
  EXPECT_EQ(pairs[0].baseline.output, "One.");
  EXPECT_EQ(pairs[1].baseline.output, "No.");
  EXPECT_EQ(pairs[2].baseline.output, "Now.");
  EXPECT_THAT(message_of([&] { pair_alpaca_outputs(base, {read.data(), 2}); }), HasSubstr("\"When?\""));

  // The judge prefers what the model said; empty and identical answers need no judge.
  sao::testing::FakeGenerator judge;
  judge.first_probability = [](const std::string& shown) {
    return shown.find("Because") < shown.find("One.") ? 0.9 : 0.2;
  };
  const std::vector<Verdict> verdicts = judge_pairs(judge, judge_items(pairs));
  write_file_atomically(folder / "annotations.json", alpaca_annotations_json(pairs, verdicts, "judge"));
  const auto rows = nlohmann::json::parse(read_file(folder / "annotations.json"));
  ASSERT_EQ(rows.size(), 3U);
  EXPECT_NEAR(rows[0]["preference"].get<double>(), 1.85, 1e-12);
  EXPECT_EQ(rows[1]["preference"], 1.5);
  EXPECT_EQ(rows[2]["preference"], 1.0);
  EXPECT_EQ(rows[0]["generator_1"], "base");
  EXPECT_EQ(rows[0]["output_2"], ours[0].output);
  const AlpacaAnnotations annotations = read_alpaca_annotations(folder / "annotations.json");
  EXPECT_EQ(annotations.model, "ours");
  EXPECT_NEAR(alpaca_win_rate(annotations).win_rate, 100.0 * (0.85 + 0.5 + 0.0) / 3.0, 1e-9);
}

TEST(AlpacaOutputsTest, BadFilesAreNamed) {
  const sao::testing::TemporaryFolder folder;
  const auto complaint = [&](const std::string& text) {
    write_file_atomically(folder / "file.json", text);
    return message_of([&] { read_alpaca_outputs(folder / "file.json"); });
  };
  EXPECT_THAT(complaint("[]"), HasSubstr("no rows"));
  EXPECT_THAT(complaint(R"([{"instruction": "a", "output": "b"}, {"instruction": "a"}])"),
              HasSubstr("file.json: row 2: no field \"output\""));
  EXPECT_THAT(complaint("[{"), HasSubstr("not valid JSON"));
}

}  // namespace
}  // namespace sao

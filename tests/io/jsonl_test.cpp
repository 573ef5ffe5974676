// SPDX-License-Identifier: Apache-2.0
#include "sao/io/jsonl.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "support/paths.h"

namespace sao {
namespace {

std::vector<std::string> lines_of(const std::string& text) {
  const testing::TemporaryFolder folder;
  std::ofstream(folder / "x.jsonl", std::ios::binary) << text;
  std::vector<std::string> lines;
  for_each_line(folder / "x.jsonl", [&](std::string_view line) { lines.emplace_back(line); });
  return lines;
}

TEST(Jsonl, LinesWithoutBlankOnes) {
  EXPECT_EQ(lines_of(""), std::vector<std::string>{});
  EXPECT_EQ(lines_of("a\nb\n"), (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(lines_of("a\n\n \t\r\nb"), (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(lines_of("a\r\nb\r\n"), (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(lines_of("\xEF\xBB\xBF{}\n"), std::vector<std::string>{"{}"});
}

TEST(Jsonl, LinesLongerThanThePieceThatIsRead) {
  const std::string big(300'000, 'b');
  EXPECT_EQ(lines_of("a\n" + big + "\nc\n" + big), (std::vector<std::string>{"a", big, "c", big}));
}

TEST(Jsonl, InputErrorGetsPathAndLine) {
  const testing::TemporaryFolder folder;
  std::ofstream(folder / "x.jsonl") << "good\n\nbad\n";
  try {
    for_each_line(folder / "x.jsonl", [](std::string_view line) {
      if (line == "bad") throw InputError("is bad");
    });
    FAIL() << "no exception";
  } catch (const InputError& error) {
    EXPECT_EQ(std::string(error.what()), (folder / "x.jsonl").string() + ":3: is bad");
  }
}

TEST(Jsonl, MissingFileIsNamed) {
  try {
    for_each_line("/nowhere/x.jsonl", [](std::string_view) {});
    FAIL() << "no exception";
  } catch (const InputError& error) {
    EXPECT_THAT(error.what(), ::testing::HasSubstr("/nowhere/x.jsonl"));
  }
  EXPECT_THROW(for_each_line("/tmp", [](std::string_view) {}), InputError);
}

struct Word {
  std::string text = {};
};
void from_json_line(std::string_view line, Word& word) { word.text = line; }
std::string to_json_line(const Word& word) { return word.text; }

TEST(Jsonl, RecordsGoBothWays) {
  const testing::TemporaryFolder folder;
  std::ofstream(folder / "x.jsonl") << "a\nb\n";
  const std::vector<Word> words = read_jsonl<Word>(folder / "x.jsonl");
  ASSERT_EQ(words.size(), 2u);
  EXPECT_EQ(to_jsonl(words), "a\nb\n");
}

}  // namespace
}  // namespace sao

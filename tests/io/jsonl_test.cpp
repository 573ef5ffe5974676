// SPDX-License-Identifier: Apache-2.0
#include "sao/io/jsonl.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <functional>

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

TEST(Jsonl, AJsonListGivesItsElements) {
  EXPECT_EQ(lines_of(" [{\"a\": 1.5},\n {\"b\": \"\xC3\xA9\"}]\n"),
            (std::vector<std::string>{"{\"a\":1.5}", "{\"b\":\"\xC3\xA9\"}"}));
  EXPECT_EQ(lines_of("[]"), std::vector<std::string>{});
  EXPECT_EQ(lines_of("[" + std::string(200000, ' ') + "1]"), std::vector<std::string>{"1"});
  const testing::TemporaryFolder folder;
  std::ofstream(folder / "x.json") << "[1, 2]";
  const auto complaint = [&](const std::function<void(std::string_view)>& each) {
    try {
      for_each_line(folder / "x.json", each);
    } catch (const InputError& error) {
      return std::string(error.what());
    }
    return std::string("none");
  };
  EXPECT_THAT(complaint([](std::string_view line) {
                if (line == "2") throw InputError("two");
              }),
              ::testing::EndsWith("x.json: row 2: two"));
  std::ofstream(folder / "x.json") << "[1, 2";
  EXPECT_THAT(complaint([](std::string_view) {}), ::testing::HasSubstr("x.json: not valid JSON"));
}

TEST(Jsonl, OtherFormatsAreNamedWithTheCommandThatConvertsThem) {
  const auto complaint = [](const std::string& bytes) {
    try {
      lines_of(bytes);
    } catch (const InputError& error) {
      return std::string(error.what());
    }
    return std::string("none");
  };
  EXPECT_THAT(complaint("PAR1\x15"), ::testing::HasSubstr("a Parquet file, expected JSON Lines; convert it: python3"));
  EXPECT_THAT(complaint("ARROW1"), ::testing::HasSubstr("load_dataset('arrow'"));
  EXPECT_THAT(complaint("\x1F\x8B\x08"), ::testing::HasSubstr("unpack it: gzip -dc"));
  EXPECT_THAT(complaint("\x28\xB5\x2F\xFD"), ::testing::HasSubstr("unpack it: zstd -dc"));
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

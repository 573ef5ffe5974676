// SPDX-License-Identifier: Apache-2.0
#include "toml.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

#include "sao/base/error.h"

namespace sao::cli {
namespace {

std::map<std::string, std::string> values(const std::string& text) {
  std::map<std::string, std::string> all;
  for (const TomlEntry& entry : parse_toml(text, "x.toml")) all[entry.key] = entry.text;
  return all;
}

std::string complaint(const std::string& text) {
  try {
    parse_toml(text, "x.toml");
  } catch (const InputError& error) {
    return error.what();
  }
  return "none";
}

using Values = std::map<std::string, std::string>;

TEST(Toml, TablesKeysAndValues) {
  EXPECT_EQ(
      values("model = \"a/b\"  # where\n\n[train]\nepochs = 2\n[train.loss]\nname = 'simpo'\nbeta=10.0\n"),
      (Values{{"model", "a/b"}, {"train.epochs", "2"}, {"train.loss.name", "simpo"}, {"train.loss.beta", "10.0"}}));
  EXPECT_EQ(values("a.b.c = true\r\n\"q k\" = false\r\n"), (Values{{"a.b.c", "true"}, {"q k", "false"}}));
  EXPECT_EQ(values("[ a . b ]\nc = 1"), (Values{{"a.b.c", "1"}}));
  EXPECT_EQ(values("t = { x = 1, y.z = \"2\" }\nu = {}"), (Values{{"t.x", "1"}, {"t.y.z", "2"}}));
  EXPECT_EQ(values("\xEF\xBB\xBF# only a comment"), Values{});
}

TEST(Toml, Numbers) {
  EXPECT_EQ(values("a = 60_000\nb = -1\nc = 1e-6\nd = +3\ne = 5E+2"),
            (Values{{"a", "60000"}, {"b", "-1"}, {"c", "1e-6"}, {"d", "+3"}, {"e", "5E+2"}}));
}

TEST(Toml, Strings) {
  EXPECT_EQ(values(R"(a = "x # no comment, \"quoted\" \t\u00e9\\")").at("a"),
            "x # no comment, \"quoted\" \t\xC3\xA9\\");
  EXPECT_EQ(values(R"(a = 'C:\no\escape "x"')").at("a"), R"(C:\no\escape "x")");
  EXPECT_EQ(values("a = \"\"").at("a"), "");
  EXPECT_EQ(values("a = \"\"\"\none\ntwo \\\n   three\"\"\"").at("a"), "one\ntwo three");
  EXPECT_EQ(values("a = '''\nx'y'''").at("a"), "x'y");
  EXPECT_EQ(values(R"(a = "\U0001F600")").at("a"), "\xF0\x9F\x98\x80");
}

TEST(Toml, Lists) {
  EXPECT_EQ(values("a = [\"latin\", 'greek']\nb = [ 1,\n  2, # two\n]\nc = []"),
            (Values{{"a", "latin,greek"}, {"b", "1,2"}, {"c", ""}}));
}

TEST(Toml, EntriesKnowTheirLines) {
  const std::vector<TomlEntry> entries = parse_toml("# x\na = 1\n\n[t]\nb = '''\n\n'''\nc = 2", "x");
  ASSERT_EQ(entries.size(), 3u);
  EXPECT_EQ(entries[0].line, 2u);
  EXPECT_EQ(entries[1].line, 5u);
  EXPECT_EQ(entries[2].line, 8u);
}

TEST(Toml, MistakesAreNamedWithTheirLine) {
  EXPECT_EQ(complaint("a = 1\nb\n"), "x.toml:2: the end of the line, expected '=' behind the key b");
  EXPECT_EQ(complaint("a = simpo"), "x.toml:1: the value simpo, expected a string in quotes, a number, true or false");
  EXPECT_EQ(complaint("a ="), "x.toml:1: no value, expected a string in quotes, a number, true or false");
  EXPECT_EQ(complaint("a = 1 2"), "x.toml:1: more behind the value, expected the end of the line");
  EXPECT_EQ(complaint("a = \"x"), "x.toml:1: a string without its end, expected a closing quote on the same line");
  EXPECT_EQ(complaint("a = \"\"\"x"), "x.toml:1: the end of the file, expected more");
  EXPECT_EQ(complaint("a = 1\na = 2"), "x.toml:2: a a second time, expected every key once");
  EXPECT_EQ(complaint("[a\nb = 1"), "x.toml:1: the end of the line, expected ']' at the end of the table's name");
  EXPECT_EQ(complaint("[[a]]"), "x.toml:1: a list of tables, expected a table");
  EXPECT_EQ(complaint("a = [[1]]"), "x.toml:1: a list in a list, expected strings, numbers or booleans");
  EXPECT_EQ(complaint("a = [1 2]"), "x.toml:1: '2', expected ',' or ']'");
  EXPECT_EQ(complaint("a = \"\\q\""), "x.toml:1: the escape \\q, expected one that TOML has");
  EXPECT_EQ(complaint("= 1"), "x.toml:1: '=', expected a key");
  EXPECT_EQ(complaint("a = [1,"), "x.toml:1: no value, expected a string in quotes, a number, true or false");
}

}  // namespace
}  // namespace sao::cli

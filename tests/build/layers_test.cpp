// SPDX-License-Identifier: Apache-2.0
// Data flows one way: a room includes rooms of lower layers only. A linker cannot see an arrow that is made of headers
// alone, so this test reads the #include lines.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <regex>
#include <set>
#include <string>

namespace {

const std::map<std::string, int> kLayers = {{"base", 0},  {"io", 1},    {"jinja", 1}, {"ops", 1},      {"text", 2},
                                            {"loss", 2},  {"model", 2}, {"data", 3},  {"generate", 3}, {"synth", 4},
                                            {"judge", 4}, {"train", 4}, {"eval", 5},  {"loop", 6}};
const std::filesystem::path kRoot = std::filesystem::path(SAO_SOURCE_DIR) / "libsao";

// Calls check(file, its room, the included room, what is included) for every include of a room's file.
template <class Check>
void for_each_include(const Check& check) {
  const std::regex line_form("^\\s*#\\s*include\\s*\"(sao/)?([a-z_]+)/([a-z_./]+)\"");
  int files = 0;
  for (const std::filesystem::path& base : {kRoot / "include" / "sao", kRoot / "src"}) {
    for (const auto& entry : std::filesystem::recursive_directory_iterator(base)) {
      if (!entry.is_regular_file()) continue;
      const std::string room = std::filesystem::relative(entry.path(), base).begin()->string();
      if (!kLayers.contains(room)) continue;
      ++files;
      std::ifstream stream(entry.path());
      std::string line;
      std::smatch match;
      while (std::getline(stream, line)) {
        if (std::regex_search(line, match, line_form) && kLayers.contains(match[2])) {
          check(entry.path(), room, match[2].str(), line);
        }
      }
    }
  }
  EXPECT_GT(files, 60) << "the sources were not found under " << kRoot;
}

TEST(Layers, IncludesPointDownOnly) {
  for_each_include([](const std::filesystem::path& file, const std::string& room, const std::string& included,
                      const std::string& line) {
    EXPECT_TRUE(room == included || kLayers.at(included) < kLayers.at(room)) << file << ": " << line;
  });
}

TEST(Layers, SynthJudgeAndEvalSeeOnlyTheGeneratorInterface) {
  const std::set<std::string> closed = {"ops", "model", "loss", "train"};
  for_each_include([&](const std::filesystem::path& file, const std::string& room, const std::string& included,
                       const std::string& line) {
    if (room != "synth" && room != "judge" && room != "eval") return;
    EXPECT_FALSE(closed.contains(included)) << file << ": " << line;
    EXPECT_EQ(line.find("generate/engine.h"), std::string::npos) << file << ": " << line;
  });
}

TEST(Layers, TextAndDataDoNotIncludeLibTorch) {
  for (const std::string room : {"jinja", "text", "data", "synth", "judge", "eval", "base"}) {
    for (const std::filesystem::path& base : {kRoot / "include" / "sao" / room, kRoot / "src" / room}) {
      for (const auto& entry : std::filesystem::recursive_directory_iterator(base)) {
        std::ifstream stream(entry.path());
        std::string line;
        while (std::getline(stream, line)) {
          EXPECT_FALSE(line.starts_with("#include <ATen") || line.starts_with("#include <torch"))
              << entry.path() << ": " << line;
        }
      }
    }
  }
}

// Nothing of the micro world, its oracle least of all, reaches the library.
TEST(Layers, TheLibraryKnowsNothingOfTheBundledWorld) {
  for (const std::filesystem::path& base : {kRoot / "include", kRoot / "src"}) {
    for (const auto& entry : std::filesystem::recursive_directory_iterator(base)) {
      if (!entry.is_regular_file()) continue;
      std::ifstream stream(entry.path());
      std::string line;
      while (std::getline(stream, line)) {
        EXPECT_EQ(line.find("microworld"), std::string::npos) << entry.path() << ": " << line;
        EXPECT_EQ(line.find("oracle"), std::string::npos) << entry.path() << ": " << line;
      }
    }
  }
}

}  // namespace

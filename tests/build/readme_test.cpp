// SPDX-License-Identifier: Apache-2.0
// The README's C++ is the examples' C++, which other tests compile and run.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>

namespace {

std::string read(const std::filesystem::path& path) {
  std::ifstream stream(std::filesystem::path(SAO_SOURCE_DIR) / path);
  std::stringstream text;
  text << stream.rdbuf();
  return text.str();
}

TEST(Readme, CodeBlocksStandInTheExamples) {
  const std::string readme = read("README.md");
  const std::string examples = read("examples/05_sao_round/main.cpp") + read("examples/04_custom_loop/main.cpp") +
                               read("examples/06_lora/main.cpp");
  std::size_t blocks = 0;
  for (std::size_t begin = readme.find("```cpp\n"); begin != std::string::npos;
       begin = readme.find("```cpp\n", begin)) {
    begin += 7;
    const std::size_t end = readme.find("```", begin);
    std::istringstream lines(readme.substr(begin, end - begin));
    for (std::string line; std::getline(lines, line);) {
      EXPECT_NE(examples.find(line), std::string::npos) << "not in an example: " << line;
    }
    ++blocks;
  }
  EXPECT_EQ(blocks, 3U);
}

}  // namespace

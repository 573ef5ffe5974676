// SPDX-License-Identifier: Apache-2.0
// One side of the comparison: encodes the texts of a file, several times, and says how long each time took.
//   compare_tokenizing MODEL_FOLDER TEXTS ROUNDS IDS_OUT
// TEXTS holds texts that each end with a zero byte; IDS_OUT gets a 32-bit count and the ids of each text.
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "sao/base/error.h"
#include "sao/text/tokenizer.h"

int main(int argc, char** argv) try {
  if (argc != 5) {
    std::fprintf(stderr, "usage: compare_tokenizing MODEL_FOLDER TEXTS ROUNDS IDS_OUT\n");
    return 2;
  }
  const auto tokenizer = sao::Tokenizer::load(argv[1]);
  std::ifstream file(argv[2], std::ios::binary);
  std::vector<std::string> texts;
  for (std::string text; std::getline(file, text, '\0');) texts.push_back(text);

  std::vector<sao::TokenIds> ids(texts.size());
  std::ofstream out(argv[4], std::ios::binary);
  for (std::size_t i = 0; i < texts.size(); ++i) {  // also warms up
    ids[i] = tokenizer->encode(texts[i]);
    const auto count = static_cast<std::int32_t>(ids[i].size());
    out.write(reinterpret_cast<const char*>(&count), sizeof count);
    out.write(reinterpret_cast<const char*>(ids[i].data()),
              static_cast<std::streamsize>(ids[i].size() * sizeof(sao::TokenId)));
  }
  for (int round = std::stoi(argv[3]); round > 0; --round) {
    const auto begin = std::chrono::steady_clock::now();
    for (std::size_t i = 0; i < texts.size(); ++i) ids[i] = tokenizer->encode(texts[i]);
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
    std::printf("%.6f\n", seconds.count());
  }
} catch (const sao::InputError& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 1;
}

// SPDX-License-Identifier: Apache-2.0
// Writes preference rows as libsao does into a folder, for datasets_test.py.
#include <filesystem>

#include "sao/data/records.h"
#include "sao/io/files.h"
#include "sao/io/jsonl.h"

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  const std::filesystem::path folder = argv[1];
  std::filesystem::create_directories(folder);
  std::vector<sao::Preference> conversations, texts;
  for (int i = 0; i < 3; ++i) {
    const std::string number = std::to_string(i);
    conversations.push_back({.id = "p00000" + number,
                             .prompt = {{"user", "Where is Z\xC3\xBCrich, " + number + "?\n"}},
                             .chosen = {{"assistant", "In \"Switzerland\"."}},
                             .rejected = {{"assistant", "In Sweden \xF0\x9F\x90\x95."}},
                             .prompt_ids = {2, 4 + i},
                             .chosen_ids = {7, 1},
                             .rejected_ids = {8, 9, 1},
                             .p = 0.5 + 0.1 * i});
    texts.push_back({.prompt = {{"user", "The sky is"}},
                     .chosen = {{"assistant", " blue."}},
                     .rejected = {{"assistant", " green."}},
                     .plain_text = true});
  }
  sao::write_file_atomically(folder / "conversations.jsonl", sao::to_jsonl(conversations));
  sao::write_file_atomically(folder / "texts.jsonl", sao::to_jsonl(texts));
  return 0;
}

// SPDX-License-Identifier: Apache-2.0
// tokenizer_config.json with its chat template, generation_config.json, chat_template.jinja; beside a good
// tokenizer.json.
#include "sao/text/chat.h"

#include "fuzz/input.h"
#include "fuzz/targets.h"

namespace {

// Bytes and the turn tokens of both formats.
std::string tokenizer_json() {
  std::string vocabulary, added;
  int id = 0;
  for (int c = 33; c < 127; ++c, ++id) {
    vocabulary += (id > 0 ? ",\"" : "\"") + std::string(c == '"' || c == '\\' ? "\\" : "") + static_cast<char>(c) +
                  "\":" + std::to_string(id);
  }
  for (const char* token : {"<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>", "<|begin_of_text|>", "<|eot_id|>",
                            "<|start_header_id|>", "<|end_header_id|>"}) {
    added += std::string(added.empty() ? "" : ",") + "{\"id\":" + std::to_string(id++) + ",\"content\":\"" + token +
             "\",\"special\":true}";
  }
  return "{\"added_tokens\":[" + added +
         "],\"pre_tokenizer\":{\"type\":\"ByteLevel\"},\"decoder\":{\"type\":\"ByteLevel\"}," +
         "\"model\":{\"type\":\"BPE\",\"vocab\":{" + vocabulary + "},\"merges\":[]}}";
}

}  // namespace

void sao::fuzz::chat_format(std::string_view input) {
  static const Folder folder;
  static const std::filesystem::path tokenizer = folder.write("tokenizer.json", tokenizer_json());
  const std::vector<std::string_view> files = parts(input, 3);
  folder.write("tokenizer_config.json", files[0]);
  folder.write("generation_config.json", files[1]);
  folder.write("chat_template.jinja", files[2]);
  accepted([&] {
    const ChatTokenizer chat = ChatTokenizer::load(folder.path());
    const Messages messages = {{"system", "Be brief."}, {"user", " Hello\n"}, {"assistant", "Hi"}, {"user", "<eos>"}};
    for (std::size_t first : {0, 1}) {
      accepted([&] {
        chat.encode_chat({messages.begin() + static_cast<std::ptrdiff_t>(first), messages.end()},
                         {.add_generation_prompt = true});
      });
    }
    for (const TokenId id : chat.stop_ids()) accepted([&] { chat.response_text(TokenIds{id}); });
  });
}

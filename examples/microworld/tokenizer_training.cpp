// SPDX-License-Identifier: Apache-2.0
#include "tokenizer_training.h"

#include <sentencepiece_trainer.h>

#include <string>
#include <unordered_map>
#include <vector>

#include "sao/base/error.h"
#include "sao/io/files.h"

namespace microworld {
namespace {

class Lines : public sentencepiece::SentenceIterator {
 public:
  explicit Lines(std::vector<std::string> lines) : lines_(std::move(lines)) {}
  bool done() const override { return next_ >= lines_.size(); }
  void Next() override { ++next_; }
  const std::string& value() const override { return lines_[next_]; }
  sentencepiece::util::Status status() const override { return {}; }

 private:
  std::vector<std::string> lines_;
  std::size_t next_ = 0;
};

void add_lines(const std::string& text, std::vector<std::string>* lines) {
  std::size_t begin = 0;
  while (begin <= text.size()) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    if (end > begin) lines->push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
}

}  // namespace

void train_tokenizer(const std::filesystem::path& folder, std::uint64_t seed, std::int64_t documents,
                     std::int64_t vocab_size, const MixOptions& mix) {
  std::vector<std::string> lines;
  for (std::int64_t i = 0; i < documents; ++i) {
    for (const Turn& turn : compose_document(seed, static_cast<std::uint64_t>(i), mix).turns)
      add_lines(turn.text, &lines);
  }
  // Often enough that the roles are single pieces.
  for (std::int64_t i = 0; i < documents / 3; ++i) {
    lines.emplace_back("user");
    lines.emplace_back("model");
  }
  Lines iterator(std::move(lines));
  std::string model;
  const std::unordered_map<std::string, std::string> arguments = {
      {"model_type", "bpe"},
      {"vocab_size", std::to_string(vocab_size)},
      {"hard_vocab_limit", "false"},
      {"pad_id", "0"},
      {"eos_id", "1"},
      {"bos_id", "2"},
      {"unk_id", "3"},
      {"pad_piece", "<pad>"},
      {"eos_piece", "<eos>"},
      {"bos_piece", "<bos>"},
      {"user_defined_symbols", "<start_of_turn>,<end_of_turn>,\n"},
      {"byte_fallback", "true"},
      {"add_dummy_prefix", "false"},
      {"remove_extra_whitespaces", "false"},
      {"normalization_rule_name", "identity"},
      {"split_digits", "true"},
      {"character_coverage", "1.0"},
      {"num_threads", "1"},
      {"minloglevel", "2"},
  };
  const auto status = sentencepiece::SentencePieceTrainer::Train(arguments, &iterator, &model);
  if (!status.ok()) throw sao::InputError("training the tokenizer: " + status.ToString());
  sao::write_file_atomically(folder / "tokenizer.model", model);
  sao::write_file_atomically(folder / "tokenizer_config.json", R"({
  "tokenizer_class": "GemmaTokenizer",
  "bos_token": "<bos>",
  "eos_token": "<eos>",
  "pad_token": "<pad>",
  "unk_token": "<unk>",
  "add_bos_token": true,
  "add_eos_token": false,
  "additional_special_tokens": ["<start_of_turn>", "<end_of_turn>"],
  "clean_up_tokenization_spaces": false
}
)");
}

}  // namespace microworld

// SPDX-License-Identifier: Apache-2.0
// The pre-tokenizers of tokenizer.json: they cut text into words.
#pragma once

#include <functional>
#include <memory>
#include <string_view>
#include <vector>

#include "text/json_node.h"
#include "text/splitter.h"

namespace sao::detail {

/// Gets the words in order; a word may be a temporary. `at_start`: it begins where the whole text does.
using WordSink = std::function<void(std::string_view word, bool at_start)>;

class PreTokenizer {
 public:
  virtual ~PreTokenizer() = default;
  /// Cuts `text`, valid UTF-8; `at_start`: it begins where the whole text does.
  virtual void split(std::string_view text, bool at_start, const WordSink& each) const = 0;
};

/// Pre-tokenizers one after the other.
class PreTokenizerChain {
 public:
  /// No pre-tokenizer: the text is the word.
  PreTokenizerChain() = default;
  /// Split, ByteLevel, Digits, Metaspace, Whitespace, WhitespaceSplit, Punctuation, Sequence; any other one is refused
  /// by name.
  explicit PreTokenizerChain(const JsonNode& node);

  /// Whether words go to the model as bytes: a ByteLevel is the last one.
  bool byte_level() const { return byte_level_; }

  /// Calls `each` with the words of `text`; none is empty.
  template <class Each>
  void split(std::string_view text, bool at_start, Each&& each) const {
    if (text.empty()) return;
    if (only_) {
      for (std::size_t begin = 0; begin < text.size();) {
        const std::size_t end = only_(text, begin);
        each(text.substr(begin, end - begin));
        begin = end;
      }
    } else if (stages_.empty()) {
      each(text);
    } else {
      run(text, at_start, 0, [&](std::string_view word, bool) {
        if (!word.empty()) each(word);
      });
    }
  }

 private:
  void append(const JsonNode& node, bool last);
  void run(std::string_view text, bool at_start, std::size_t stage, const WordSink& each) const;

  std::vector<std::unique_ptr<const PreTokenizer>> stages_;
  WordEnd only_ = nullptr;  // does what all stages together do
  bool byte_level_ = false;
};

}  // namespace sao::detail

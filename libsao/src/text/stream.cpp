// SPDX-License-Identifier: Apache-2.0
#include "sao/text/stream.h"

#include <string_view>
#include <utility>

#include "base/utf8.h"

namespace sao {
namespace {

// Length of the text without what may still become a character: at most three trailing replacements, one for
// each byte of an unfinished character.
std::size_t settled_length(std::string_view text) {
  for (int i = 0; i < 3 && text.ends_with(detail::kReplacement); ++i) text.remove_suffix(detail::kReplacement.size());
  return text.size();
}

}  // namespace

StreamDecoder::StreamDecoder(std::shared_ptr<const Tokenizer> tokenizer, bool skip_special)
    : tokenizer_(std::move(tokenizer)), skip_special_(skip_special) {}

std::string StreamDecoder::push(TokenId id) {
  const auto shown = [&](TokenId one) { return tokenizer_->decode(TokenSpan(&one, 1), skip_special_); };
  std::string alone = shown(id);  // throws for an unknown id, before anything has changed
  pending_.push_back(id);
  // An id that shows nothing does not end what is open.
  for (auto last = pending_.rbegin(); last != pending_.rend(); ++last) {
    if (tokenizer_->text_depends_on_next(*last)) return {};
    if (last == pending_.rbegin() ? !alone.empty() : !shown(*last).empty()) break;
  }
  const std::string text = tokenizer_->decode(pending_, skip_special_);
  const std::size_t settled = settled_length(text);
  if (settled <= emitted_of_pending_.size()) return {};
  std::string fresh = text.substr(emitted_of_pending_.size(), settled - emitted_of_pending_.size());
  emitted_of_pending_ = text.substr(0, settled);
  // Between characters a single id is context enough, provided it shows something: the blank at the start of a
  // text is stripped as long as nothing is to be seen before it.
  if (settled == text.size() && !alone.empty()) {
    pending_ = {id};
    emitted_of_pending_ = std::move(alone);
  }
  return fresh;
}

std::string StreamDecoder::finish() {
  std::string text = tokenizer_->decode(pending_, skip_special_);
  text.erase(0, emitted_of_pending_.size());
  pending_.clear();
  emitted_of_pending_.clear();
  return text;
}

}  // namespace sao

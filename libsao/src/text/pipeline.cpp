// SPDX-License-Identifier: Apache-2.0
#include "text/pipeline.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/utf8.h"
#include "sao/base/error.h"
#include "text/added_tokens.h"
#include "text/regex.h"

namespace sao::detail {
namespace {

const std::string& type_of(const JsonNode& node) { return node.at("type", "the component's name").string(); }

[[noreturn]] void refuse(const JsonNode& node, std::string_view known) {
  node.at("type", "the component's name").fail(fmt::format("one of the supported: {}", known));
}

// {"String": "..."} or {"Regex": "..."}.
Regex parse_pattern(const JsonNode& node) {
  if (const auto text = node.find("String")) return Regex(Regex::escape(text->string()), text->where());
  const JsonNode regex = node.at("Regex", "\"String\" or \"Regex\"");
  return Regex(regex.string(), regex.where());
}

std::string replace_all(const Regex& pattern, std::string_view text, std::string_view content) {
  std::string out;
  std::size_t done = 0;
  Regex::Finder finder(pattern, text);
  for (Regex::Match match; finder.next(match); done = match.end) {
    out += text.substr(done, match.begin - done);
    out += content;
  }
  out += text.substr(done);
  return out;
}

// Normalizers.

class ReplaceNormalizer final : public Normalizer {
 public:
  explicit ReplaceNormalizer(const JsonNode& node)
      : pattern_(parse_pattern(node.at("pattern", "a pattern"))), content_(node.at("content", "a string").string()) {}
  std::string normalize(std::string text) const override { return replace_all(pattern_, text, content_); }

 private:
  Regex pattern_;
  std::string content_;
};

class PrependNormalizer final : public Normalizer {
 public:
  explicit PrependNormalizer(const JsonNode& node) : prefix_(node.at("prepend", "a string").string()) {}
  std::string normalize(std::string text) const override { return text.empty() ? text : prefix_ + text; }

 private:
  std::string prefix_;
};

class NormalizerSequence final : public Normalizer {
 public:
  explicit NormalizerSequence(const JsonNode& list) {
    for (std::size_t i = 0; i < list.array_size(); ++i) parts_.push_back(parse_normalizer(list[i]));
  }
  std::string normalize(std::string text) const override {
    for (const auto& part : parts_) text = part->normalize(std::move(text));
    return text;
  }

 private:
  std::vector<std::unique_ptr<const Normalizer>> parts_;
};

// Pre-tokenizers.

enum class SplitBehavior { kIsolated, kRemoved, kContiguous, kMergedWithPrevious, kMergedWithNext };

SplitBehavior parse_behavior(const JsonNode& node) {
  constexpr std::pair<std::string_view, SplitBehavior> kNames[] = {
      {"Isolated", SplitBehavior::kIsolated},
      {"Removed", SplitBehavior::kRemoved},
      {"Contiguous", SplitBehavior::kContiguous},
      {"MergedWithPrevious", SplitBehavior::kMergedWithPrevious},
      {"MergedWithNext", SplitBehavior::kMergedWithNext}};
  for (const auto& [name, behavior] : kNames)
    if (node.string() == name) return behavior;
  node.fail("Isolated, Removed, Contiguous, MergedWithPrevious or MergedWithNext");
}

class SplitPreTokenizer final : public PreTokenizer {
 public:
  SplitPreTokenizer(Regex pattern, SplitBehavior behavior, bool invert)
      : pattern_(std::move(pattern)), behavior_(behavior), invert_(invert) {}

  void split(std::string_view text, const WordSink& each) const override {
    Regex::Finder finder(pattern_, text);
    if (behavior_ == SplitBehavior::kIsolated) {  // the same inverted or not
      std::size_t done = 0;
      for (Regex::Match match; finder.next(match); done = match.end) {
        if (match.begin > done) each(text.substr(done, match.begin - done));
        each(text.substr(match.begin, match.end - match.begin));
      }
      if (done < text.size()) each(text.substr(done));
      return;
    }
    struct Part {
      std::size_t begin;
      std::size_t end;
      bool match;
    };
    std::vector<Part> parts;
    std::size_t done = 0;
    for (Regex::Match match; finder.next(match); done = match.end) {
      if (match.begin > done) parts.push_back({done, match.begin, invert_});
      parts.push_back({match.begin, match.end, !invert_});
    }
    if (done < text.size()) parts.push_back({done, text.size(), invert_});

    std::vector<Part> words;
    bool previous = false;
    switch (behavior_) {
      case SplitBehavior::kRemoved:
        std::ranges::copy_if(parts, std::back_inserter(words), [](const Part& part) { return !part.match; });
        break;
      case SplitBehavior::kContiguous:
        for (const Part& part : parts) {
          if (part.match == previous && !words.empty()) {
            words.back().end = part.end;
          } else {
            words.push_back(part);
          }
          previous = part.match;
        }
        break;
      case SplitBehavior::kMergedWithPrevious:
        for (const Part& part : parts) {
          if (part.match && !previous && !words.empty()) {
            words.back().end = part.end;
          } else {
            words.push_back(part);
          }
          previous = part.match;
        }
        break;
      default:  // kMergedWithNext
        for (auto part = parts.rbegin(); part != parts.rend(); ++part) {
          if (part->match && !previous && !words.empty()) {
            words.back().begin = part->begin;
          } else {
            words.push_back(*part);
          }
          previous = part->match;
        }
        std::ranges::reverse(words);
    }
    for (const Part& word : words) each(text.substr(word.begin, word.end - word.begin));
  }

 private:
  Regex pattern_;
  SplitBehavior behavior_;
  bool invert_;
};

// ByteLevel's own pattern (GPT-2).
constexpr std::string_view kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

class PrefixSpace final : public PreTokenizer {
 public:
  void split(std::string_view text, const WordSink& each) const override {
    if (text.starts_with(' ')) {
      each(text);
    } else {
      each(" " + std::string(text));
    }
  }
};

void append_pre_tokenizer(const JsonNode& node, PreTokenizerChain& chain) {
  const std::string& type = type_of(node);
  if (type == "Sequence") {
    const JsonNode list = node.at("pretokenizers", "a list");
    for (std::size_t i = 0; i < list.array_size(); ++i) append_pre_tokenizer(list[i], chain);
    return;
  }
  if (chain.byte_level) node.at("type", "").fail("nothing after ByteLevel");
  if (type == "Split") {
    chain.stages.push_back(std::make_unique<SplitPreTokenizer>(parse_pattern(node.at("pattern", "a pattern")),
                                                               parse_behavior(node.at("behavior", "a behavior")),
                                                               node.boolean_or("invert", false)));
  } else if (type == "Digits") {
    chain.stages.push_back(std::make_unique<SplitPreTokenizer>(
        Regex("\\p{N}", node.where()),
        node.boolean_or("individual_digits", false) ? SplitBehavior::kIsolated : SplitBehavior::kContiguous, false));
  } else if (type == "ByteLevel") {
    if (node.boolean_or("add_prefix_space", true)) chain.stages.push_back(std::make_unique<PrefixSpace>());
    if (node.boolean_or("use_regex", true))
      chain.stages.push_back(
          std::make_unique<SplitPreTokenizer>(Regex(kGpt2Pattern, node.where()), SplitBehavior::kIsolated, false));
    chain.byte_level = true;
  } else {
    refuse(node, "Split, ByteLevel, Digits, Sequence");
  }
}

// Decoders.

class ReplaceDecoder final : public Decoder {
 public:
  explicit ReplaceDecoder(const JsonNode& node)
      : pattern_(parse_pattern(node.at("pattern", "a pattern"))), content_(node.at("content", "a string").string()) {}
  std::vector<std::string> decode(std::vector<std::string> tokens) const override {
    for (std::string& token : tokens) token = replace_all(pattern_, token, content_);
    return tokens;
  }

 private:
  Regex pattern_;
  std::string content_;
};

class ByteFallbackDecoder final : public Decoder {
 public:
  std::vector<std::string> decode(std::vector<std::string> tokens) const override {
    std::vector<std::string> out;
    std::string bytes;
    // The reference replaces every byte of a run that is not valid as a whole.
    const auto end_run = [&] {
      if (is_valid_utf8(bytes)) {
        if (!bytes.empty()) out.push_back(bytes);
      } else {
        for (std::size_t i = 0; i < bytes.size(); ++i) out.emplace_back(kReplacement);
      }
      bytes.clear();
    };
    for (std::string& token : tokens) {
      if (const auto byte = byte_of_fallback_token(token)) {
        bytes += *byte;
      } else {
        end_run();
        out.push_back(std::move(token));
      }
    }
    end_run();
    return out;
  }
};

class FuseDecoder final : public Decoder {
 public:
  std::vector<std::string> decode(std::vector<std::string> tokens) const override {
    std::string text;
    for (const std::string& token : tokens) text += token;
    return {std::move(text)};
  }
};

class StripDecoder final : public Decoder {
 public:
  explicit StripDecoder(const JsonNode& node) : content_(node.at("content", "a character").string()) {
    if (character_length(content_) != content_.size() || content_.empty()) node.at("content", "").fail("one character");
    const JsonNode start = node.at("start", "a count");
    const JsonNode stop = node.at("stop", "a count");
    if (start.integer() < 0) start.fail("a count");
    // Stripping at the end would make every piece of streamed text uncertain; no known model does it.
    if (stop.integer() != 0) stop.fail("0");
    start_ = start.integer();
  }
  std::vector<std::string> decode(std::vector<std::string> tokens) const override {
    for (std::string& token : tokens) {
      std::size_t cut = 0;
      for (std::int64_t i = 0; i < start_ && std::string_view(token).substr(cut).starts_with(content_); ++i)
        cut += content_.size();
      token.erase(0, cut);
    }
    return tokens;
  }

 private:
  std::string content_;
  std::int64_t start_ = 0;
};

void append_decoder(const JsonNode& node, DecoderChain& chain) {
  const std::string& type = type_of(node);
  if (type == "Sequence") {
    const JsonNode list = node.at("decoders", "a list");
    for (std::size_t i = 0; i < list.array_size(); ++i) append_decoder(list[i], chain);
    return;
  }
  if (chain.byte_level || (type == "ByteLevel" && !chain.stages.empty()))
    node.at("type", "").fail("no other decoder beside ByteLevel");
  if (type == "ByteLevel") {
    chain.byte_level = true;
  } else if (type == "Replace") {
    chain.stages.push_back(std::make_unique<ReplaceDecoder>(node));
  } else if (type == "ByteFallback") {
    chain.stages.push_back(std::make_unique<ByteFallbackDecoder>());
    chain.byte_fallback = true;
  } else if (type == "Fuse") {
    chain.stages.push_back(std::make_unique<FuseDecoder>());
  } else if (type == "Strip") {
    chain.stages.push_back(std::make_unique<StripDecoder>(node));
  } else {
    refuse(node, "ByteLevel, Replace, ByteFallback, Fuse, Strip, Sequence");
  }
}

}  // namespace

std::unique_ptr<const Normalizer> parse_normalizer(const JsonNode& node) {
  const std::string& type = type_of(node);
  if (type == "Replace") return std::make_unique<ReplaceNormalizer>(node);
  if (type == "Prepend") return std::make_unique<PrependNormalizer>(node);
  if (type == "Sequence") return std::make_unique<NormalizerSequence>(node.at("normalizers", "a list"));
  refuse(node, "Replace, Prepend, Sequence");
}

void PreTokenizerChain::split(std::string_view text, const WordSink& each, std::size_t stage) const {
  if (stage == stages.size()) {
    if (!text.empty()) each(text);
  } else if (stage + 1 == stages.size()) {
    stages[stage]->split(text, each);
  } else {
    stages[stage]->split(text, [&](std::string_view word) { split(word, each, stage + 1); });
  }
}

PreTokenizerChain parse_pre_tokenizer(const JsonNode& node) {
  PreTokenizerChain chain;
  append_pre_tokenizer(node, chain);
  return chain;
}

DecoderChain parse_decoder(const JsonNode& node) {
  DecoderChain chain;
  append_decoder(node, chain);
  return chain;
}

std::optional<char> byte_of_fallback_token(std::string_view token) {
  if (token.size() != 6 || !token.starts_with("<0x") || token[5] != '>') return std::nullopt;
  const auto digit = [](char c) {
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
                                  : -1;
  };
  const int high = digit(token[3]);
  const int low = digit(token[4]);
  if (high < 0 || low < 0) return std::nullopt;
  return static_cast<char>(high * 16 + low);
}

std::optional<TokenId> parse_post_processor(const JsonNode& node) {
  const std::string& type = type_of(node);
  if (type == "ByteLevel") return std::nullopt;  // concerns offsets only
  if (type == "Sequence") {
    std::optional<TokenId> bos;
    const JsonNode list = node.at("processors", "a list");
    for (std::size_t i = 0; i < list.array_size(); ++i) {
      if (const auto id = parse_post_processor(list[i])) {
        if (bos) list.fail("one processor that adds a token");
        bos = id;
      }
    }
    return bos;
  }
  if (type != "TemplateProcessing") refuse(node, "TemplateProcessing, ByteLevel, Sequence");
  const JsonNode single = node.at("single", "a list");
  const std::size_t size = single.array_size();
  if (size == 0 || size > 2 || !single[size - 1].find("Sequence"))
    single.fail("the text, with at most one special token before it");
  if (size == 1) return std::nullopt;
  const JsonNode name = single[0].at("SpecialToken", "a special token before the text").at("id", "a token");
  const JsonNode ids = node.at("special_tokens", "an object")
                           .at(name.string(), "the token of the template")
                           .at("ids", "a list of one id");
  if (ids.array_size() != 1) ids.fail("a list of one id");
  return check_token_id(ids[0].integer(), ids.where());
}

}  // namespace sao::detail

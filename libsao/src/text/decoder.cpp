// SPDX-License-Identifier: Apache-2.0
#include "text/decoder.h"

#include <utility>

#include "base/utf8.h"
#include "text/pattern.h"

namespace sao::detail {
namespace {

class Replace final : public Decoder {
 public:
  explicit Replace(const JsonNode& node)
      : pattern_(node.at("pattern", "a pattern")), content_(node.at("content", "a string").string()) {}
  std::vector<std::string> decode(std::vector<std::string> tokens) const override {
    for (std::string& token : tokens) token = pattern_.replace_all(token, content_);
    return tokens;
  }

 private:
  Pattern pattern_;
  std::string content_;
};

class ByteFallback final : public Decoder {
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

class Fuse final : public Decoder {
 public:
  std::vector<std::string> decode(std::vector<std::string> tokens) const override {
    std::string text;
    for (const std::string& token : tokens) text += token;
    return {std::move(text)};
  }
};

class Strip final : public Decoder {
 public:
  explicit Strip(const JsonNode& node) : content_(parse_character(node.at("content", "a character"))) {
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

// The mark is a blank, except at the start of the text.
class Metaspace final : public Decoder {
 public:
  explicit Metaspace(const JsonNode& node) : mark_(parse_character(node.at("replacement", "a character"))) {
    const auto scheme = node.find("prepend_scheme");
    prepended_ = scheme ? scheme->string() != "never" : node.boolean_or("add_prefix_space", true);
  }
  std::vector<std::string> decode(std::vector<std::string> tokens) const override {
    for (std::size_t i = 0; i < tokens.size(); ++i) {
      const std::string_view blank = i == 0 && prepended_ ? "" : " ";
      std::string text;
      std::string_view rest = tokens[i];
      for (std::size_t at; (at = rest.find(mark_)) != rest.npos; rest.remove_prefix(at + mark_.size()))
        text.append(rest.substr(0, at)).append(blank);
      tokens[i] = text.append(rest);
    }
    return tokens;
  }

 private:
  std::string mark_;
  bool prepended_ = true;
};

void append_decoder(const JsonNode& node, DecoderChain& chain) {
  const std::string& type = component_type(node);
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
    chain.stages.push_back(std::make_unique<Replace>(node));
  } else if (type == "ByteFallback") {
    chain.stages.push_back(std::make_unique<ByteFallback>());
    chain.byte_fallback = true;
  } else if (type == "Fuse") {
    chain.stages.push_back(std::make_unique<Fuse>());
  } else if (type == "Strip") {
    chain.stages.push_back(std::make_unique<Strip>(node));
  } else if (type == "Metaspace") {
    chain.stages.push_back(std::make_unique<Metaspace>(node));
  } else {
    refuse_component(node, "ByteLevel, Replace, ByteFallback, Fuse, Strip, Metaspace, Sequence");
  }
}

}  // namespace

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

}  // namespace sao::detail

// SPDX-License-Identifier: Apache-2.0
#include "text/pre_tokenizer.h"

#include <algorithm>
#include <string>
#include <utility>

#include "base/utf8.h"
#include "text/byte_alphabet.h"
#include "text/pattern.h"
#include "text/unicode.h"

namespace sao::detail {
namespace {

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

// A text in parts that match a pattern and parts that do not; put together to words as a SplitBehavior says.
class Parts {
 public:
  explicit Parts(std::string_view text) : text_(text) {}

  void add_match(std::size_t begin, std::size_t end) {
    if (begin > done_) parts_.push_back({done_, begin, false});
    parts_.push_back({begin, end, true});
    done_ = end;
  }
  void finish(SplitBehavior behavior, bool invert, bool at_start, const WordSink& each) {
    if (done_ < text_.size()) parts_.push_back({done_, text_.size(), false});
    if (invert)
      for (Part& part : parts_) part.match = !part.match;
    if (behavior != SplitBehavior::kIsolated) join(behavior);
    for (const Part& part : parts_) each(text_.substr(part.begin, part.end - part.begin), at_start && part.begin == 0);
  }

 private:
  struct Part {
    std::size_t begin = 0;
    std::size_t end = 0;
    bool match = false;
  };
  void join(SplitBehavior behavior) {
    std::vector<Part> words;
    bool previous = false;  // whether the part before was a match
    const auto take = [&](const Part& part, bool joins) {
      if (joins && !words.empty()) {
        words.back().begin = std::min(words.back().begin, part.begin);
        words.back().end = std::max(words.back().end, part.end);
      } else {
        words.push_back(part);
      }
      previous = part.match;
    };
    switch (behavior) {
      case SplitBehavior::kRemoved:
        std::ranges::copy_if(parts_, std::back_inserter(words), [](const Part& part) { return !part.match; });
        break;
      case SplitBehavior::kContiguous:
        for (const Part& part : parts_) take(part, part.match == previous);
        break;
      case SplitBehavior::kMergedWithPrevious:
        for (const Part& part : parts_) take(part, part.match && !previous);
        break;
      default:  // kMergedWithNext
        std::ranges::reverse(parts_);
        for (const Part& part : parts_) take(part, part.match && !previous);
        std::ranges::reverse(words);
    }
    parts_ = std::move(words);
  }

  std::string_view text_;
  std::vector<Part> parts_;
  std::size_t done_ = 0;
};

class Split final : public PreTokenizer {
 public:
  Split(Pattern pattern, SplitBehavior behavior, bool invert)
      : pattern_(std::move(pattern)), behavior_(behavior), invert_(invert) {}

  void split(std::string_view text, bool at_start, const WordSink& each) const override {
    Parts parts(text);
    pattern_.for_each_match(text, [&](const Regex::Match& match) { parts.add_match(match.begin, match.end); });
    parts.finish(behavior_, invert_, at_start, each);
  }

 private:
  Pattern pattern_;
  SplitBehavior behavior_;
  bool invert_;
};

// The words of one of the well-known regular expressions.
class KnownSplit final : public PreTokenizer {
 public:
  explicit KnownSplit(WordEnd word_end) : word_end_(word_end) {}
  void split(std::string_view text, bool at_start, const WordSink& each) const override {
    for (std::size_t begin = 0; begin < text.size();) {
      const std::size_t end = word_end_(text, begin);
      each(text.substr(begin, end - begin), at_start && begin == 0);
      begin = end;
    }
  }

 private:
  WordEnd word_end_;
};

// Cuts at single characters of some classes.
class ClassSplit final : public PreTokenizer {
 public:
  ClassSplit(CharacterClass classes, SplitBehavior behavior) : classes_(classes), behavior_(behavior) {}
  void split(std::string_view text, bool at_start, const WordSink& each) const override {
    const CharacterTable& table = CharacterTable::get();
    Parts parts(text);
    for (std::size_t i = 0; i < text.size();) {
      const Character c = read_character(text.substr(i));
      if (table.classes(c.code) & classes_) parts.add_match(i, i + c.length);
      i += c.length;
    }
    parts.finish(behavior_, false, at_start, each);
  }

 private:
  CharacterClass classes_;
  SplitBehavior behavior_;
};

// Whitespace: `\w+|[^\w\s]+`, as Rust reads it.
class WordsAndSigns final : public PreTokenizer {
 public:
  void split(std::string_view text, bool at_start, const WordSink& each) const override {
    const CharacterTable& table = CharacterTable::get();
    std::size_t begin = 0;  // of the run of characters of one kind
    unsigned kind = kSpace;
    const auto end_run = [&](std::size_t end) {
      if (kind != kSpace && end > begin) each(text.substr(begin, end - begin), at_start && begin == 0);
      begin = end;
    };
    for (std::size_t i = 0; i < text.size();) {
      const Character c = read_character(text.substr(i));
      const unsigned classes = table.classes(c.code);
      const unsigned now = classes & kRustWord ? kRustWord : classes & kSpace;
      if (now != kind) end_run(i);
      kind = now;
      i += c.length;
    }
    end_run(text.size());
  }
};

class Metaspace final : public PreTokenizer {
 public:
  explicit Metaspace(const JsonNode& node) : mark_(parse_character(node.at("replacement", "a character"))) {
    if (const auto scheme = node.find("prepend_scheme")) {
      const std::string& name = scheme->string();
      if (name != "always" && name != "never" && name != "first") scheme->fail("always, never or first");
      prepends_ = name != "never";
      first_only_ = name == "first";
    }
    if (const auto prefix = node.find("add_prefix_space"); prefix && !prefix->boolean()) {
      if (node.find("prepend_scheme") && prepends_) prefix->fail("true, as prepend_scheme says");
      prepends_ = false;
    }
    split_ = node.boolean_or("split", true);
  }
  void split(std::string_view text, bool at_start, const WordSink& each) const override {
    std::string marked;
    marked.reserve(text.size() + text.size() / 2);
    if (prepends_ && (at_start || !first_only_) && !text.starts_with(' ') && !text.starts_with(mark_)) marked = mark_;
    for (const char c : text) c == ' ' ? marked += mark_ : marked += c;
    if (!split_) return each(marked, at_start);
    // A mark begins a word.
    std::size_t begin = 0;
    while (begin < marked.size()) {
      const std::size_t end = std::min(marked.find(mark_, begin + 1), marked.size());
      each(std::string_view(marked).substr(begin, end - begin), at_start && begin == 0);
      begin = end;
    }
  }

 private:
  std::string mark_;
  bool prepends_ = true;
  bool first_only_ = false;
  bool split_ = true;
};

class PrefixSpace final : public PreTokenizer {
 public:
  void split(std::string_view text, bool at_start, const WordSink& each) const override {
    if (text.starts_with(' ')) {
      each(text, at_start);
    } else {
      each(" " + std::string(text), at_start);
    }
  }
};

// A ByteLevel before other pre-tokenizers, which see the characters that stand for the bytes.
class BytesAsCharacters final : public PreTokenizer {
 public:
  void split(std::string_view text, bool at_start, const WordSink& each) const override {
    each(token_of_bytes(text), at_start);
  }
};

}  // namespace

PreTokenizerChain::PreTokenizerChain(const JsonNode& node) { append(node, true); }

void PreTokenizerChain::append(const JsonNode& node, bool last) {
  const std::string& type = component_type(node);
  WordEnd known = nullptr;
  const auto add = [&](auto pre_tokenizer) { stages_.push_back(std::move(pre_tokenizer)); };
  const auto behavior_or = [&](SplitBehavior otherwise) {
    const auto behavior = node.find("behavior");
    return behavior ? parse_behavior(*behavior) : otherwise;
  };
  if (type == "Sequence") {
    const JsonNode list = node.at("pretokenizers", "a list");
    for (std::size_t i = 0; i < list.array_size(); ++i) append(list[i], last && i + 1 == list.array_size());
    return;
  }
  if (type == "Split") {
    Pattern pattern(node.at("pattern", "a pattern"));
    const SplitBehavior behavior = parse_behavior(node.at("behavior", "a behavior"));
    const bool invert = node.boolean_or("invert", false);
    // These expressions leave nothing over, so that parts may be isolated, or what does not match removed.
    const bool words = behavior == SplitBehavior::kIsolated || (behavior == SplitBehavior::kRemoved && invert);
    if (words && pattern.regex_source()) known = find_word_end(*pattern.regex_source());
    if (known) {
      add(std::make_unique<KnownSplit>(known));
    } else {
      add(std::make_unique<Split>(std::move(pattern), behavior, invert));
    }
  } else if (type == "Digits") {
    add(std::make_unique<ClassSplit>(
        kNumeric, node.boolean_or("individual_digits", false) ? SplitBehavior::kIsolated : SplitBehavior::kContiguous));
  } else if (type == "Punctuation") {
    add(std::make_unique<ClassSplit>(kPunctuation, behavior_or(SplitBehavior::kIsolated)));
  } else if (type == "WhitespaceSplit") {
    add(std::make_unique<ClassSplit>(kSpace, SplitBehavior::kRemoved));
  } else if (type == "Whitespace") {
    add(std::make_unique<WordsAndSigns>());
  } else if (type == "Metaspace") {
    add(std::make_unique<Metaspace>(node));
  } else if (type == "ByteLevel") {
    if (node.boolean_or("add_prefix_space", true)) add(std::make_unique<PrefixSpace>());
    if (node.boolean_or("use_regex", true)) add(std::make_unique<KnownSplit>(known = find_word_end(kGpt2Pattern)));
    if (last) {
      byte_level_ = true;
    } else {
      add(std::make_unique<BytesAsCharacters>());
    }
  } else {
    refuse_component(node, "Split, ByteLevel, Digits, Metaspace, Whitespace, WhitespaceSplit, Punctuation, Sequence");
  }
  // A ByteLevel without an expression of its own leaves the words as they are.
  if (stages_.size() == 1 && known) only_ = known;
  if (stages_.size() > 1) only_ = nullptr;
}

void PreTokenizerChain::run(std::string_view text, bool at_start, std::size_t stage, const WordSink& each) const {
  if (stage + 1 == stages_.size()) return stages_[stage]->split(text, at_start, each);
  stages_[stage]->split(text, at_start, [&](std::string_view word, bool word_at_start) {
    if (!word.empty()) run(word, word_at_start, stage + 1, each);
  });
}

}  // namespace sao::detail

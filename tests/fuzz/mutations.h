// SPDX-License-Identifier: Apache-2.0
// Damage as files take it, for machines without libFuzzer: the same for the same seed.
#pragma once

#include <array>
#include <random>
#include <string>
#include <string_view>
#include <vector>

namespace sao::fuzz {

class Mutator {
 public:
  /// `corpus`: texts to take pieces from; at least one.
  Mutator(std::vector<std::string> corpus, std::uint64_t seed) : corpus_(std::move(corpus)), random_(seed) {}

  /// One of the corpus with one to four damages.
  std::string next() {
    std::string text = corpus_[below(corpus_.size())];
    for (std::size_t i = below(4) + 1; i > 0; --i) damage(text);
    return text;
  }

 private:
  std::size_t below(std::size_t end) { return static_cast<std::size_t>(random_() % end); }

  void damage(std::string& text) {
    constexpr std::array<std::string_view, 18> kPieces = {
        "\"",   "{",       "}",    "[",        "]",  ",", ":", "\n", "-1", "0", "1e400", "9223372036854775808",
        "null", "\\u0000", "\xff", "\xe4\xb8", "{%", "}}"};
    const std::size_t at = below(text.size() + 1);
    const std::size_t length = std::min(text.size() - at, below(below(4) == 0 ? 64 : 4) + 1);
    switch (below(7)) {
      case 0:  // other bytes
        for (std::size_t i = at; i < at + length; ++i) text[i] = static_cast<char>(random_());
        break;
      case 1:  // a bit
        if (length > 0) text[at] = static_cast<char>(text[at] ^ (1 << below(8)));
        break;
      case 2:  // gone
        text.erase(at, length);
        break;
      case 3:  // twice
        text.insert(at, text.substr(at, length));
        break;
      case 4:  // cut off
        text.resize(at);
        break;
      case 5:  // something that means something
        text.replace(at, below(2) * length, kPieces[below(kPieces.size())]);
        break;
      default: {  // a piece of another one
        const std::string& other = corpus_[below(corpus_.size())];
        text.replace(at, length, other, below(other.size() + 1), below(64) + 1);
      }
    }
  }

  std::vector<std::string> corpus_;
  std::mt19937_64 random_;
};

}  // namespace sao::fuzz

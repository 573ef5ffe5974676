// SPDX-License-Identifier: Apache-2.0
// The regular expressions of tokenizer.json, which are Oniguruma's, run by PCRE2 (UTF, Unicode properties, JIT).
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

namespace sao::detail {

/// A compiled pattern. A value; copies share it; safe to use from many threads.
class Regex {
 public:
  /// Throws InputError, beginning with `where`, for a pattern that cannot be compiled or whose meaning differs
  /// between the two libraries.
  Regex(std::string_view pattern, const std::string& where);
  /// A pattern that matches `text` literally.
  static std::string escape(std::string_view text);

  struct Match {
    std::size_t begin = 0;
    std::size_t end = 0;
  };

  /// Finds matches one after the other in one text; one thread, not longer than its text and its Regex.
  class Finder {
   public:
    /// `text` must be valid UTF-8.
    Finder(const Regex& regex, std::string_view text);
    ~Finder();
    Finder(const Finder&) = delete;
    Finder& operator=(const Finder&) = delete;
    /// The next non-empty match, or false.
    bool next(Match& match);

   private:
    const Regex& regex_;
    std::string_view text_;
    std::size_t position_ = 0;
    void* match_data_;
  };

  /// Whether the pattern matches somewhere in `text`.
  bool found_in(std::string_view text) const;

 private:
  std::shared_ptr<void> code_;
  std::string where_;
};

/// The same pattern in PCRE2's syntax: white space, words, letters and numbers as Oniguruma defines them.
std::string to_pcre2(std::string_view pattern, const std::string& where);

}  // namespace sao::detail

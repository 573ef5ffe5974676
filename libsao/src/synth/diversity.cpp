// SPDX-License-Identifier: Apache-2.0
#include "sao/synth/diversity.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "sao/base/error.h"
#include "synth/minhash.h"
#include "synth/words.h"

namespace sao {
namespace {

using Words = std::vector<std::string>;
/// An n-gram is known by 64 bits of hash: among the 1e7 n-grams of a large set the chance of any clash is below 1e-5.
using Ngram = std::uint64_t;
using NgramCounts = std::vector<std::pair<Ngram, std::int64_t>>;  // each once, ascending

double share(double part, double whole) { return whole > 0 ? part / whole : 0.0; }

std::vector<Words> words_of(std::span<const std::string> texts) {
  std::vector<Words> all;
  all.reserve(texts.size());
  for (const std::string& text : texts) all.push_back(detail::words(text));
  return all;
}

/// Number of n-grams in a text of so many words.
std::int64_t ngram_total(const Words& words, std::size_t n) {
  return words.size() < n ? 0 : static_cast<std::int64_t>(words.size() - n + 1);
}

NgramCounts count_ngrams(const Words& words, std::size_t n) {
  std::vector<Ngram> all;
  if (words.size() >= n) all.reserve(words.size() - n + 1);
  for (std::size_t begin = 0; begin + n <= words.size(); ++begin) all.push_back(detail::ngram_hash(words, begin, n));
  std::sort(all.begin(), all.end());
  NgramCounts counts;
  for (Ngram ngram : all) {
    if (counts.empty() || counts.back().first != ngram) counts.emplace_back(ngram, 0);
    ++counts.back().second;
  }
  return counts;
}

double exact_duplicates(const std::vector<Words>& texts) {
  std::unordered_set<std::string> different;
  for (const Words& words : texts) different.insert(fmt::format("{}", fmt::join(words, " ")));
  return share(static_cast<double>(texts.size() - different.size()), static_cast<double>(texts.size()));
}

double near_duplicates(const std::vector<Words>& texts, double threshold, std::int64_t ngram) {
  // Equal texts are counted together, so that a set of many copies stays fast.
  std::unordered_map<std::string, std::size_t> group_of;
  std::vector<std::size_t> members;
  std::vector<bool> has_neighbour;
  detail::NearDuplicateIndex index(threshold);
  for (const Words& words : texts) {
    const auto [group, is_new] = group_of.try_emplace(fmt::format("{}", fmt::join(words, " ")), members.size());
    if (!is_new) {
      ++members[group->second];
      has_neighbour[group->second] = true;
      continue;
    }
    detail::Shingles shingles = detail::shingles(words, ngram);
    const std::vector<std::size_t> neighbours = index.find(shingles, /*first_only=*/false);
    members.push_back(1);
    has_neighbour.push_back(!neighbours.empty());
    for (std::size_t neighbour : neighbours) has_neighbour[neighbour] = true;
    index.add(std::move(shingles));
  }
  std::size_t count = 0;
  for (std::size_t group = 0; group < members.size(); ++group) count += has_neighbour[group] ? members[group] : 0;
  return share(static_cast<double>(count), static_cast<double>(texts.size()));
}

double repeated_ngrams(const std::vector<Words>& texts, std::size_t n) {
  struct Use {
    std::int64_t texts = 0;
    std::int64_t occurrences = 0;
  };
  std::unordered_map<Ngram, Use> uses;
  for (const Words& words : texts) {
    for (const auto& [ngram, count] : count_ngrams(words, n)) {
      Use& use = uses[ngram];
      ++use.texts;
      use.occurrences += count;
    }
  }
  std::int64_t repeated = 0, total = 0;
  for (const auto& [ngram, use] : uses) {
    total += use.occurrences;
    if (use.texts > 1) repeated += use.occurrences;
  }
  return share(static_cast<double>(repeated), static_cast<double>(total));
}

double distinct_ngrams(const std::vector<Words>& texts, std::size_t n) {
  std::unordered_set<Ngram> different;
  std::int64_t total = 0;
  for (const Words& words : texts) {
    for (const auto& [ngram, count] : count_ngrams(words, n)) {
      different.insert(ngram);
      total += count;
    }
  }
  return share(static_cast<double>(different.size()), static_cast<double>(total));
}

/// The largest count of an n-gram in one text, and the largest in any other text.
struct LargestCounts {
  std::size_t owner = 0;
  std::int64_t largest = 0;
  std::int64_t second = 0;

  void add(std::size_t text, std::int64_t count) {
    if (count > largest) {
      second = std::exchange(largest, count);
      owner = text;
    } else {
      second = std::max(second, count);
    }
  }
  std::int64_t outside(std::size_t text) const { return text == owner ? second : largest; }
};

double self_bleu_of(const std::vector<Words>& texts) {
  constexpr std::size_t kOrders = 4;
  constexpr double kNoMatch = 0.1;
  if (texts.size() < 2) return 0.0;

  std::vector<std::array<double, kOrders>> matches(texts.size());
  for (std::size_t n = 1; n <= kOrders; ++n) {
    std::vector<NgramCounts> counts;
    counts.reserve(texts.size());
    std::unordered_map<Ngram, LargestCounts> largest;
    for (std::size_t i = 0; i < texts.size(); ++i) {
      counts.push_back(count_ngrams(texts[i], n));
      for (const auto& [ngram, count] : counts[i]) largest[ngram].add(i, count);
    }
    for (std::size_t i = 0; i < texts.size(); ++i) {
      std::int64_t clipped = 0;
      for (const auto& [ngram, count] : counts[i]) clipped += std::min(count, largest[ngram].outside(i));
      matches[i][n - 1] = static_cast<double>(clipped);
    }
  }

  std::vector<std::int64_t> lengths;
  for (const Words& words : texts) lengths.push_back(static_cast<std::int64_t>(words.size()));
  std::sort(lengths.begin(), lengths.end());
  const auto closest_other_length = [&](std::int64_t length) {
    const auto [first, last] = std::equal_range(lengths.begin(), lengths.end(), length);
    if (last - first > 1) return length;
    if (first == lengths.begin()) return *last;
    const std::int64_t shorter = *(first - 1);
    return last == lengths.end() || length - shorter <= *last - length ? shorter : *last;
  };

  double sum = 0;
  for (std::size_t i = 0; i < texts.size(); ++i) {
    if (matches[i][0] == 0) continue;
    double log_precision = 0;
    for (std::size_t n = 1; n <= kOrders; ++n) {
      const double total = static_cast<double>(std::max<std::int64_t>(1, ngram_total(texts[i], n)));
      const double matched = matches[i][n - 1] > 0 ? matches[i][n - 1] : kNoMatch;
      log_precision += std::log(matched / total) / static_cast<double>(kOrders);
    }
    const auto length = static_cast<std::int64_t>(texts[i].size());
    const std::int64_t reference = closest_other_length(length);
    const double penalty =
        length > reference ? 0.0 : 1.0 - static_cast<double>(reference) / static_cast<double>(length);
    sum += std::exp(log_precision + penalty);
  }
  return sum / static_cast<double>(texts.size());
}

std::vector<std::string> drawn(std::span<const std::string> texts, std::int64_t max_texts, Seed seed) {
  if (static_cast<std::int64_t>(texts.size()) <= max_texts) return {texts.begin(), texts.end()};
  std::vector<std::string> some;
  for (std::size_t index : permutation(seed, texts.size())) {
    if (static_cast<std::int64_t>(some.size()) == max_texts) break;
    some.push_back(texts[index]);
  }
  return some;
}

void check_ngram(const char* where, std::int64_t n) {
  if (n < 1) throw InputError(fmt::format("{}: {}, expected at least 1", where, n));
}

void check_threshold(double threshold) {
  if (!(threshold >= 0.7 && threshold <= 1.0)) {
    throw InputError(fmt::format("near_duplicate_threshold: {}, expected 0.7 to 1", threshold));
  }
}

}  // namespace

double exact_duplicate_share(std::span<const std::string> texts) { return exact_duplicates(words_of(texts)); }

double near_duplicate_share(std::span<const std::string> texts, double threshold, std::int64_t ngram) {
  check_threshold(threshold);
  check_ngram("near_duplicate_ngram", ngram);
  return near_duplicates(words_of(texts), threshold, ngram);
}

double repeated_ngram_share(std::span<const std::string> texts, std::int64_t ngram) {
  check_ngram("repeated_ngram", ngram);
  return repeated_ngrams(words_of(texts), static_cast<std::size_t>(ngram));
}

double distinct_ngram_share(std::span<const std::string> texts, std::int64_t ngram) {
  check_ngram("distinct n-gram", ngram);
  return distinct_ngrams(words_of(texts), static_cast<std::size_t>(ngram));
}

double self_bleu(std::span<const std::string> texts, std::int64_t max_texts, Seed seed) {
  if (max_texts < 2) throw InputError(fmt::format("self_bleu_texts: {}, expected at least 2", max_texts));
  return self_bleu_of(words_of(drawn(texts, max_texts, seed)));
}

Diversity measure_diversity(std::span<const std::string> texts, const DiversityOptions& options) {
  check_threshold(options.near_duplicate_threshold);
  check_ngram("near_duplicate_ngram", options.near_duplicate_ngram);
  check_ngram("repeated_ngram", options.repeated_ngram);
  const std::vector<Words> all = words_of(texts);
  Diversity diversity;
  diversity.texts = static_cast<std::int64_t>(texts.size());
  diversity.exact_duplicate_share = exact_duplicates(all);
  diversity.near_duplicate_share = near_duplicates(all, options.near_duplicate_threshold, options.near_duplicate_ngram);
  diversity.repeated_ngram_share = repeated_ngrams(all, static_cast<std::size_t>(options.repeated_ngram));
  for (std::size_t n = 1; n <= diversity.distinct.size(); ++n) diversity.distinct[n - 1] = distinct_ngrams(all, n);
  diversity.self_bleu = self_bleu(texts, options.self_bleu_texts, options.seed);
  double words = 0;
  for (const Words& text : all) words += static_cast<double>(text.size());
  diversity.mean_words = share(words, static_cast<double>(all.size()));
  return diversity;
}

}  // namespace sao

// SPDX-License-Identifier: Apache-2.0
// Finds earlier texts that share most of their word n-grams: MinHash signatures (Broder 1997) in a banded index
// (locality-sensitive hashing), every candidate verified on the n-gram sets.
#pragma once

#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

namespace sao::detail {

/// A 64-bit hash of the n words from `begin` on.
std::uint64_t ngram_hash(const std::vector<std::string>& words, std::size_t begin, std::size_t n);

/// Sorted, distinct 64-bit hashes of the word n-grams; the hash of all words when there are fewer than n.
using Shingles = std::vector<std::uint64_t>;
Shingles shingles(const std::vector<std::string>& words, std::int64_t n);

/// |a ∩ b| / |a ∪ b|; 1 for two empty sets.
double jaccard(const Shingles& a, const Shingles& b);

class NearDuplicateIndex {
 public:
  /// Texts found have a Jaccard similarity of at least `threshold`.
  explicit NearDuplicateIndex(double threshold) : threshold_(threshold) {}

  /// Numbers of the added texts that are similar, ascending; with `first_only` at most one of them.
  std::vector<std::size_t> find(const Shingles& text, bool first_only) const;
  /// Adds a text under the next number.
  void add(Shingles text);

 private:
  double threshold_;
  std::vector<Shingles> texts_;
  std::unordered_map<std::uint64_t, std::vector<std::size_t>> buckets_;  // band and its hashes -> texts
};

}  // namespace sao::detail

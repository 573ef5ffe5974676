// SPDX-License-Identifier: Apache-2.0
#include "synth/minhash.h"

#include <algorithm>
#include <array>
#include <limits>

namespace sao::detail {
namespace {

constexpr std::size_t kBands = 32;
constexpr std::size_t kRows = 4;

/// SplitMix64's finaliser: a bijection of 64 bits that mixes well.
std::uint64_t mix(std::uint64_t x) {
  x += 0x9E3779B97F4A7C15ULL;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ULL;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBULL;
  return x ^ (x >> 31);
}

std::uint64_t hash_bytes(const std::string& text, std::uint64_t hash) {
  for (unsigned char byte : text) hash = (hash ^ byte) * 0x100000001B3ULL;  // FNV-1a
  return hash;
}

std::array<std::uint64_t, kBands> band_keys(const Shingles& text) {
  std::array<std::uint64_t, kBands> keys{};
  for (std::size_t band = 0; band < kBands; ++band) {
    std::uint64_t key = mix(band);
    for (std::size_t row = 0; row < kRows; ++row) {
      const std::uint64_t salt = mix(band * kRows + row);
      std::uint64_t smallest = std::numeric_limits<std::uint64_t>::max();
      for (std::uint64_t shingle : text) smallest = std::min(smallest, mix(shingle ^ salt));
      key = mix(key ^ smallest);
    }
    keys[band] = key;
  }
  return keys;
}

}  // namespace

std::uint64_t ngram_hash(const std::vector<std::string>& words, std::size_t begin, std::size_t n) {
  std::uint64_t hash = 0xCBF29CE484222325ULL;
  for (std::size_t i = begin; i < begin + n; ++i) hash = hash_bytes(words[i], hash ^ 0xFF);  // 0xFF is in no word
  return mix(hash);
}

Shingles shingles(const std::vector<std::string>& words, std::int64_t n) {
  const std::size_t length = std::min(words.size(), static_cast<std::size_t>(n));
  Shingles found;
  for (std::size_t begin = 0; length > 0 && begin + length <= words.size(); ++begin) {
    found.push_back(ngram_hash(words, begin, length));
  }
  std::sort(found.begin(), found.end());
  found.erase(std::unique(found.begin(), found.end()), found.end());
  return found;
}

double jaccard(const Shingles& a, const Shingles& b) {
  std::size_t common = 0;
  for (std::size_t i = 0, j = 0; i < a.size() && j < b.size();) {
    if (a[i] == b[j]) {
      ++common, ++i, ++j;
    } else {
      a[i] < b[j] ? ++i : ++j;
    }
  }
  const std::size_t all = a.size() + b.size() - common;
  return all == 0 ? 1.0 : static_cast<double>(common) / static_cast<double>(all);
}

std::vector<std::size_t> NearDuplicateIndex::find(const Shingles& text, bool first_only) const {
  std::vector<std::size_t> candidates;
  for (std::uint64_t key : band_keys(text)) {
    if (const auto bucket = buckets_.find(key); bucket != buckets_.end()) {
      candidates.insert(candidates.end(), bucket->second.begin(), bucket->second.end());
    }
  }
  std::sort(candidates.begin(), candidates.end());
  candidates.erase(std::unique(candidates.begin(), candidates.end()), candidates.end());
  std::vector<std::size_t> similar;
  for (std::size_t candidate : candidates) {
    if (jaccard(text, texts_[candidate]) < threshold_) continue;
    similar.push_back(candidate);
    if (first_only) break;
  }
  return similar;
}

void NearDuplicateIndex::add(Shingles text) {
  for (std::uint64_t key : band_keys(text)) buckets_[key].push_back(texts_.size());
  texts_.push_back(std::move(text));
}

}  // namespace sao::detail

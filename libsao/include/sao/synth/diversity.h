// SPDX-License-Identifier: Apache-2.0
// How varied a set of texts is. Words are as in synth/filters.h: lower-case runs of letters, marks and digits.
//   sao::Diversity d = sao::measure_diversity(texts, {.seed = seed.fork("diversity")});
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>

#include "sao/base/options.h"
#include "sao/base/seed.h"

namespace sao {

struct DiversityOptions {
  double near_duplicate_threshold = 0.8;  ///< Jaccard similarity that makes neighbours; 0.7 to 1
  std::int64_t near_duplicate_ngram = 3;  ///< words in an n-gram of the near-duplicate measure
  std::int64_t repeated_ngram = 4;        ///< words in an n-gram of repeated_ngram_share
  std::int64_t self_bleu_texts = 1000;    ///< self-BLEU is over at most so many texts, drawn by the seed
  Seed seed = {};
};

template <class Visitor, OptionsOf<DiversityOptions> Options>
void visit_fields(Visitor&& visit, Options& options) {
  visit("near_duplicate_threshold", options.near_duplicate_threshold, "Jaccard similarity that makes neighbours");
  visit("near_duplicate_ngram", options.near_duplicate_ngram, "words in an n-gram of the near-duplicate measure");
  visit("repeated_ngram", options.repeated_ngram, "words in an n-gram of repeated_ngram_share");
  visit("self_bleu_texts", options.self_bleu_texts, "texts, at most, over which self-BLEU is taken");
  visit("seed", options.seed, "seed that draws the texts of self-BLEU");
}

/// Every share is in [0, 1] and 0 where its denominator is 0.
struct Diversity {
  std::int64_t texts = 0;
  double exact_duplicate_share = 0;  ///< see the functions below
  double near_duplicate_share = 0;
  double repeated_ngram_share = 0;
  std::array<double, 4> distinct = {};  ///< distinct-1 to distinct-4
  double self_bleu = 0;
  double mean_words = 0;  ///< words a text
};

/// All the measures. Throws InputError: options out of range.
Diversity measure_diversity(std::span<const std::string> texts, const DiversityOptions& options = {});

/// (n - u) / n, u = number of different texts once reduced to their words.
double exact_duplicate_share(std::span<const std::string> texts);

/// |{i : some j != i has J(i, j) >= threshold}| / n, J = |A ∩ B| / |A ∪ B| of the sets of word n-grams of two texts (a
/// text of fewer words is one n-gram; two texts without words have J = 1). Exact duplicates count. Candidates
/// come from MinHash (128 hashes, 32 bands of 4), and J is computed for each.
double near_duplicate_share(std::span<const std::string> texts, double threshold = 0.8, std::int64_t ngram = 3);

/// Share of the word n-gram occurrences whose n-gram also occurs in another text.
double repeated_ngram_share(std::span<const std::string> texts, std::int64_t ngram = 4);

/// Number of different word n-grams / number of word n-grams, over all texts together.
/// Follows: Li et al. 2016, distinct-n.
double distinct_ngram_share(std::span<const std::string> texts, std::int64_t ngram);

/// Mean over the texts of BLEU-4 of a text against all others as references: BP * exp(sum_{n=1..4} log(p_n) / 4),
/// p_n = matches clipped by the largest count in one reference / max(1, n-grams of the text), 0.1 in place of no match
/// (NLTK's smoothing "method1"), a text without any matching word scores 0; BP = 1 where the text is longer than
/// the reference r of the closest length (the shorter of two), else exp(1 - r / words). A text without words scores 0.
/// With more than `max_texts` texts, so many are drawn by `seed` and measured among themselves (self-BLEU grows with
/// the number of references, so compare sets of one size). Exact in time linear in the words. 0 for fewer than two
/// texts. Follows: Zhu et al. 2018 (Texygen), as nltk.translate.bleu_score.sentence_bleu. Checked by diversity_test.
double self_bleu(std::span<const std::string> texts, std::int64_t max_texts = 1000, Seed seed = {});

}  // namespace sao

// SPDX-License-Identifier: Apache-2.0
// Sampling: the tokens that transformers keeps, the plain LibTorch form, and plain counting.
#include "sao/ops/sample.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <limits>
#include <map>
#include <numeric>
#include <sstream>

#include "ops/sample_row.h"
#include "sao/base/error.h"
#include "sao/base/seed.h"
#include "sao/ops/log_probs.h"
#include "support/close.h"
#include "support/paths.h"

namespace sao::ops {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

std::span<const float> row_of(const at::Tensor& logits, std::int64_t row) {
  return {logits.const_data_ptr<float>() + row * logits.size(1), static_cast<std::size_t>(logits.size(1))};
}

std::vector<bool> kept_by_sampler(const at::Tensor& logits, std::int64_t row, const SampleOptions& options) {
  RowSampler sampler(options);
  EXPECT_TRUE(sampler.prepare(row_of(logits, row)));
  std::vector<bool> kept;
  for (const float weight : sampler.weights()) kept.push_back(weight > 0.0f);
  return kept;
}

std::vector<bool> kept_by_twin(const at::Tensor& logits, std::int64_t row, const SampleOptions& options) {
  const at::Tensor p = sampling_distribution(logits.narrow(0, row, 1), options)[0].contiguous();
  std::vector<bool> kept;
  for (std::int64_t i = 0; i < p.size(0); ++i) kept.push_back(p.const_data_ptr<double>()[i] > 0.0);
  return kept;
}

Drawn draw_one(const at::Tensor& logits, double uniform, const SampleOptions& options) {
  const Draw draw{.row = 0, .uniform = uniform};
  Drawn drawn;
  sample(logits, {&draw, 1}, options, {&drawn, 1});
  return drawn;
}

TEST(Sample, KeepsTheTokensThatTransformersKeeps) {
  constexpr std::int64_t kRows = 6, kVocabulary = 301;
  at::Tensor logits = at::empty({kRows, kVocabulary});
  std::ifstream binary(testing::golden("sample") / "logits.f32", std::ios::binary);
  ASSERT_TRUE(binary.read(static_cast<char*>(logits.mutable_data_ptr()), kRows * kVocabulary * 4));
  std::ifstream cases(testing::golden("sample") / "kept.txt");
  std::string line;
  int count = 0;
  while (std::getline(cases, line)) {
    std::istringstream fields(line);
    std::int64_t row;
    SampleOptions options;
    std::string hex;
    ASSERT_TRUE(fields >> row >> options.temperature >> options.top_k >> options.top_p >> options.min_p >> hex);
    std::vector<bool> expected;
    for (const char c : hex) {
      const int digit = std::stoi(std::string(1, c), nullptr, 16);
      for (int bit = 3; bit >= 0; --bit) expected.push_back((digit >> bit & 1) != 0);
    }
    // The number has no leading zeros: align it at its last bit, token 300.
    if (expected.size() > kVocabulary) expected.erase(expected.begin(), expected.end() - kVocabulary);
    expected.insert(expected.begin(), kVocabulary - expected.size(), false);
    EXPECT_EQ(kept_by_sampler(logits, row, options), expected) << line.substr(0, 30);
    EXPECT_EQ(kept_by_twin(logits, row, options), expected) << line.substr(0, 30);
    ++count;
  }
  EXPECT_GT(count, 1000);
}

TEST(Sample, AgreesWithThePlainForm) {
  at::manual_seed(3);
  const Seed seed{5};
  std::uint64_t position = 0;
  for (const std::int64_t V : {1, 2, 3, 5, 63, 64, 65, 770, 5000}) {
    const at::Tensor logits = at::randn({4, V}) * at::tensor({0.1f, 1.0f, 3.0f, 20.0f}).unsqueeze(1);
    for (const SampleOptions& options : std::vector<SampleOptions>{{},
                                                                   {.temperature = 0.6, .top_p = 0.95},
                                                                   {.temperature = 1.7, .top_k = 20},
                                                                   {.top_k = 50, .top_p = 0.8, .min_p = 0.1},
                                                                   {.min_p = 0.05},
                                                                   {.temperature = 1e-4},
                                                                   {.temperature = 1e-300},
                                                                   {.temperature = 0.0}}) {
      const at::Tensor distribution = sampling_distribution(logits, options);
      EXPECT_TRUE(testing::close(distribution.sum(1), at::ones({4}), 1e-12));
      const at::Tensor sums = distribution.cumsum(1), log_probs = at::log_softmax(logits.to(at::kDouble), 1);
      std::vector<Draw> draws;
      for (std::int64_t i = 0; i < 400; ++i) draws.push_back({.row = i % 4, .uniform = uniform(seed, position++)});
      draws[0].uniform = 0.0;
      draws[1].uniform = 1.0 - 0x1p-53;
      std::vector<Drawn> drawn(draws.size());
      sample(logits, draws, options, drawn);
      for (std::size_t i = 0; i < draws.size(); ++i) {
        const std::int64_t r = draws[i].row, id = drawn[i].id;
        ASSERT_TRUE(id >= 0 && id < V);
        const double p = distribution[r][id].item<double>(), end = sums[r][id].item<double>();
        EXPECT_GT(p, 0.0) << "a dropped token was drawn";
        if (options.temperature > 0.0) {
          EXPECT_GE(end, draws[i].uniform - 1e-6);
          EXPECT_LE(end - p, draws[i].uniform + 1e-6);
        }
        EXPECT_NEAR(drawn[i].log_prob, log_probs[r][id].item<double>(), 4e-6 * (1.0 + std::abs(drawn[i].log_prob)));
      }
    }
  }
}

TEST(Sample, OtherDtypesTakeThePlainPath) {
  at::manual_seed(4);
  const at::Tensor logits = at::randn({3, 50}) * 2.0;
  const SampleOptions options{.temperature = 0.9, .top_k = 30, .top_p = 0.9};
  std::vector<Draw> draws;
  for (std::int64_t i = 0; i < 300; ++i)
    draws.push_back({.row = i % 3, .uniform = uniform(Seed{6}, static_cast<std::uint64_t>(i))});
  std::vector<Drawn> fast(draws.size()), plain(draws.size());
  sample(logits, draws, options, fast);
  sample(logits.to(at::kDouble), draws, options, plain);
  for (std::size_t i = 0; i < draws.size(); ++i) {
    EXPECT_EQ(fast[i].id, plain[i].id);
    EXPECT_NEAR(fast[i].log_prob, plain[i].log_prob, 2e-6);
  }
}

TEST(Sample, GreedyTakesTheLowestIdOfEquals) {
  at::Tensor logits = at::zeros({1, 9});
  logits[0][3] = logits[0][7] = 2.5;
  EXPECT_EQ(draw_one(logits, 0.999, {.temperature = 0.0}).id, 3);
  EXPECT_EQ(draw_one(logits.to(at::kDouble), 0.999, {.temperature = 0.0}).id, 3);
  // top-k of one keeps both equals, as transformers does; top-p takes the lower id first.
  EXPECT_EQ(draw_one(logits, 0.999, {.top_k = 1}).id, 7);
  EXPECT_EQ(draw_one(logits, 0.999, {.top_p = 0.01}).id, 3);
}

TEST(Sample, TopPKeepsTheLowestIdsOfEquals) {
  const at::Tensor logits = at::zeros({1, 100});
  for (const auto& [top_p, expected] : std::map<double, std::int64_t>{{0.005, 1}, {0.105, 11}, {0.995, 100}}) {
    const std::vector<bool> kept = kept_by_sampler(logits, 0, {.top_p = top_p});
    EXPECT_EQ(std::count(kept.begin(), kept.end(), true), expected);
    EXPECT_TRUE(std::all_of(kept.begin(), kept.begin() + expected, [](bool k) { return k; }));
    EXPECT_EQ(kept_by_twin(logits, 0, {.top_p = top_p}), kept);
  }
}

// The row's neighbours, its place in memory, the other draws and the threads change nothing.
TEST(Sample, ADrawDependsOnItsRowAndItsNumberOnly) {
  at::manual_seed(8);
  const std::int64_t V = 1003, rows = 37;
  const at::Tensor logits = at::randn({rows, V}) * 3.0;
  const SampleOptions options{.temperature = 0.8, .top_k = 200, .top_p = 0.9};
  std::vector<Draw> draws;
  for (std::int64_t i = 0; i < 500; ++i) {
    draws.push_back({.row = (i * 7) % rows, .uniform = uniform(Seed{9}, static_cast<std::uint64_t>(i))});
  }
  std::vector<Drawn> together(draws.size()), again(draws.size());
  sample(logits, draws, options, together);
  const int threads = at::get_num_threads();
  at::set_num_threads(1);
  const at::Tensor shifted = at::cat({at::zeros({rows, 1}), logits}, 1).narrow(1, 1, V);  // other alignment and stride
  sample(shifted, draws, options, again);
  at::set_num_threads(threads);
  for (std::size_t i = 0; i < draws.size(); ++i) {
    const Drawn alone = draw_one(logits.narrow(0, draws[i].row, 1).clone(), draws[i].uniform, options);
    EXPECT_EQ(alone.id, together[i].id);
    EXPECT_EQ(alone.log_prob, together[i].log_prob);
    EXPECT_EQ(again[i].id, together[i].id);
    EXPECT_EQ(again[i].log_prob, together[i].log_prob);
  }
}

TEST(Sample, FrequenciesFollowTheDistribution) {
  at::manual_seed(10);
  const std::int64_t V = 40, count = 200000;
  const at::Tensor logits = at::randn({1, V}) * 1.5;
  for (const SampleOptions& options :
       std::vector<SampleOptions>{{.temperature = 0.7}, {.temperature = 1.3, .top_k = 25, .top_p = 0.9}}) {
    std::vector<Draw> draws(count);
    for (std::int64_t i = 0; i < count; ++i)
      draws[static_cast<std::size_t>(i)].uniform = uniform(Seed{11}, static_cast<std::uint64_t>(i));
    std::vector<Drawn> drawn(draws.size());
    sample(logits, draws, options, drawn);
    const at::Tensor expected = sampling_distribution(logits, options)[0] * count;
    std::vector<double> found(V, 0.0);
    for (const Drawn& d : drawn) found[static_cast<std::size_t>(d.id)] += 1.0;
    double chi_square = 0.0, degrees = -1.0;
    for (std::int64_t id = 0; id < V; ++id) {
      const double e = expected[id].item<double>();
      if (e == 0.0) {
        EXPECT_EQ(found[static_cast<std::size_t>(id)], 0.0);
        continue;
      }
      chi_square += (found[static_cast<std::size_t>(id)] - e) * (found[static_cast<std::size_t>(id)] - e) / e;
      degrees += 1.0;
    }
    EXPECT_LT(chi_square, degrees + 4.0 * std::sqrt(2.0 * degrees));
    EXPECT_GT(chi_square, degrees - 4.0 * std::sqrt(2.0 * degrees));
  }
}

TEST(Sample, MaskedTokensAreNeverDrawnAndBrokenRowsAreRefused) {
  at::Tensor logits = at::full({1, 20}, -kInfinity);
  logits[0][4] = 1.0;
  logits[0][17] = -200.0;
  for (const double u : {0.0, 0.5, 1.0 - 0x1p-53}) EXPECT_EQ(draw_one(logits, u, {}).id, 4);
  EXPECT_EQ(draw_one(logits, 0.5, {}).log_prob, 0.0f);
  for (const float bad : {std::nanf(""), kInfinity}) {
    for (const std::int64_t at : {0, 4, 16, 19}) {
      at::Tensor broken = logits.clone();
      broken[0][at] = bad;
      EXPECT_THROW(draw_one(broken, 0.5, {}), InputError);
      EXPECT_THROW(draw_one(broken, 0.5, {.temperature = 0.0}), InputError);
      EXPECT_THROW(draw_one(broken.to(at::kDouble), 0.5, {}), InputError);
      for (const at::Tensor& z : {broken, broken.to(at::kDouble)}) {
        EXPECT_THROW(token_log_probs(z, std::vector<RowToken>{{.row = 0, .id = 2}}), InputError);
      }
    }
  }
  EXPECT_THROW(draw_one(at::full({1, 20}, -kInfinity), 0.5, {}), InputError);
}

TEST(Sample, RefusesOptionsOutOfRange) {
  const at::Tensor logits = at::zeros({1, 4});
  for (const SampleOptions& options : std::vector<SampleOptions>{{.temperature = -0.1},
                                                                 {.temperature = std::nan("")},
                                                                 {.temperature = kInfinity},
                                                                 {.top_k = -1},
                                                                 {.top_p = 0.0},
                                                                 {.top_p = 1.1},
                                                                 {.min_p = -0.1},
                                                                 {.min_p = 1.5}}) {
    EXPECT_THROW(draw_one(logits, 0.5, options), InputError);
    EXPECT_THROW(sampling_distribution(logits, options), InputError);
  }
  EXPECT_THROW(draw_one(logits, 1.0, {}), InputError);
  EXPECT_THROW(draw_one(logits, -0.1, {}), InputError);
  EXPECT_THROW(draw_one(at::zeros({4}), 0.5, {}), InputError);
  const std::vector<Draw> draws(2);
  Drawn drawn;
  EXPECT_THROW(sample(logits, draws, {}, {&drawn, 1}), InputError);
}

// What was drawn, what is asked for and what the loss computes are one number.
TEST(Sample, LogProbsAreThoseOfLogProbs) {
  at::manual_seed(12);
  const at::Tensor hidden = at::randn({5, 24}), weight = at::randn({333, 24});
  const at::Tensor logits = at::linear(hidden, weight);
  for (std::int64_t row = 0; row < 5; ++row) {
    const Draw draw{.row = row, .uniform = 0.4};
    Drawn drawn;
    sample(logits, {&draw, 1}, {}, {&drawn, 1});
    EXPECT_EQ(token_log_probs(logits, std::vector<RowToken>{{0, 1}, {row, drawn.id}, {row, 0}})[1], drawn.log_prob);
    EXPECT_NEAR(token_log_probs(logits.to(at::kDouble), std::vector<RowToken>{{row, 0}, {row, drawn.id}})[1],
                drawn.log_prob, 1e-5);
    const at::Tensor expected =
        log_probs(hidden.narrow(0, row, 1), weight, at::tensor({static_cast<std::int64_t>(drawn.id)}));
    EXPECT_NEAR(expected.item<double>(), drawn.log_prob, 1e-5);
  }
  for (const RowToken wrong : {RowToken{0, 333}, RowToken{0, -1}, RowToken{5, 0}, RowToken{-1, 0}}) {
    EXPECT_THROW(token_log_probs(logits, {&wrong, 1}), InputError);
  }
}

}  // namespace
}  // namespace sao::ops

// SPDX-License-Identifier: Apache-2.0
#include "sao/ops/log_probs.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/GradMode.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "sao/base/error.h"
#include "sao/ops/linear.h"
#include "support/counting_allocator.h"

namespace sao::ops {
namespace {

// The twin: the definition, with whole logits.
at::Tensor reference(const at::Tensor& hidden, const at::Tensor& weight, const at::Tensor& targets, double softcap) {
  at::Tensor z = hidden.matmul(weight.t());
  if (z.scalar_type() != at::kDouble) z = z.to(at::kFloat);
  if (softcap > 0.0) z = (z / softcap).tanh() * softcap;
  return z.log_softmax(1).gather(1, targets.unsqueeze(1)).squeeze(1);
}

struct Case {
  at::Tensor hidden, weight, targets, grad;
};

Case make_case(std::int64_t n, std::int64_t width, std::int64_t vocabulary, at::ScalarType dtype, double scale = 1.0) {
  at::manual_seed(7);
  Case c;
  c.hidden = at::randn({n, width}, at::kDouble).mul_(scale).to(dtype).requires_grad_();
  c.weight = at::randn({vocabulary, width}, at::kDouble).to(dtype).requires_grad_();
  c.targets = at::randint(vocabulary, {n}, at::kLong);
  c.grad = at::randn({n}, dtype == at::kDouble ? at::kDouble : at::kFloat);
  return c;
}

double relative_error(const at::Tensor& value, const at::Tensor& expected) {
  const at::Tensor difference = value.to(at::kDouble) - expected.to(at::kDouble);
  return (difference.norm() / expected.to(at::kDouble).norm()).item<double>();
}

class LogProbsShapes : public ::testing::TestWithParam<std::tuple<std::int64_t, std::int64_t, double>> {};

TEST_P(LogProbsShapes, MatchesTwinInFloat32WithGradients) {
  const auto [n, chunk, softcap] = GetParam();
  const Case c = make_case(n, 24, 5003, at::kFloat);
  const at::Tensor value = log_probs(c.hidden, c.weight, c.targets, {.logit_softcap = softcap, .chunk_tokens = chunk});
  value.backward(c.grad);
  const at::Tensor hidden = c.hidden.detach().to(at::kDouble).requires_grad_();
  const at::Tensor weight = c.weight.detach().to(at::kDouble).requires_grad_();
  const at::Tensor expected = reference(hidden, weight, c.targets, softcap);
  expected.backward(c.grad.to(at::kDouble));
  EXPECT_EQ(value.scalar_type(), at::kFloat);
  EXPECT_LT((value - expected).abs().max().item<double>(), 2e-5);
  EXPECT_LT(relative_error(c.hidden.grad(), hidden.grad()), 2e-6);
  EXPECT_LT(relative_error(c.weight.grad(), weight.grad()), 2e-6);
}

// Several blocks of the vocabulary, and rows enough to be shared out.
INSTANTIATE_TEST_SUITE_P(Blocks, LogProbsShapes,
                         ::testing::Combine(::testing::Values(3, 1000), ::testing::Values(40, 512),
                                            ::testing::Values(30.0)));

INSTANTIATE_TEST_SUITE_P(Chunks, LogProbsShapes,
                         ::testing::Combine(::testing::Values(1, 5, 16, 37), ::testing::Values(1, 8, 512),
                                            ::testing::Values(0.0, 3.0, 30.0)));

TEST(LogProbs, Float64IsExactAndGradientsMatchFiniteDifferences) {
  for (const double softcap : {0.0, 2.5}) {
    const Case c = make_case(5, 4, 11, at::kDouble);
    const LogProbsOptions options{.logit_softcap = softcap, .chunk_tokens = 2};
    const at::Tensor value = log_probs(c.hidden, c.weight, c.targets, options);
    ASSERT_EQ(value.scalar_type(), at::kDouble);
    EXPECT_LT((value - reference(c.hidden, c.weight, c.targets, softcap)).abs().max().item<double>(), 1e-13);
    value.backward(c.grad);
    const c10::NoGradGuard no_grad;
    for (const at::Tensor& input : {c.hidden, c.weight}) {
      const at::Tensor flat = input.detach().view(-1), analytic = input.grad().view(-1);
      for (std::int64_t i = 0; i < flat.numel(); ++i) {
        const double original = flat[i].item<double>(), step = 1e-6;
        const auto objective = [&](double x) {
          flat[i].fill_(x);
          return log_probs(c.hidden, c.weight, c.targets, options).dot(c.grad).item<double>();
        };
        const double numeric = (objective(original + step) - objective(original - step)) / (2.0 * step);
        flat[i].fill_(original);
        EXPECT_NEAR(analytic[i].item<double>(), numeric, 1e-8);
      }
    }
  }
}

TEST(LogProbs, LargeLogitsStayFinite) {
  for (const double softcap : {0.0, 30.0}) {
    const Case c = make_case(6, 16, 500, at::kFloat, 300.0);
    const at::Tensor value = log_probs(c.hidden, c.weight, c.targets, {.logit_softcap = softcap});
    const at::Tensor expected =
        reference(c.hidden.detach().to(at::kDouble), c.weight.detach().to(at::kDouble), c.targets, softcap);
    EXPECT_LT(relative_error(value.detach(), expected), 1e-6);
    value.sum().backward();
    EXPECT_TRUE(c.weight.grad().isfinite().all().item<bool>());
  }
}

TEST(LogProbs, LongRowsKeepTheirLowBits) {
  const Case c = make_case(3, 8, 256000, at::kFloat, 0.1);
  const c10::NoGradGuard no_grad;
  const at::Tensor expected = reference(c.hidden.to(at::kDouble), c.weight.to(at::kDouble), c.targets, 0.0);
  EXPECT_LT((log_probs(c.hidden, c.weight, c.targets) - expected).abs().max().item<double>(), 5e-6);
}

TEST(LogProbs, Bfloat16AccumulatesTheWeightGradientInFloat32) {
  const Case c = make_case(64, 16, 50, at::kBFloat16);
  const auto gradient = [&](std::int64_t begin, std::int64_t rows, std::int64_t chunk) {
    c.weight.mutable_grad() = at::Tensor();
    log_probs(c.hidden.narrow(0, begin, rows), c.weight, c.targets.narrow(0, begin, rows), {.chunk_tokens = chunk})
        .sum()
        .backward();
    return c.weight.grad();
  };
  const at::Tensor whole = gradient(0, 64, 64), split = gradient(0, 64, 1);
  EXPECT_EQ(split.scalar_type(), at::kBFloat16);
  at::Tensor added_up_in_bfloat16 = at::zeros_like(whole);
  for (std::int64_t row = 0; row < 64; ++row) added_up_in_bfloat16.add_(gradient(row, 1, 1));
  // With one row a chunk the sum over rows has 64 roundings; in float32 they stay invisible.
  constexpr double kLimit = 0.003;
  std::printf("%g %g\n", relative_error(split, whole), relative_error(added_up_in_bfloat16, whole));
  EXPECT_LT(relative_error(split, whole), kLimit);
  EXPECT_GT(relative_error(added_up_in_bfloat16, whole), kLimit);
}

TEST(LogProbs, OneInputMayBeFrozen) {
  const Case c = make_case(9, 8, 40, at::kFloat);
  log_probs(c.hidden, c.weight.detach(), c.targets, {.chunk_tokens = 4}).backward(c.grad);
  const at::Tensor hidden_grad = c.hidden.grad().clone();
  log_probs(c.hidden.detach(), c.weight, c.targets, {.chunk_tokens = 4}).backward(c.grad);
  c.hidden.mutable_grad() = at::Tensor();
  const at::Tensor weight_grad = c.weight.grad().clone();
  c.weight.mutable_grad() = at::Tensor();
  log_probs(c.hidden, c.weight, c.targets, {.chunk_tokens = 4}).backward(c.grad);
  EXPECT_TRUE(at::equal(hidden_grad, c.hidden.grad()));
  EXPECT_TRUE(at::equal(weight_grad, c.weight.grad()));
}

TEST(LogProbs, RowsAreIndependentWithGradientsOff) {
  const Case c = make_case(45, 32, 2777, at::kFloat);
  const c10::NoGradGuard no_grad;
  const at::Tensor all = log_probs(c.hidden, c.weight, c.targets, {.logit_softcap = 30.0, .chunk_tokens = 20});
  for (const std::int64_t begin : {0, 3, 21, 44}) {
    for (const std::int64_t count : {1, 7, 24}) {
      if (begin + count > 45) continue;
      const at::Tensor part = log_probs(c.hidden.narrow(0, begin, count), c.weight, c.targets.narrow(0, begin, count),
                                        {.logit_softcap = 30.0});
      EXPECT_TRUE(at::equal(part, all.narrow(0, begin, count))) << begin << " " << count;
    }
  }
}

TEST(LogProbs, ANanAnywhereInTheVocabularyIsNotSwallowed) {
  const Case c = make_case(3, 8, 5000, at::kFloat);
  const c10::NoGradGuard no_grad;
  for (const std::int64_t row : {0, 1007, 1008, 1016, 1023, 1024, 4999}) {
    at::Tensor weight = c.weight.detach().clone();
    weight[row].fill_(std::numeric_limits<float>::quiet_NaN());
    EXPECT_TRUE(log_probs(c.hidden, weight, c.targets).isnan().all().item<bool>()) << row;
  }
}

TEST(LogProbs, EmptyInputGivesEmptyOutput) {
  const Case c = make_case(0, 8, 40, at::kFloat);
  const at::Tensor value = log_probs(c.hidden, c.weight, c.targets);
  EXPECT_EQ(value.numel(), 0);
  value.sum().backward();
  EXPECT_EQ(c.weight.grad().abs().sum().item<float>(), 0.0f);
}

TEST(LogProbs, RefusesWhatDoesNotFit) {
  const Case c = make_case(3, 8, 40, at::kFloat);
  EXPECT_THROW(log_probs(c.hidden, c.weight.narrow(1, 0, 7), c.targets), InputError);
  EXPECT_THROW(log_probs(c.hidden, c.weight, c.targets.narrow(0, 0, 2)), InputError);
  EXPECT_THROW(log_probs(c.hidden.to(at::kDouble), c.weight, c.targets), InputError);
  EXPECT_THROW(log_probs(c.hidden, c.weight, c.targets.to(at::kInt)), InputError);
  EXPECT_THROW(log_probs(c.hidden, c.weight, at::full({3}, 40, at::kLong)), InputError);
  EXPECT_THROW(log_probs(c.hidden, c.weight, at::full({3}, -1, at::kLong)), InputError);
  EXPECT_THROW(log_probs(c.hidden, c.weight, c.targets, {.chunk_tokens = 0}), InputError);
  EXPECT_THROW(log_probs(c.hidden, c.weight, c.targets, {.logit_softcap = -1.0}), InputError);
}

TEST(LogProbs, PeakMemoryFollowsTheChunk) {
  constexpr std::int64_t kRows = 512, kWidth = 8, kVocabulary = 20000;
  const std::int64_t logits_bytes = kRows * kVocabulary * 4;
  const testing::CountingAllocator counting;
  const Case c = make_case(kRows, kWidth, kVocabulary, at::kFloat);
  const std::int64_t weight_bytes = kVocabulary * kWidth * 4;
  const std::int64_t of_threads = at::get_num_threads() * 192 * 1024 * 4;  // a block each
  for (const std::int64_t chunk : {16, 64}) {
    const std::int64_t peak = counting.peak_of([&] {
      log_probs(c.hidden, c.weight, c.targets, {.logit_softcap = 30.0, .chunk_tokens = chunk}).sum().backward();
      c.weight.mutable_grad() = at::Tensor();
    });
    EXPECT_LT(peak, std::max(chunk * kVocabulary * 4, of_threads) + 3 * weight_bytes + (1 << 18)) << chunk;
    EXPECT_LT(peak, logits_bytes / 4);
  }
}

TEST(LogProbs, APackedWeightIsUsedWithGradientsOff) {
  constexpr std::int64_t kWidth = 64, kVocabulary = 50000;
  const testing::CountingAllocator counting;
  const Case c = make_case(20, kWidth, kVocabulary, at::kFloat);
  const PackedWeight packed = PackedWeight::pack(std::vector{c.weight});
  const c10::NoGradGuard no_grad;
  const LogProbsOptions options{.logit_softcap = 30.0, .chunk_tokens = 4};
  const at::Tensor expected = log_probs(c.hidden, c.weight, c.targets, options);
  at::Tensor actual;
  const std::int64_t peak = counting.peak_of([&] { actual = log_probs(c.hidden, packed, c.targets, options); });
  EXPECT_TRUE(at::equal(actual, expected));
  EXPECT_LT(peak, kVocabulary * kWidth * 4 / 2);  // nothing of the weight's size
  const PackedWeight other = PackedWeight::pack(std::vector{c.weight.narrow(0, 0, 40)}), none;
  EXPECT_THROW(log_probs(c.hidden, other, c.targets, options), InputError);
  EXPECT_THROW(log_probs(c.hidden, none, c.targets, options), InputError);
}

TEST(LogProbs, StatisticsAreThoseOfTheWholeDistribution) {
  for (const double softcap : {0.0, 3.0}) {
    for (const at::ScalarType dtype : {at::kFloat, at::kDouble}) {
      const Case c = make_case(7, 8, 40, dtype);
      const at::Tensor hidden = c.hidden.detach(), weight = c.weight.detach();
      at::Tensor z = at::mm(hidden, weight.t()).to(at::kDouble);
      if (softcap > 0.0) z = (z / softcap).tanh() * softcap;
      const at::Tensor log_p = at::log_softmax(z, 1), p = log_p.exp();
      const LogProbsOptions options{.logit_softcap = softcap, .chunk_tokens = 3};
      for (const bool grad : {false, true}) {
        TokenStatistics found;
        const at::Tensor logps =
            log_probs(grad ? c.hidden : hidden, grad ? c.weight : weight, c.targets, options, &found);
        EXPECT_TRUE(
            at::equal(logps.detach(),
                      log_probs(grad ? c.hidden : hidden, grad ? c.weight : weight, c.targets, options).detach()));
        const double tolerance = dtype == at::kDouble ? 1e-12 : 1e-5;
        EXPECT_LT((found.entropy.to(at::kDouble) + (p * log_p).sum(1)).abs().max().item<double>(), tolerance);
        EXPECT_LT((found.log_sum_square.to(at::kDouble) - p.square().sum(1).log()).abs().max().item<double>(),
                  tolerance);
        EXPECT_LT((found.mean_logit.to(at::kDouble) - z.mean(1)).abs().max().item<double>(), tolerance);
        EXPECT_TRUE(at::equal(found.is_top, z.argmax(1) == c.targets));
        EXPECT_FALSE(found.entropy.requires_grad());
      }
    }
  }
}

}  // namespace
}  // namespace sao::ops

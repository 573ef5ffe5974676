// SPDX-License-Identifier: Apache-2.0
#include "sao/loss/unpaired.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "sao/base/error.h"
#include "sao/loss/preference.h"
#include "support/message_of.h"

namespace sao {
namespace {

using ::testing::HasSubstr;

UnpairedLogps example() {
  return {.completion = at::tensor({-12.5, -3.25, -40.0, -7.5, -0.75, -21.0}, at::kDouble),
          .reference = at::tensor({-13.0, -3.0, -41.5, -7.0, -1.5, -20.0}, at::kDouble),
          .label = at::tensor({1, 0, 0, 1, 1, 0}),
          .weight = at::tensor({1.0, 0.5, 2.0, 1.0, 0.25, 1.0}, at::kDouble),
          .kl = 0.4};
}

// As TRL's KTOTrainer writes it.
at::Tensor twin(const PreferenceLoss& loss, const UnpairedLogps& x, const at::Tensor& s) {
  const at::Tensor a = s - x.reference, good = x.label.to(at::kDouble);
  if (const KTO* o = std::get_if<KTO>(&loss)) {
    return x.weight * (good * o->desirable_weight * (1 - at::sigmoid(o->beta * (a - x.kl))) +
                       (1 - good) * o->undesirable_weight * (1 - at::sigmoid(o->beta * (x.kl - a))));
  }
  const auto& o = std::get<ApoZeroUnpaired>(loss);
  return x.weight * (good * o.desirable_weight * (1 - at::sigmoid(o.beta * a)) +
                     (1 - good) * o.undesirable_weight * at::sigmoid(o.beta * a));
}

// Both losses, with defaults and without.
std::vector<PreferenceLoss> losses() {
  std::vector<PreferenceLoss> all;
  all.emplace_back(KTO{});
  all.emplace_back(KTO{.beta = 0.7, .desirable_weight = 1.3, .undesirable_weight = 0.6});
  all.emplace_back(ApoZeroUnpaired{});
  all.emplace_back(ApoZeroUnpaired{.beta = 0.7, .desirable_weight = 1.3, .undesirable_weight = 0.6});
  return all;
}

TEST(UnpairedLoss, ValuesAndGradientsMatchTheTwins) {
  for (const PreferenceLoss& loss : losses()) {
    UnpairedLogps logps = example();
    const at::Tensor s = logps.completion.clone().requires_grad_();
    const at::Tensor expected = twin(loss, logps, s);
    expected.sum().backward();
    logps.completion.requires_grad_();
    const UnpairedLosses out = unpaired_loss(loss, logps);
    EXPECT_TRUE(at::allclose(out.loss.detach(), expected.detach(), 1e-12, 1e-14)) << loss_name(loss);
    EXPECT_TRUE(at::allclose(out.gradient, s.grad(), 1e-12, 1e-14)) << loss_name(loss);
    out.loss.mean().backward();
    EXPECT_TRUE(at::allclose(logps.completion.grad() * 6, out.gradient, 1e-12, 1e-14)) << loss_name(loss);
  }
}

TEST(UnpairedLoss, GradientsMatchNumericDerivatives) {
  for (const PreferenceLoss& loss : losses()) {
    const UnpairedLogps logps = example();
    const UnpairedLosses out = unpaired_loss(loss, logps);
    for (std::int64_t i = 0; i < 6; ++i) {
      const auto total = [&](double by) {
        UnpairedLogps moved = logps;
        moved.completion = logps.completion.clone();
        moved.completion[i] += by;
        return unpaired_loss(loss, moved).loss.sum().item<double>();
      };
      EXPECT_NEAR(out.gradient[i].item<double>(), (total(1e-5) - total(-1e-5)) / 2e-5, 1e-9) << loss_name(loss);
    }
  }
}

TEST(UnpairedLoss, ClosedFormsAtZeroGapAndSigns) {
  UnpairedLogps logps = example();
  logps.completion = logps.reference;
  logps.weight = at::Tensor();
  logps.kl = 0.0;
  for (const PreferenceLoss& loss : {PreferenceLoss(KTO{}), PreferenceLoss(ApoZeroUnpaired{})}) {
    const UnpairedLosses out = unpaired_loss(loss, logps);
    EXPECT_TRUE(at::allclose(out.loss, at::full({6}, 0.5, at::kDouble)));
    // Desirable completions are pushed up, undesirable ones down: beta / 4 at zero.
    const at::Tensor sign = 1 - 2 * logps.label.to(at::kDouble);
    EXPECT_TRUE(at::allclose(out.gradient, sign * 0.1 / 4));
  }
  logps.kl = 1e4;  // far below the reference point: desirable rows cost everything, undesirable nothing
  const at::Tensor loss = unpaired_loss(KTO{}, logps).loss;
  EXPECT_TRUE(at::allclose(loss, logps.label.to(at::kDouble)));
}

TEST(UnpairedLoss, KlEstimateIsAMeanThatIsNeverNegative) {
  EXPECT_NEAR(kl_estimate(at::tensor({-1.0, -3.0}), at::tensor({-2.0, -3.5})), 0.75, 1e-12);
  EXPECT_EQ(kl_estimate(at::tensor({-2.0, -3.5}), at::tensor({-1.0, -3.0})), 0.0);
  EXPECT_THAT(testing::message_of([] {
                kl_estimate(at::tensor({-2.0, -3.5}), at::tensor({-1.0}));
              }),
              HasSubstr("reference [1], expected [2]"));
}

TEST(UnpairedLoss, RewardsAreBetaTimesTheRatio) {
  const UnpairedLogps logps = example();
  EXPECT_TRUE(at::allclose(unpaired_loss(KTO{.beta = 0.3}, logps).rewards, 0.3 * (logps.completion - logps.reference)));
}

TEST(UnpairedLoss, RefusesBadInputWithOneSentence) {
  const auto with = [](const PreferenceLoss& loss, auto&& change) {
    UnpairedLogps logps = example();
    change(logps);
    return testing::message_of([&] { unpaired_loss(loss, logps); });
  };
  const auto nothing = [](UnpairedLogps&) {};
  EXPECT_THAT(with(DPO{}, nothing), HasSubstr("dpo is a loss of pairs"));
  EXPECT_THAT(with(KTO{.beta = 0.0}, nothing), HasSubstr("beta is 0"));
  EXPECT_THAT(with(KTO{.desirable_weight = -1.0}, nothing), HasSubstr("desirable_weight is -1"));
  EXPECT_THAT(with(KTO{}, [](UnpairedLogps& l) { l.reference = at::Tensor(); }), HasSubstr("reference is missing"));
  EXPECT_THAT(with(KTO{}, [](UnpairedLogps& l) { l.label = l.label.narrow(0, 0, 2); }), HasSubstr("label [2]"));
  EXPECT_THAT(with(KTO{}, [](UnpairedLogps& l) { l.weight = at::full({6}, -1.0); }), HasSubstr("weight of row 0"));
  EXPECT_THAT(testing::message_of([] { preference_loss(KTO{}, {}); }),
              HasSubstr("kto is a loss of single completions"));
}

}  // namespace
}  // namespace sao

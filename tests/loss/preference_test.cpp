// SPDX-License-Identifier: Apache-2.0
#include "sao/loss/preference.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <map>
#include <numbers>
#include <set>

#include "sao/base/error.h"

namespace sao {
namespace {

using testing::HasSubstr;

// Six pairs with lengths that differ; the same numbers for every loss.
PairLogps example() {
  const auto row = [](std::vector<double> values) { return at::tensor(values, at::kDouble); };
  return {.chosen = row({-12.5, -3.25, -40.0, -7.5, -0.75, -21.0}),
          .rejected = row({-14.0, -9.5, -28.5, -7.25, -2.5, -60.0}),
          .chosen_lengths = row({9, 2, 31, 6, 1, 12}),
          .rejected_lengths = row({11, 5, 17, 6, 2, 44}),
          .reference_chosen = row({-13.0, -3.0, -41.5, -7.0, -1.5, -20.0}),
          .reference_rejected = row({-13.5, -8.5, -27.0, -7.5, -2.25, -61.0}),
          .nll = row({-22.5, -13.25, -48.0, -9.5, -1.75, -29.0}),
          .nll_lengths = row({12, 6, 40, 8, 3, 20})};
}

// The twins: each loss as its reference implementation writes it, differentiated by autograd.
namespace twin {

using at::log_sigmoid;
using at::sigmoid;
using T = at::Tensor;

T f(const FDivergence& d, const T& a) {
  if (d.type == "forward_kl") return 1 - (-a).exp();
  if (d.type == "js_divergence") return std::numbers::ln2 + log_sigmoid(a);
  if (d.type == "alpha_divergence") return (((d.alpha - 1) * a).clamp_max(80).exp() - 1) / (d.alpha - 1);
  return a;
}

struct In {
  T sw, sl, nw, nl, a, b, rw, rl, p, nll, nll_lengths;
  T mw() const { return sw / nw; }
  T ml() const { return sl / nl; }
  T sft() const { return -sw / nw.mean(); }  // its mean over pairs is the token mean
  T other_nll() const { return -nll / nll_lengths.mean(); }
};
T smooth(const T& z, double e) { return -(1 - e) * log_sigmoid(z) - e * log_sigmoid(-z); }
T delta(const FDivergence& d, const In& x) { return f(d, x.a) - f(d, x.b); }
T mean_delta(const FDivergence& d, const In& x) { return f(d, x.a) / x.nw - f(d, x.b) / x.nl; }

T loss(const SimPO& o, const In& x) {
  const T z = x.mw() - x.ml() - o.gamma_beta_ratio;
  const T value = o.hinge ? (1 - o.beta * z).relu() : smooth(o.beta * z, o.label_smoothing);
  return value + o.sft_weight * x.sft();
}
T loss(const DPO& o, const In& x) { return -log_sigmoid(o.beta * delta(o.f_divergence, x)); }
T loss(const CDPO& o, const In& x) { return smooth(o.beta * (x.a - x.b), o.label_smoothing); }
T loss(const RobustDPO& o, const In& x) {
  const T z = o.beta * delta(o.f_divergence, x);
  const double e = o.label_smoothing;
  return (-(1 - e) * log_sigmoid(z) + e * log_sigmoid(-z)) / (1 - 2 * e);
}
T loss(const DPONorm& o, const In& x) { return -log_sigmoid(o.beta * mean_delta(o.f_divergence, x)); }
T loss(const RDPO& o, const In& x) { return -log_sigmoid(o.beta * (x.a - x.b) + (o.alpha * x.nw - o.alpha * x.nl)); }
T loss(const Hinge& o, const In& x) { return (1 - o.beta * delta(o.f_divergence, x)).relu(); }
T loss(const IPO& o, const In& x) {
  return ((o.average ? mean_delta(o.f_divergence, x) : delta(o.f_divergence, x)) - 1 / (2 * o.beta)).square();
}
T loss(const ExoPair& o, const In& x) {
  const T z = o.beta * delta(o.f_divergence, x);
  return sigmoid(z) * (log_sigmoid(z) - std::log(1 - o.label_smoothing)) +
         sigmoid(-z) * (log_sigmoid(-z) - std::log(o.label_smoothing));
}
T loss(const NcaPair& o, const In& x) {
  return -log_sigmoid(o.beta * x.a) - 0.5 * log_sigmoid(-o.beta * x.a) - 0.5 * log_sigmoid(-o.beta * x.b);
}
constexpr double kShift = 0.35;
T loss(const BcoPair& o, const In& x) {
  const double shift = o.running_shift ? kShift : 0.0;
  return -log_sigmoid(o.beta * x.a - shift) - log_sigmoid(-(o.beta * x.b - shift));
}
T loss(const SppoHard& o, const In& x) { return (x.a - 0.5 / o.beta).square() + (x.b + 0.5 / o.beta).square(); }
T loss(const SppoSoft& o, const In& x) {
  return (x.a - (x.p - 0.5) / o.beta).square() + (x.b + (x.p - 0.5) / o.beta).square();
}
T sorted(const T& t) { return std::get<0>(at::sort(t, 0)); }
T loss(const Aot& o, const In& x) {
  return smooth(o.beta * (sorted(x.sw - x.sl) - sorted(x.rw - x.rl)), o.label_smoothing);
}
T loss(const AotUnpaired& o, const In& x) { return smooth(o.beta * (sorted(x.a) - sorted(x.b)), o.label_smoothing); }
T loss(const ApoZero& o, const In& x) { return 1 - sigmoid(o.beta * x.a) + sigmoid(o.beta * x.b); }
T loss(const ApoDown& o, const In& x) { return sigmoid(o.beta * x.a) + 1 - sigmoid(o.beta * (x.a - x.b)); }
T loss(const DiscoPOP& o, const In& x) {
  const T z = o.beta * delta(o.f_divergence, x), q = sigmoid(z / o.tau);
  return -log_sigmoid(z) * (1 - q) + (-z).exp() * q;
}
T loss(const Sft& o, const In& x) { return o.sft_weight * x.sft(); }
T loss(const CPO& o, const In& x) {
  const T z = o.form == "ipo" ? x.mw() - x.ml() : x.sw - x.sl;
  const T value = o.form == "ipo"     ? (z - 1 / (2 * o.beta)).square()
                  : o.form == "hinge" ? (1 - o.beta * z).relu()
                                      : smooth(o.beta * z, o.label_smoothing);
  return value + o.sft_weight * x.sft();
}
T loss(const AlphaPO& o, const In& x) {
  const auto r = [&](const T& m) { return o.alpha == 0.0 ? m : (1 - m.exp().pow(-o.alpha)) / o.alpha; };
  return smooth(o.beta * (r(x.mw()) - r(x.ml()) - o.gamma_beta_ratio), o.label_smoothing);
}
T loss(const ORPO& o, const In& x) {
  const auto log1mexp = [](const T& m) { return (1 - m.exp()).log(); };
  const T nll = o.nll_of_prompt ? x.other_nll() : x.sft();
  return o.sft_weight * nll - o.beta * log_sigmoid((x.mw() - x.ml()) - (log1mexp(x.mw()) - log1mexp(x.ml())));
}
T loss(const SlicHf& o, const In& x) { return (o.delta - x.sw + x.sl).relu() - o.lambda * x.sw; }
T loss(const RRHF& o, const In& x) { return (x.ml() - x.mw()).relu() - o.lambda * x.sw; }

T loss(const TPO& o, const In& x) {
  return loss(CPO{o.beta, o.form, o.label_smoothing, 0.0}, x) + o.gold_weight * x.other_nll();
}
T loss(const TPOL& o, const In& x) {
  return smooth(o.beta * (x.mw() - x.ml() - o.gamma_beta_ratio), o.label_smoothing) + o.gold_weight * x.other_nll();
}
T loss(const LossMix& o, const In& x) {
  T sum = at::zeros({}, at::kDouble);
  for (const auto& [part, weight] : o.losses) {
    sum = sum + weight * std::visit([&](const auto& one) { return loss(one, x); }, part);
  }
  return sum;
}
T loss(const KTO&, const In&) { throw InternalError("no loss of pairs"); }
T loss(const ApoZeroUnpaired&, const In&) { throw InternalError("no loss of pairs"); }

T of(const PreferenceLoss& loss_of, const PairLogps& logps, const T& sw, const T& sl, const T& nll) {
  const T p = logps.p.defined() ? logps.p : at::ones_like(sw);
  const In in{sw,
              sl,
              logps.chosen_lengths,
              logps.rejected_lengths,
              sw - logps.reference_chosen,
              sl - logps.reference_rejected,
              logps.reference_chosen,
              logps.reference_rejected,
              p,
              nll,
              example().nll_lengths};
  return std::visit([&](const auto& o) { return loss(o, in); }, loss_of);
}

}  // namespace twin

// Every loss with defaults, and settings that reach its other branches.
std::vector<PreferenceLoss> settings() {
  std::vector<PreferenceLoss> all;
  for (const std::string_view name : loss_names()) {
    if (!is_unpaired(parse_loss(name))) all.push_back(parse_loss(name));
  }
  const std::vector<FDivergence> links = {{.type = "forward_kl"},
                                          {.type = "js_divergence"},
                                          {.type = "alpha_divergence", .alpha = 0.3},
                                          {.type = "alpha_divergence", .alpha = 1.0}};
  for (const FDivergence& f : links) {
    if (f.alpha != 1.0) {
      all.insert(all.end(), {DPONorm{.beta = 0.7, .f_divergence = f}, Hinge{.beta = 0.5, .f_divergence = f},
                             IPO{.beta = 0.5, .f_divergence = f}, ExoPair{.label_smoothing = 0.01, .f_divergence = f},
                             RobustDPO{.label_smoothing = 0.1, .f_divergence = f}, DiscoPOP{.f_divergence = f},
                             DPO{.f_divergence = f}});
    }
  }
  all.insert(all.end(), {SimPO{.beta = 10.0, .gamma_beta_ratio = 0.3, .label_smoothing = 0.1, .sft_weight = 0.4},
                         SimPO{.beta = 2.5, .hinge = true},
                         CPO{.form = "hinge"},
                         CPO{.form = "ipo", .sft_weight = 0.0},
                         CPO{.label_smoothing = 0.2},
                         IPO{.average = false},
                         AlphaPO{.alpha = 0.0},
                         AlphaPO{.alpha = -0.5, .label_smoothing = 0.1},
                         RobustDPO{.beta = 0.5, .label_smoothing = 0.3},
                         SppoHard{.beta = 0.5},
                         DiscoPOP{.beta = 0.5, .tau = 0.2},
                         SlicHf{.delta = 2.0, .lambda = 0.5},
                         BcoPair{.beta = 0.4, .running_shift = true},
                         SppoSoft{.beta = 0.5},
                         Aot{.beta = 0.5},
                         Aot{.label_smoothing = 0.1},
                         AotUnpaired{.beta = 0.3, .label_smoothing = 0.2},
                         ORPO{.beta = 0.5, .sft_weight = 0.7, .nll_of_prompt = true},
                         TPO{.form = "hinge"},
                         TPO{.form = "ipo"},
                         TPO{.beta = 0.2, .label_smoothing = 0.1, .gold_weight = 0.0},
                         TPOL{.beta = 2.0, .gamma_beta_ratio = 0.3, .label_smoothing = 0.1, .gold_weight = 0.5},
                         LossMix{{{DPO{}, 0.8}, {BcoPair{}, 0.2}, {Sft{}, 1.0}}},
                         LossMix{{{Aot{}, 0.5}, {Sft{}, 2.0}}}});
  return all;
}

double worst_difference(const at::Tensor& a, const at::Tensor& b) {
  return ((a - b).abs() / b.abs().clamp_min(1.0)).max().item<double>();
}

template <class F>
std::string message_of(F&& work) {
  try {
    work();
  } catch (const InputError& e) {
    return e.what();
  }
  return "no InputError";
}

// With what the NLL term covers only where that is not the chosen response.
PairLogps example_for(const PreferenceLoss& loss) {
  PairLogps logps = example();
  if (nll_of(loss) == NllOf::kChosen) logps.nll = logps.nll_lengths = at::Tensor();
  return logps;
}

TEST(PreferenceLoss, ValuesAndClosedFormGradientsMatchTheTwinsAutograd) {
  for (const PreferenceLoss& loss : settings()) {
    SCOPED_TRACE(loss_name(loss));
    PairLogps logps = example_for(loss);
    logps.reward_shift = twin::kShift;
    if (std::holds_alternative<SppoSoft>(loss)) logps.p = at::tensor({1.0, 0.8, 0.5, 0.0, 0.9, 0.3}, at::kDouble);
    const PairLosses out = preference_loss(loss, logps);
    const at::Tensor sw = logps.chosen.clone().requires_grad_(), sl = logps.rejected.clone().requires_grad_();
    const at::Tensor nll = example().nll.clone().requires_grad_();
    const at::Tensor expected = twin::of(loss, logps, sw, sl, nll);
    (expected.sum() + 0.0 * (sl.sum() + nll.sum())).backward();
    if (sorts_pairs(loss)) {  // the twin has the values in the order of ranks
      EXPECT_LT(std::abs((out.loss.sum() - expected.sum()).item<double>()), 1e-12);
    } else {
      EXPECT_LT(worst_difference(out.loss, expected.detach()), 1e-12);
    }
    EXPECT_LT(worst_difference(out.chosen_gradient, sw.grad()), 1e-12);
    EXPECT_LT(worst_difference(out.rejected_gradient, sl.grad()), 1e-12);
    if (out.nll_gradient.defined()) {
      EXPECT_LT(worst_difference(out.nll_gradient, nll.grad()), 1e-12);
    }
  }
}

TEST(PreferenceLoss, ClosedFormGradientsMatchNumericDerivatives) {
  for (const PreferenceLoss& loss : settings()) {
    SCOPED_TRACE(loss_name(loss));
    PairLogps logps = example_for(loss);
    logps.reward_shift = 0.2;
    if (!sorts_pairs(loss)) {
      logps.p = at::tensor({1.0, 0.8, 0.5, 0.0, 0.9, 0.3}, at::kDouble);
      logps.weight = at::tensor({1.0, 0.5, 2.0, 1.0, 0.0, 1.0}, at::kDouble);
    }
    const PairLosses out = preference_loss(loss, logps);
    const double step = 1e-5;
    for (const int which : {0, 1, 2}) {
      if (which == 2 && !logps.nll.defined()) continue;
      for (std::int64_t i = 0; i < 6; ++i) {
        const auto total = [&](double by) {
          PairLogps moved = logps;
          at::Tensor& side = which == 0 ? moved.chosen : which == 1 ? moved.rejected : moved.nll;
          side = side.clone();
          side[i] += by;
          return preference_loss(loss, moved).loss.sum().item<double>();
        };
        const double numeric = (total(step) - total(-step)) / (2 * step);
        const at::Tensor& gradient = which == 0   ? out.chosen_gradient
                                     : which == 1 ? out.rejected_gradient
                                                  : out.nll_gradient;
        const double analytic = gradient[i].item<double>();
        const double rounding = 1e-15 * std::abs(total(0.0)) / step;
        EXPECT_NEAR(analytic, numeric, 1e-6 * std::max(1.0, std::abs(numeric)) + rounding) << which << " " << i;
      }
    }
  }
}

TEST(PreferenceLoss, IsDifferentiableWithTheClosedForm) {
  for (const PreferenceLoss& loss : settings()) {
    PairLogps logps = example_for(loss);
    logps.chosen.requires_grad_();
    logps.rejected.requires_grad_();
    if (logps.nll.defined()) logps.nll.requires_grad_();
    const PairLosses out = preference_loss(loss, logps);
    out.loss.mean().backward();
    EXPECT_TRUE(at::allclose(logps.chosen.grad() * 6, out.chosen_gradient, 1e-12, 0)) << loss_name(loss);
    EXPECT_TRUE(at::allclose(logps.rejected.grad() * 6, out.rejected_gradient, 1e-12, 0)) << loss_name(loss);
    if (logps.nll.defined()) {
      EXPECT_TRUE(at::allclose(logps.nll.grad() * 6, out.nll_gradient, 1e-12, 0)) << loss_name(loss);
    }
    const PairLosses detached = preference_loss(loss, example_for(loss));
    EXPECT_TRUE(at::equal(detached.loss, out.loss.detach())) << loss_name(loss);
  }
}

PairLogps zero_gap() {
  const at::Tensor s = at::full({1}, -20.0, at::kDouble), n = at::full({1}, 10, at::kLong);
  return {.chosen = s,
          .rejected = s,
          .chosen_lengths = n,
          .rejected_lengths = n,
          .reference_chosen = s,
          .reference_rejected = s,
          .nll = at::full({1}, -60.0, at::kDouble),
          .nll_lengths = at::full({1}, 20, at::kLong)};
}

TEST(PreferenceLoss, ClosedFormsAtZeroGap) {
  const auto value = [](const PreferenceLoss& loss) {
    PairLogps logps = zero_gap();
    if (nll_of(loss) == NllOf::kChosen) logps.nll = at::Tensor();
    return preference_loss(loss, logps).loss.item<double>();
  };
  EXPECT_NEAR(value(SimPO{.beta = 10.0, .gamma_beta_ratio = 0.3}), 3.0486, 5e-5);
  EXPECT_NEAR(value(SimPO{.beta = 10.0, .gamma_beta_ratio = 0.5}), 5.0067, 5e-5);
  EXPECT_NEAR(value(SimPO{}), std::log1p(std::exp(0.5)), 1e-12);
  EXPECT_NEAR(value(SimPO{.hinge = true}), 1.5, 1e-12);
  EXPECT_NEAR(value(DPO{}), std::numbers::ln2, 1e-12);
  EXPECT_NEAR(value(CDPO{}), std::numbers::ln2, 1e-12);
  EXPECT_NEAR(value(RobustDPO{.label_smoothing = 0.2}), std::numbers::ln2, 1e-12);
  EXPECT_NEAR(value(DPONorm{}), std::numbers::ln2, 1e-12);
  EXPECT_NEAR(value(RDPO{}), std::numbers::ln2, 1e-12);
  EXPECT_NEAR(value(Hinge{}), 1.0, 1e-12);
  EXPECT_NEAR(value(IPO{}), 25.0, 1e-12);
  EXPECT_NEAR(value(NcaPair{}), 2 * std::numbers::ln2, 1e-12);
  EXPECT_NEAR(value(BcoPair{}), 2 * std::numbers::ln2, 1e-12);
  EXPECT_NEAR(value(SppoHard{.beta = 0.1}), 50.0, 1e-12);
  EXPECT_NEAR(value(ApoZero{}), 1.0, 1e-12);
  EXPECT_NEAR(value(ApoDown{}), 1.0, 1e-12);
  EXPECT_NEAR(value(Sft{}), 2.0, 1e-12);
  EXPECT_NEAR(value(CPO{}), std::numbers::ln2 + 2.0, 1e-12);
  EXPECT_NEAR(value(AlphaPO{}), std::log1p(std::exp(0.5)), 1e-12);
  EXPECT_NEAR(value(ORPO{}), 0.1 * std::numbers::ln2 + 2.0, 1e-12);
  EXPECT_NEAR(value(SlicHf{}), 1.0 + 2.0, 1e-12);
  EXPECT_NEAR(value(RRHF{}), 20.0, 1e-12);
  EXPECT_NEAR(value(SppoSoft{.beta = 0.1}), 50.0, 1e-12);
  EXPECT_NEAR(value(Aot{}), std::numbers::ln2, 1e-12);
  EXPECT_NEAR(value(AotUnpaired{.label_smoothing = 0.3}), std::numbers::ln2, 1e-12);
  EXPECT_NEAR(value(BcoPair{.running_shift = true}), 2 * std::numbers::ln2, 1e-12);
  EXPECT_NEAR(value(TPO{}), std::numbers::ln2 + 3.0, 1e-12);
  EXPECT_NEAR(value(TPOL{}), std::log1p(std::exp(0.5)) + 3.0, 1e-12);  // TRL's defaults: gamma is 0.5
  EXPECT_NEAR(value(ORPO{.nll_of_prompt = true}), 0.1 * std::numbers::ln2 + 3.0, 1e-12);
  EXPECT_NEAR(value(parse_loss("dpo+sft")), std::numbers::ln2 + 2.0, 1e-12);
  // Per token of a sequence of n: beta sg(-beta z) / n, at z = 0: 5 / n.
  const PairLosses out = preference_loss(SimPO{.beta = 10.0, .gamma_beta_ratio = 0.0}, zero_gap());
  EXPECT_NEAR(out.chosen_gradient.item<double>(), -5.0 / 10, 1e-12);
  EXPECT_NEAR(out.rejected_gradient.item<double>(), 5.0 / 10, 1e-12);
}

TEST(PreferenceLoss, SoftLabelsMixTheTwoDirections) {
  PairLogps logps = example();
  for (const PreferenceLoss& loss : {PreferenceLoss(SimPO{.beta = 10.0}), PreferenceLoss(SppoHard{.beta = 0.5}),
                                     PreferenceLoss(DPO{}), PreferenceLoss(IPO{})}) {
    logps.p = at::full({6}, 0.7, at::kDouble);
    const PairLogps swapped{
        logps.rejected,           logps.chosen,           logps.rejected_lengths,         logps.chosen_lengths,
        logps.reference_rejected, logps.reference_chosen, at::full({6}, 0.3, at::kDouble)};
    const PairLosses out = preference_loss(loss, logps), other = preference_loss(loss, swapped);
    EXPECT_LT(worst_difference(out.loss, other.loss), 1e-12) << loss_name(loss);
    EXPECT_LT(worst_difference(out.chosen_gradient, other.rejected_gradient), 1e-12) << loss_name(loss);
  }
  // SPPO with a soft label is the paper's squared distance to (p - 1/2) / beta, up to a constant.
  const SppoHard sppo{.beta = 0.5};
  const PairLosses out = preference_loss(sppo, logps);
  const at::Tensor target = (logps.p - 0.5) / sppo.beta;
  EXPECT_LT(worst_difference(out.chosen_gradient, 2 * (logps.chosen - logps.reference_chosen - target)), 1e-12);
  EXPECT_LT(worst_difference(out.rejected_gradient, 2 * (logps.rejected - logps.reference_rejected + target)), 1e-12);
  // DPO with a soft label is conservative DPO with eps = 1 - p.
  EXPECT_LT(worst_difference(preference_loss(DPO{}, logps).loss,
                             preference_loss(CDPO{.label_smoothing = 0.3}, example()).loss),
            1e-12);
}

TEST(PreferenceLoss, WeightsScaleLossAndGradientsButNotRewards) {
  PairLogps logps = example();
  const PairLosses plain = preference_loss(SimPO{.sft_weight = 0.5}, logps);
  logps.weight = at::tensor({0.0, 0.5, 1.0, 2.0, 3.0, 4.0}, at::kDouble);
  const PairLosses weighted = preference_loss(SimPO{.sft_weight = 0.5}, logps);
  EXPECT_TRUE(at::allclose(weighted.loss, plain.loss * logps.weight, 1e-14, 0));
  EXPECT_TRUE(at::allclose(weighted.chosen_gradient, plain.chosen_gradient * logps.weight, 1e-14, 0));
  EXPECT_TRUE(at::equal(weighted.chosen_rewards, plain.chosen_rewards));
}

TEST(PreferenceLoss, SftTermOfPartsAddsUpToTheWholeBatch) {
  const PairLogps logps = example_for(CPO{});
  const double whole = preference_loss(CPO{}, logps).loss.mean().item<double>();
  double parts = 0.0;
  for (std::int64_t begin = 0; begin < 6; begin += 2) {
    const auto part = [&](const at::Tensor& t) { return t.narrow(0, begin, 2); };
    parts += preference_loss(CPO{}, {.chosen = part(logps.chosen),
                                     .rejected = part(logps.rejected),
                                     .chosen_lengths = part(logps.chosen_lengths),
                                     .rejected_lengths = part(logps.rejected_lengths),
                                     .mean_nll_length = logps.chosen_lengths.mean().item<double>()})
                 .loss.sum()
                 .item<double>();
  }
  EXPECT_NEAR(parts / 6, whole, 1e-12);
}

TEST(PreferenceLoss, RewardsAreWhatTrlLogs) {
  const PairLogps logps = example();
  const at::Tensor mean = logps.chosen / logps.chosen_lengths, ratio = logps.chosen - logps.reference_chosen;
  const auto rewards = [&](const PreferenceLoss& loss) { return preference_loss(loss, logps).chosen_rewards; };
  EXPECT_TRUE(at::allclose(rewards(SimPO{.beta = 10.0}), 10.0 * mean));
  EXPECT_TRUE(at::allclose(rewards(DPO{}), 0.1 * ratio));
  EXPECT_TRUE(at::allclose(rewards(IPO{}), 0.1 * ratio));
  EXPECT_TRUE(at::allclose(rewards(CPO{}), 0.1 * logps.chosen));
  EXPECT_TRUE(at::allclose(rewards(CPO{.form = "ipo"}), 0.1 * mean));
  EXPECT_TRUE(at::allclose(rewards(ORPO{}), 0.1 * mean));
  EXPECT_TRUE(at::allclose(rewards(AlphaPO{}), 2.0 * (1 - (-0.25 * mean).exp()) / 0.25));
}

TEST(PreferenceLoss, ExtremeMarginsStayFinite) {
  const auto at_margin = [](double by) {
    PairLogps logps = zero_gap();
    logps.chosen = logps.chosen + by;
    return logps;
  };
  for (const std::string_view name : loss_names()) {
    const PreferenceLoss loss = parse_loss(name);
    if (is_unpaired(loss)) continue;
    for (const double by : {-3000.0, 19.9999999, 20.0}) {
      const PairLosses out = preference_loss(loss, at_margin(by));
      if (name == "discopop" || name == "alphapo") continue;  // exponential in the margin by definition
      EXPECT_TRUE(out.loss.isfinite().all().item<bool>()) << name << " " << by;
      EXPECT_TRUE(out.chosen_gradient.isfinite().all().item<bool>()) << name << " " << by;
    }
  }
}

TEST(PreferenceLoss, Float32InputGivesFloat32Output) {
  PairLogps logps = example();
  logps.chosen = logps.chosen.to(at::kFloat);
  EXPECT_EQ(preference_loss(DPO{}, logps).loss.scalar_type(), at::kFloat);
}

TEST(PreferenceLoss, RefusesBadInputWithOneSentence) {
  const auto with = [](auto&& change) {
    PairLogps logps = example();
    change(logps);
    return message_of([&] { preference_loss(DPO{}, logps); });
  };
  EXPECT_THAT(with([](PairLogps& l) {
                l.chosen_lengths = at::tensor({9.0, 0.0, 31.0, 6.0, 1.0, 12.0});
              }),
              HasSubstr("pair 1 has lengths 0 and 5, expected no empty response"));
  EXPECT_THAT(with([](PairLogps& l) { l.reference_chosen = at::Tensor(); }), HasSubstr("reference_chosen is missing"));
  EXPECT_THAT(with([](PairLogps& l) { l.rejected = l.rejected.narrow(0, 0, 5); }), HasSubstr("rejected [5]"));
  EXPECT_THAT(with([](PairLogps& l) { l.p = at::full({6}, 1.5); }), HasSubstr("p of pair 0 is 1.5"));
  EXPECT_THAT(with([](PairLogps& l) { l.weight = at::full({6}, -1.0); }), HasSubstr("weight of pair 0 is -1"));
  EXPECT_THAT(with([](PairLogps& l) { l.chosen = at::Tensor(); }), HasSubstr("chosen"));
  PairLogps free = example();
  free.reference_chosen = at::Tensor();
  free.reference_rejected = at::Tensor();
  EXPECT_NO_THROW(preference_loss(SimPO{}, free));
}

TEST(PreferenceLossOptions, NamesRoundTripAndUnknownOnesAreRefused) {
  std::set<std::string_view> seen;
  for (const std::string_view name : loss_names()) {
    EXPECT_EQ(loss_name(parse_loss(name)), name);
    EXPECT_TRUE(seen.insert(name).second) << name;
  }
  for (const auto& [alias, name] : std::map<std::string, std::string>{{"sigmoid", "dpo"},
                                                                      {"sigmoid_norm", "dpo_norm"},
                                                                      {"spin", "dpo"},
                                                                      {"slic", "hinge"},
                                                                      {"exo", "exo_pair"},
                                                                      {"nca", "nca_pair"},
                                                                      {"bco", "bco_pair"},
                                                                      {"sppo", "sppo_hard"},
                                                                      {"tpo-l", "tpo_l"},
                                                                      {"r-dpo", "r_dpo"},
                                                                      {"ipo_avg", "ipo"},
                                                                      {"sigmoid, bco_pair,sft", "dpo+bco_pair+sft"}}) {
    EXPECT_EQ(loss_name(parse_loss(alias)), name);
  }
  EXPECT_FALSE(std::get<IPO>(parse_loss("ipo_sum")).average);
  EXPECT_TRUE(std::get<SimPO>(parse_loss("simpo-hinge")).hinge);
  EXPECT_TRUE(std::get<BcoPair>(parse_loss("bco")).running_shift);
  EXPECT_FALSE(std::get<BcoPair>(parse_loss("bco_pair")).running_shift);
  EXPECT_THAT(message_of([] { parse_loss("simp"); }), HasSubstr("\"simp\", expected one of simpo, dpo"));
}

TEST(PreferenceLossOptions, EveryProblemIsNamed) {
  const std::string message =
      message_of([] { validate(RobustDPO{.beta = 0.0, .label_smoothing = 0.5, .f_divergence = {.type = "tv"}}); });
  EXPECT_THAT(message, HasSubstr("loss robust: beta is 0, expected above 0"));
  EXPECT_THAT(message, HasSubstr("label_smoothing is 0.5"));
  EXPECT_THAT(message, HasSubstr("f_divergence.type is \"tv\""));
  EXPECT_THAT(message_of([] { validate(CPO{.form = "log"}); }), HasSubstr("form is \"log\""));
  EXPECT_THAT(message_of([] { validate(ExoPair{.label_smoothing = 0.0}); }), HasSubstr("label_smoothing"));
  EXPECT_THAT(message_of([] { validate(SimPO{.label_smoothing = 0.1, .hinge = true}); }), HasSubstr("hinge"));
}

TEST(PreferenceLossOptions, KnownTrapsAreNoted) {
  EXPECT_TRUE(unusual_settings(SimPO{.beta = 10.0, .gamma_beta_ratio = 0.5}).empty());
  EXPECT_THAT(unusual_settings(SimPO{.beta = 0.1, .gamma_beta_ratio = 5.0}), testing::SizeIs(2));
  EXPECT_THAT(unusual_settings(DPO{.beta = 10.0}), testing::SizeIs(1));
  EXPECT_TRUE(unusual_settings(DPO{}).empty());
}

TEST(PreferenceLoss, ASortedLossDoesNotDependOnTheOrderOfThePairs) {
  const PairLogps logps = example();
  const at::Tensor order = at::tensor({3, 0, 5, 1, 4, 2});
  for (const PreferenceLoss& loss : {PreferenceLoss(Aot{.beta = 0.5}), PreferenceLoss(AotUnpaired{.beta = 0.5})}) {
    const PairLosses out = preference_loss(loss, logps);
    const auto moved = [&](const at::Tensor& t) { return t.index_select(0, order); };
    const PairLosses other = preference_loss(loss, {.chosen = moved(logps.chosen),
                                                    .rejected = moved(logps.rejected),
                                                    .chosen_lengths = moved(logps.chosen_lengths),
                                                    .rejected_lengths = moved(logps.rejected_lengths),
                                                    .reference_chosen = moved(logps.reference_chosen),
                                                    .reference_rejected = moved(logps.reference_rejected)});
    EXPECT_TRUE(at::equal(moved(out.loss), other.loss)) << loss_name(loss);
    EXPECT_TRUE(at::equal(moved(out.chosen_gradient), other.chosen_gradient)) << loss_name(loss);
    EXPECT_TRUE(at::equal(moved(out.rejected_gradient), other.rejected_gradient)) << loss_name(loss);
    PairLogps weighted = logps;
    weighted.weight = at::full({6}, 2.0);
    EXPECT_THAT(message_of([&] { preference_loss(loss, weighted); }), HasSubstr("sorts its pairs"));
  }
}

TEST(PreferenceLoss, SoftSppoIsHardSppoUpToAConstantOfP) {
  PairLogps logps = example();
  logps.p = at::tensor({1.0, 0.8, 0.5, 0.0, 0.9, 0.3}, at::kDouble);
  const PairLosses soft = preference_loss(SppoSoft{.beta = 0.5}, logps);
  const PairLosses mixed = preference_loss(SppoHard{.beta = 0.5}, logps);
  EXPECT_LT(worst_difference(soft.chosen_gradient, mixed.chosen_gradient), 1e-12);
  EXPECT_LT(worst_difference(soft.rejected_gradient, mixed.rejected_gradient), 1e-12);
  EXPECT_LT(worst_difference(mixed.loss - soft.loss, 2 * (1 - (2 * logps.p - 1).square())), 1e-12);
}

TEST(PreferenceLoss, MeanRewardIsThatOfBothSides) {
  const PairLogps logps = example();
  const at::Tensor a = logps.chosen - logps.reference_chosen, b = logps.rejected - logps.reference_rejected;
  EXPECT_NEAR(mean_reward(BcoPair{.beta = 0.4, .running_shift = true}, logps),
              0.4 * at::cat({a, b}).mean().item<double>(), 1e-12);
  EXPECT_EQ(mean_reward(BcoPair{}, logps), 0.0);
}

TEST(PreferenceLoss, TheNllTermMayCoverOtherTokens) {
  const PairLogps logps = example();
  const double nll = -(logps.nll.sum() / logps.nll_lengths.sum()).item<double>();
  EXPECT_NEAR(preference_loss(Sft{}, logps).loss.mean().item<double>(), nll, 1e-12);
  EXPECT_THAT(message_of([&] { preference_loss(TPO{}, example_for(DPO{})); }), HasSubstr("nll is missing"));
}

TEST(PreferenceLoss, AverageLogProbsAreMeansInThePairPart) {
  PairLogps logps = example();
  logps.average_log_probs = true;
  const PairLosses averaged = preference_loss(DPO{.beta = 2.0}, logps),
                   norm = preference_loss(DPONorm{.beta = 2.0}, example());
  EXPECT_LT(worst_difference(averaged.loss, norm.loss), 1e-12);
  EXPECT_LT(worst_difference(averaged.chosen_gradient, norm.chosen_gradient), 1e-12);
  EXPECT_LT(worst_difference(averaged.rejected_gradient, norm.rejected_gradient), 1e-12);
  EXPECT_LT(worst_difference(preference_loss(Sft{}, logps).loss, preference_loss(Sft{}, example()).loss), 1e-12);
}

TEST(PreferenceLossOptions, MixesShareTheirOptionsAndHaveWeights) {
  PreferenceLoss mix = parse_loss("sigmoid+bco_pair+sft");
  const auto set = [&](const std::string& path, const auto& value) {
    visit_leaves(
        [&](const std::string& other, auto& field, const char*) {
          if constexpr (std::same_as<std::remove_cvref_t<decltype(field)>, std::remove_cvref_t<decltype(value)>>) {
            if (other == path) field = value;
          }
        },
        mix);
  };
  set("beta", 0.3);
  set("weights", std::string("0.8, 0.2,1"));
  const LossMix& parts = std::get<LossMix>(mix);
  EXPECT_EQ(std::get<DPO>(parts.losses[0].loss).beta, 0.3);
  EXPECT_EQ(std::get<BcoPair>(parts.losses[1].loss).beta, 0.3);
  EXPECT_EQ(parts.losses[1].weight, 0.2);
  EXPECT_NO_THROW(validate(mix));
  EXPECT_TRUE(needs_reference(mix));
  EXPECT_FALSE(is_batchwise(mix));
  EXPECT_TRUE(is_batchwise(parse_loss("aot+sft")));
  EXPECT_THAT(message_of([&] { set("weights", std::string("1,2")); }), HasSubstr("expected 3 numbers"));
  EXPECT_THAT(message_of([] {
                validate(LossMix{{{DPO{.beta = 0.1}, 1.0}, {BcoPair{.beta = 0.2}, 1.0}}});
              }),
              HasSubstr("beta is 0.1 and 0.2, expected one value"));
  EXPECT_THAT(message_of([] { validate(LossMix{{{DPO{}, 1.0}, {KTO{}, 1.0}}}); }), HasSubstr("kto is part of a mix"));
  EXPECT_THAT(message_of([] {
                validate(LossMix{{{TPO{.beta = 0.1}, 1.0}, {Sft{}, 1.0}}});
              }),
              HasSubstr("NLL terms of different tokens"));
  EXPECT_THAT(message_of([] { validate(LossMix{}); }), HasSubstr("no losses"));
}

struct Collect {
  std::vector<std::string>* names;
  template <class Field>
  void operator()(const char* name, const Field& field, const char*) const {
    names->push_back(name);
    if constexpr (HasFields<Field>) visit_fields(*this, field);
  }
};

struct MakeSimPO {
  void operator()(const char* name, std::string& field, const char*) const {
    if (std::string_view(name) == "name") field = "simpo";
  }
  void operator()(const char* name, double& field, const char*) const {
    if (std::string_view(name) == "beta") field = 10.0;
  }
  void operator()(const char*, bool&, const char*) const {}
  void operator()(const char*, FDivergence&, const char*) const {}
};

TEST(PreferenceLossOptions, VisitFieldsReachesNamesValuesAndTheHeldLoss) {
  std::vector<std::string> names;
  const PreferenceLoss loss = RobustDPO{};
  visit_fields(Collect{&names}, loss);
  EXPECT_THAT(names, testing::ElementsAre("name", "beta", "label_smoothing", "f_divergence", "type", "alpha"));

  PreferenceLoss target = DPO{};
  visit_fields(MakeSimPO{}, target);
  ASSERT_TRUE(std::holds_alternative<SimPO>(target));
  EXPECT_EQ(std::get<SimPO>(target).beta, 10.0);
}

}  // namespace
}  // namespace sao

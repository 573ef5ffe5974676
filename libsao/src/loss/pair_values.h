// SPDX-License-Identifier: Apache-2.0
// What the losses are written in: a pair's two sides, values with their slopes.
#pragma once

#include <algorithm>
#include <cmath>
#include <numbers>
#include <vector>

#include "sao/loss/preference.h"

namespace sao::detail {

// One pair. The two sides of a response: its sum s, length n and reference sum r.
struct Side {
  double s = 0.0, n = 1.0, r = 0.0;
  double mean() const { return s / n; }
  double ratio() const { return s - r; }
};

// Value and derivatives with respect to s_w and s_l.
struct PairValue {
  double loss = 0.0, d_chosen = 0.0, d_rejected = 0.0;
};

// A function value with its derivative.
struct Slope {
  double value = 0.0, slope = 0.0;
};

inline double sigmoid(double x) { return x >= 0.0 ? 1.0 / (1.0 + std::exp(-x)) : std::exp(x) / (1.0 + std::exp(x)); }
inline double log_sigmoid(double x) { return std::min(x, 0.0) - std::log1p(std::exp(-std::abs(x))); }
/// -log sg(x)
inline Slope logistic(double x) { return {-log_sigmoid(x), -sigmoid(-x)}; }
/// -(1 - eps) log sg(x) - eps log sg(-x)
inline Slope smoothed_logistic(double x, double eps) {
  return {-(1.0 - eps) * log_sigmoid(x) - eps * log_sigmoid(-x), -(1.0 - eps) * sigmoid(-x) + eps * sigmoid(x)};
}
inline Slope hinge(double x) { return x < 1.0 ? Slope{1.0 - x, -1.0} : Slope{}; }
inline Slope square(double x) { return {x * x, 2.0 * x}; }
/// log(1 - exp(x)) for x < 0, without cancellation near 0 or far from it.
inline double log1mexp(double x) {
  return x < -std::numbers::ln2 ? std::log1p(-std::exp(x)) : std::log(-std::expm1(x));
}

inline Slope link(const FDivergence& f, double a) {
  if (f.type == "forward_kl") return {1.0 - std::exp(-a), std::exp(-a)};
  if (f.type == "js_divergence") return {std::numbers::ln2 + log_sigmoid(a), sigmoid(-a)};
  if (f.type == "alpha_divergence" && std::abs(f.alpha - 1.0) >= 1e-6) {
    const double c = f.alpha - 1.0, exponent = std::min(c * a, 80.0);
    return {std::expm1(exponent) / c, c * a < 80.0 ? std::exp(exponent) : 0.0};
  }
  return {a, 1.0};
}

/// outer(scale * (w - l)), where w and l have slopes with respect to the sums.
template <class Outer>
PairValue of_margin(Slope w, Slope l, double scale, double shift, Outer&& outer) {
  const Slope value = outer(scale * (w.value - l.value) + shift);
  return {value.value, value.slope * scale * w.slope, -value.slope * scale * l.slope};
}

inline PairValue operator+(PairValue a, PairValue b) {
  return {a.loss + b.loss, a.d_chosen + b.d_chosen, a.d_rejected + b.d_rejected};
}
inline PairValue of_chosen(Slope v) { return {v.value, v.slope, 0.0}; }
inline PairValue of_rejected(Slope v) { return {v.value, 0.0, v.slope}; }

inline Slope mean_of(const Side& side) { return {side.mean(), 1.0 / side.n}; }
inline Slope sum_of(const Side& side) { return {side.s, 1.0}; }
inline Slope ratio_of(const Side& side) { return {side.ratio(), 1.0}; }
inline Slope link_of(const FDivergence& f, const Side& side) { return link(f, side.ratio()); }
inline Slope mean_link_of(const FDivergence& f, const Side& side) {
  const Slope value = link(f, side.ratio());
  return {value.value / side.n, value.slope / side.n};
}

/// exp-bent mean log-prob of AlphaPO, and the log-odds of ORPO; slopes with respect to the sum.
Slope bent_reward(double alpha, const Side& side);
Slope log_odds(const Side& side);

/// pair_value of each loss: the formula of its struct without its NLL term.
PairValue pair_value(const DPO& o, const Side& w, const Side& l);
PairValue pair_value(const CDPO& o, const Side& w, const Side& l);
PairValue pair_value(const RobustDPO& o, const Side& w, const Side& l);
PairValue pair_value(const DPONorm& o, const Side& w, const Side& l);
PairValue pair_value(const RDPO& o, const Side& w, const Side& l);
PairValue pair_value(const Hinge& o, const Side& w, const Side& l);
PairValue pair_value(const IPO& o, const Side& w, const Side& l);
PairValue pair_value(const ExoPair& o, const Side& w, const Side& l);
PairValue pair_value(const NcaPair& o, const Side& w, const Side& l);
PairValue pair_value(const SppoHard& o, const Side& w, const Side& l);
PairValue pair_value(const ApoZero& o, const Side& w, const Side& l);
PairValue pair_value(const ApoDown& o, const Side& w, const Side& l);
PairValue pair_value(const DiscoPOP& o, const Side& w, const Side& l);
PairValue pair_value(const SimPO& o, const Side& w, const Side& l);
PairValue pair_value(const Sft& o, const Side& w, const Side& l);
PairValue pair_value(const CPO& o, const Side& w, const Side& l);
PairValue pair_value(const AlphaPO& o, const Side& w, const Side& l);
PairValue pair_value(const ORPO& o, const Side& w, const Side& l);
PairValue pair_value(const SlicHf& o, const Side& w, const Side& l);
PairValue pair_value(const RRHF& o, const Side& w, const Side& l);
PairValue pair_value(const TPO& o, const Side& w, const Side& l);
PairValue pair_value(const TPOL& o, const Side& w, const Side& l);
/// With the batch's reward shift.
PairValue pair_value(const BcoPair& o, const Side& w, const Side& l, double shift);
/// With the pair's soft label.
PairValue pair_value(const SppoSoft& o, const Side& w, const Side& l, double p);
/// Of a whole batch.
std::vector<PairValue> batch_values(const Aot& o, const std::vector<Side>& w, const std::vector<Side>& l);
std::vector<PairValue> batch_values(const AotUnpaired& o, const std::vector<Side>& w, const std::vector<Side>& l);

}  // namespace sao::detail

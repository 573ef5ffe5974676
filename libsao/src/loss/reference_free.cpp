// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>

#include "loss/pair_values.h"

namespace sao::detail {

PairValue pair_value(const SimPO& o, const Side& w, const Side& l) {
  return of_margin(mean_of(w), mean_of(l), o.beta, -o.beta * o.gamma_beta_ratio,
                   [&](double z) { return o.hinge ? hinge(z) : smoothed_logistic(z, o.label_smoothing); });
}

PairValue pair_value(const Sft&, const Side&, const Side&) { return {}; }

// The pair part of CPO and TPO.
static PairValue contrast(const std::string& form, double beta, double label_smoothing, const Side& w, const Side& l) {
  if (form == "ipo") return of_margin(mean_of(w), mean_of(l), 1.0, -1.0 / (2.0 * beta), square);
  return of_margin(sum_of(w), sum_of(l), beta, 0.0,
                   [&](double z) { return form == "hinge" ? hinge(z) : smoothed_logistic(z, label_smoothing); });
}

PairValue pair_value(const CPO& o, const Side& w, const Side& l) {
  return contrast(o.form, o.beta, o.label_smoothing, w, l);
}

PairValue pair_value(const TPO& o, const Side& w, const Side& l) {
  return contrast(o.form, o.beta, o.label_smoothing, w, l);
}

PairValue pair_value(const TPOL& o, const Side& w, const Side& l) {
  return of_margin(mean_of(w), mean_of(l), o.beta, -o.beta * o.gamma_beta_ratio,
                   [&](double z) { return smoothed_logistic(z, o.label_smoothing); });
}

Slope bent_reward(double alpha, const Side& side) {
  const double m = side.mean();
  if (alpha == 0.0) return {m, 1.0 / side.n};
  return {-std::expm1(-alpha * m) / alpha, std::exp(-alpha * m) / side.n};
}

PairValue pair_value(const AlphaPO& o, const Side& w, const Side& l) {
  return of_margin(bent_reward(o.alpha, w), bent_reward(o.alpha, l), o.beta, -o.beta * o.gamma_beta_ratio,
                   [&](double z) { return smoothed_logistic(z, o.label_smoothing); });
}

// log(p / (1 - p)) with p = exp(m); d/dm = 1 / (1 - p). A certain response has no finite odds: p stops at 1 - 1e-9.
Slope log_odds(const Side& side) {
  const double m = std::min(side.mean(), -1e-9);
  return {m - log1mexp(m), -1.0 / std::expm1(m) / side.n};
}

PairValue pair_value(const ORPO& o, const Side& w, const Side& l) {
  PairValue value = of_margin(log_odds(w), log_odds(l), 1.0, 0.0, logistic);
  return {o.beta * value.loss, o.beta * value.d_chosen, o.beta * value.d_rejected};
}

PairValue pair_value(const SlicHf& o, const Side& w, const Side& l) {
  // max(0, delta - margin) = delta-shifted hinge with slope -1.
  return of_margin(sum_of(w), sum_of(l), 1.0, 1.0 - o.delta, hinge);
}

PairValue pair_value(const RRHF&, const Side& w, const Side& l) {
  return of_margin(mean_of(w), mean_of(l), 1.0, 1.0, hinge);
}

}  // namespace sao::detail

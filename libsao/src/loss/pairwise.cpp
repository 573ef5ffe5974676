// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <numeric>

#include "loss/pair_values.h"

namespace sao::detail {

PairValue pair_value(const DPO& o, const Side& w, const Side& l) {
  return of_margin(link_of(o.f_divergence, w), link_of(o.f_divergence, l), o.beta, 0.0, logistic);
}

PairValue pair_value(const CDPO& o, const Side& w, const Side& l) {
  return of_margin(ratio_of(w), ratio_of(l), o.beta, 0.0,
                   [&](double z) { return smoothed_logistic(z, o.label_smoothing); });
}

PairValue pair_value(const RobustDPO& o, const Side& w, const Side& l) {
  return of_margin(link_of(o.f_divergence, w), link_of(o.f_divergence, l), o.beta, 0.0, [&](double z) {
    const double eps = o.label_smoothing, norm = 1.0 / (1.0 - 2.0 * eps);
    return Slope{(-(1.0 - eps) * log_sigmoid(z) + eps * log_sigmoid(-z)) * norm,
                 (-(1.0 - eps) * sigmoid(-z) - eps * sigmoid(z)) * norm};
  });
}

PairValue pair_value(const DPONorm& o, const Side& w, const Side& l) {
  return of_margin(mean_link_of(o.f_divergence, w), mean_link_of(o.f_divergence, l), o.beta, 0.0, logistic);
}

PairValue pair_value(const RDPO& o, const Side& w, const Side& l) {
  return of_margin(ratio_of(w), ratio_of(l), o.beta, o.alpha * (w.n - l.n), logistic);
}

PairValue pair_value(const Hinge& o, const Side& w, const Side& l) {
  return of_margin(link_of(o.f_divergence, w), link_of(o.f_divergence, l), o.beta, 0.0, hinge);
}

PairValue pair_value(const IPO& o, const Side& w, const Side& l) {
  const double target = 1.0 / (2.0 * o.beta);
  return o.average ? of_margin(mean_link_of(o.f_divergence, w), mean_link_of(o.f_divergence, l), 1.0, -target, square)
                   : of_margin(link_of(o.f_divergence, w), link_of(o.f_divergence, l), 1.0, -target, square);
}

PairValue pair_value(const ExoPair& o, const Side& w, const Side& l) {
  return of_margin(link_of(o.f_divergence, w), link_of(o.f_divergence, l), o.beta, 0.0, [&](double z) {
    const double q = sigmoid(z), log_q = log_sigmoid(z), log_1q = log_sigmoid(-z);
    const double log_target = std::log1p(-o.label_smoothing), log_1target = std::log(o.label_smoothing);
    // d/dz of q (log q - t) + (1 - q) (log(1 - q) - u) is q (1 - q) ((log q - t) - (log(1 - q) - u)).
    return Slope{q * (log_q - log_target) + sigmoid(-z) * (log_1q - log_1target),
                 q * sigmoid(-z) * ((log_q - log_target) - (log_1q - log_1target))};
  });
}

PairValue pair_value(const NcaPair& o, const Side& w, const Side& l) {
  const double x = o.beta * w.ratio(), y = o.beta * l.ratio();
  const Slope up = logistic(x), down = logistic(-x), other = logistic(-y);
  return of_chosen({up.value + 0.5 * down.value, o.beta * (up.slope - 0.5 * down.slope)}) +
         of_rejected({0.5 * other.value, -0.5 * o.beta * other.slope});
}

PairValue pair_value(const BcoPair& o, const Side& w, const Side& l, double shift) {
  const Slope up = logistic(o.beta * w.ratio() - shift), down = logistic(shift - o.beta * l.ratio());
  return of_chosen({up.value, o.beta * up.slope}) + of_rejected({down.value, -o.beta * down.slope});
}

PairValue pair_value(const SppoHard& o, const Side& w, const Side& l) {
  const double target = 1.0 / (2.0 * o.beta);
  return of_chosen(square(w.ratio() - target)) + of_rejected(square(l.ratio() + target));
}

PairValue pair_value(const SppoSoft& o, const Side& w, const Side& l, double p) {
  const double target = (p - 0.5) / o.beta;
  return of_chosen(square(w.ratio() - target)) + of_rejected(square(l.ratio() + target));
}

// Indices of `values` from the smallest to the largest.
static std::vector<std::size_t> ranked(const std::vector<double>& values) {
  std::vector<std::size_t> order(values.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return values[a] < values[b]; });
  return order;
}

static std::vector<double> each(const std::vector<Side>& w, const std::vector<Side>& l, auto&& value) {
  std::vector<double> values(w.size());
  for (std::size_t i = 0; i < w.size(); ++i) values[i] = value(w[i], l[i]);
  return values;
}

std::vector<PairValue> batch_values(const Aot& o, const std::vector<Side>& w, const std::vector<Side>& l) {
  const std::vector<double> policy = each(w, l, [](const Side& x, const Side& y) { return x.s - y.s; });
  std::vector<double> reference = each(w, l, [](const Side& x, const Side& y) { return x.r - y.r; });
  std::sort(reference.begin(), reference.end());
  const std::vector<std::size_t> order = ranked(policy);
  std::vector<PairValue> values(w.size());
  for (std::size_t rank = 0; rank < order.size(); ++rank) {
    const std::size_t i = order[rank];
    const Slope v = smoothed_logistic(o.beta * (policy[i] - reference[rank]), o.label_smoothing);
    values[i] = {v.value, o.beta * v.slope, -o.beta * v.slope};
  }
  return values;
}

std::vector<PairValue> batch_values(const AotUnpaired& o, const std::vector<Side>& w, const std::vector<Side>& l) {
  const std::vector<double> a = each(w, l, [](const Side& x, const Side&) { return x.ratio(); });
  const std::vector<double> b = each(w, l, [](const Side&, const Side& y) { return y.ratio(); });
  const std::vector<std::size_t> chosen = ranked(a), rejected = ranked(b);
  std::vector<PairValue> values(w.size());
  for (std::size_t rank = 0; rank < chosen.size(); ++rank) {
    const std::size_t i = chosen[rank], j = rejected[rank];
    const Slope v = smoothed_logistic(o.beta * (a[i] - b[j]), o.label_smoothing);
    values[i].loss = v.value;
    values[i].d_chosen = o.beta * v.slope;
    values[j].d_rejected = -o.beta * v.slope;
  }
  return values;
}

PairValue pair_value(const ApoZero& o, const Side& w, const Side& l) {
  const double qw = sigmoid(o.beta * w.ratio()), ql = sigmoid(o.beta * l.ratio());
  return of_chosen({1.0 - qw, -o.beta * qw * (1.0 - qw)}) + of_rejected({ql, o.beta * ql * (1.0 - ql)});
}

PairValue pair_value(const ApoDown& o, const Side& w, const Side& l) {
  const double qw = sigmoid(o.beta * w.ratio());
  return of_chosen({qw, o.beta * qw * (1.0 - qw)}) + of_margin(ratio_of(w), ratio_of(l), o.beta, 0.0, [](double z) {
           return Slope{1.0 - sigmoid(z), -sigmoid(z) * sigmoid(-z)};
         });
}

PairValue pair_value(const DiscoPOP& o, const Side& w, const Side& l) {
  return of_margin(link_of(o.f_divergence, w), link_of(o.f_divergence, l), o.beta, 0.0, [&](double z) {
    const double q = sigmoid(z / o.tau), q_slope = q * sigmoid(-z / o.tau) / o.tau, e = std::exp(-z);
    const Slope log_part = logistic(z);
    return Slope{(1.0 - q) * log_part.value + q * e,
                 -q_slope * log_part.value + (1.0 - q) * log_part.slope + q_slope * e - q * e};
  });
}

}  // namespace sao::detail

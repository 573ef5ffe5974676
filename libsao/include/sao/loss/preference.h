// SPDX-License-Identifier: Apache-2.0
// Preference losses as functions of per-sequence log-prob sums and lengths, with closed-form gradients.
//   sao::PairLosses out = sao::preference_loss(sao::SimPO{.beta = 10.0}, {.chosen = s_w, .rejected = s_l,
//                                              .chosen_lengths = n_w, .rejected_lengths = n_l});
//   out.loss.mean().backward();   // when s_w and s_l carry gradients
//
// Symbols: s = sum of log pi(y_t | x, y_<t) over the response's tokens, n = number of those tokens, m = s / n;
// w = chosen, l = rejected; a = s_w - reference_w, b = s_l - reference_l; sg = logistic function; eps =
// label_smoothing.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <string_view>
#include <type_traits>
#include <variant>
#include <vector>

#include "sao/base/options.h"

namespace sao {

/// The link f of f-DPO (Wang et al. 2023): losses use f(a), f(b) in place of a, b.
struct FDivergence {
  /// "reverse_kl": a. "forward_kl": 1 - exp(-a). "js_divergence": log 2 + log sg(a).
  /// "alpha_divergence": (exp((alpha - 1) a) - 1) / (alpha - 1), its exponent at most 80.
  std::string type = "reverse_kl";
  double alpha = 0.5;  ///< of alpha_divergence; 1 is reverse_kl
};

/// Simple preference optimization, without reference: z = m_w - m_l - gamma_beta_ratio,
/// loss = -(1 - eps) log sg(beta z) - eps log sg(-beta z), or with `hinge` max(0, 1 - beta z).
/// Follows: Meng et al. 2024, eq. 6; princeton-nlp/SimPO simpo_trainer.py. TRL: CPOTrainer "simpo" with cpo_alpha 0.
/// Defaults: the SimPO repository's; its published runs use beta 2 to 10 (Gemma-2-9B-it: 10, ratio 0.5;
/// Llama-3-8B-Instruct v0.2: 10, ratio 0.3).
/// Trap: beta multiplies MEAN log-probs, so DPO's 0.1 does not carry over; the margin is given as gamma / beta,
/// where TRL's simpo_gamma is gamma.
struct SimPO {
  static constexpr std::string_view kName = "simpo";
  double beta = 2.0;               ///< scale of the mean log-prob
  double gamma_beta_ratio = 0.25;  ///< target margin divided by beta
  double label_smoothing = 0.0;    ///< eps
  bool hinge = false;              ///< the hinge form
  double sft_weight = 0.0;         ///< of the token-mean NLL of the chosen responses
};

/// Direct preference optimization: -log sg(beta (f(a) - f(b))).
/// Follows: Rafailov et al. 2023, eq. 7. TRL: DPOTrainer "sigmoid"; beta is TRL's default.
/// Trap: TRL 1.16 ignores label_smoothing here; the smoothed loss is cdpo.
struct DPO {
  static constexpr std::string_view kName = "dpo";
  double beta = 0.1;
  FDivergence f_divergence = {};
};

/// Conservative DPO: -(1 - eps) log sg(beta (a - b)) - eps log sg(-beta (a - b)).
/// Follows: Mitchell 2023, "A note on DPO with noisy preferences & relationship to IPO". Not in TRL 1.16;
/// LLaMA-Factory: "sigmoid". Trap: biased towards a small margin; `robust` is the unbiased form.
struct CDPO {
  static constexpr std::string_view kName = "cdpo";
  double beta = 0.1;
  double label_smoothing = 0.1;  ///< probability that a label is flipped; LLaMA-Factory's documentation
};

/// Robust DPO: [-(1 - eps) log sg(beta (f(a) - f(b))) + eps log sg(-beta (f(a) - f(b)))] / (1 - 2 eps).
/// Follows: Chowdhury et al. 2024, "Provably robust DPO". TRL: DPOTrainer "robust"; defaults are TRL's.
/// Trap: unbounded below for eps > 0: pairs that are already well separated go on being pulled apart.
struct RobustDPO {
  static constexpr std::string_view kName = "robust";
  double beta = 0.1;
  double label_smoothing = 0.0;
  FDivergence f_divergence = {};
};

/// Length-normalised DPO: -log sg(beta (f(a) / n_w - f(b) / n_l)).
/// TRL: DPOTrainer "sigmoid_norm". Trap: beta acts on means, so values near 0.1 hardly move the model.
struct DPONorm {
  static constexpr std::string_view kName = "dpo_norm";
  double beta = 0.1;  ///< TRL's default
  FDivergence f_divergence = {};
};

/// DPO with a length penalty: -log sg(beta (a - b) + alpha (n_w - n_l)).
/// Follows: Park et al. 2024, "Disentangling length from quality in DPO", as in Meng et al. 2024, table 3. Not in TRL.
struct RDPO {
  static constexpr std::string_view kName = "r_dpo";
  double beta = 0.1;
  double alpha = 0.05;  ///< reward a token is worth; smallest value of Meng et al.'s search
};

/// Hinge on the DPO margin: max(0, 1 - beta (f(a) - f(b))).
/// Follows: Zhao et al. 2023 (SLiC), Liu et al. 2023 (RSO). TRL: DPOTrainer "hinge".
/// Trap: with a reference; the reference-free form of SLiC-HF is slic_hf.
struct Hinge {
  static constexpr std::string_view kName = "hinge";
  double beta = 0.1;  ///< TRL's default
  FDivergence f_divergence = {};
};

/// Identity preference optimization: (h - 1 / (2 beta))^2, h = f(a) / n_w - f(b) / n_l, or f(a) - f(b) of sums.
/// Follows: Azar et al. 2023, eq. 17. TRL: DPOTrainer "ipo" (averages). beta is the paper's tau; default TRL's.
/// Trap: libraries differ between averages and sums; beta means another thing under each.
struct IPO {
  static constexpr std::string_view kName = "ipo";
  double beta = 0.1;
  bool average = true;  ///< per-token averages (TRL, the authors); false = sums (OpenRLHF, torchtune)
  FDivergence f_divergence = {};
};

/// Efficient exact optimization on pairs: with q = sg(beta (f(a) - f(b))),
/// q (log q - log(1 - eps)) + (1 - q) (log(1 - q) - log eps).
/// Follows: Ji et al. 2024, eq. 16. TRL: DPOTrainer "exo_pair". Trap: eps must be positive; TRL's own default 0 fails.
struct ExoPair {
  static constexpr std::string_view kName = "exo_pair";
  double beta = 0.1;
  double label_smoothing = 0.001;  ///< the paper's
  FDivergence f_divergence = {};
};

/// Noise contrastive alignment on pairs: -log sg(beta a) - log sg(-beta a) / 2 - log sg(-beta b) / 2.
/// Follows: Chen et al. 2024, "Noise contrastive alignment". TRL: DPOTrainer "nca_pair".
/// Trap: not a function of the margin: it also keeps the chosen likelihood from falling.
struct NcaPair {
  static constexpr std::string_view kName = "nca_pair";
  double beta = 0.1;  ///< TRL's default
};

/// Binary classifier optimization on pairs: -log sg(beta a) - log sg(-beta b).
/// Follows: Jung et al. 2024. TRL: DPOTrainer "bco_pair". Trap: without the paper's running reward shift, as TRL 1.16.
struct BcoPair {
  static constexpr std::string_view kName = "bco_pair";
  double beta = 0.1;
};

/// Self-play preference optimization: (a - 1 / (2 beta))^2 + (b + 1 / (2 beta))^2; a soft label p gives the paper's
/// (a - (p - 1/2) / beta)^2 + (b + (p - 1/2) / beta)^2 up to a constant.
/// Follows: Wu et al. 2024, eq. 4.7. TRL: DPOTrainer "sppo_hard". beta = 1 / eta; the paper's eta is 1000.
struct SppoHard {
  static constexpr std::string_view kName = "sppo_hard";
  double beta = 0.001;
};

/// Anchored preference optimization, chosen better than the model: 1 - sg(beta a) + sg(beta b).
/// Follows: D'Oosterlinck et al. 2024, eq. 7. TRL: DPOTrainer "apo_zero".
struct ApoZero {
  static constexpr std::string_view kName = "apo_zero";
  double beta = 0.1;
};

/// Anchored preference optimization, chosen worse than the model: sg(beta a) + 1 - sg(beta (a - b)).
/// Follows: D'Oosterlinck et al. 2024, eq. 8. TRL: DPOTrainer "apo_down". Trap: lowers the chosen likelihood by design.
struct ApoDown {
  static constexpr std::string_view kName = "apo_down";
  double beta = 0.1;
};

/// The loss found by DiscoPOP: with l = beta (f(a) - f(b)), q = sg(l / tau): (1 - q) (-log sg(l)) + q exp(-l).
/// Follows: Lu et al. 2024, eq. 5. TRL: DPOTrainer "discopop"; defaults TRL's. Trap: not convex, has a local optimum
/// at negative margins.
struct DiscoPOP {
  static constexpr std::string_view kName = "discopop";
  double beta = 0.1;
  double tau = 0.05;
  FDivergence f_divergence = {};
};

/// Likelihood of the chosen responses alone: their token-mean NLL. TRL: DPOTrainer "sft".
struct Sft {
  static constexpr std::string_view kName = "sft";
  double sft_weight = 1.0;
};

/// Contrastive preference optimization, without reference. form "sigmoid" (as cdpo of s_w - s_l), "hinge"
/// (max(0, 1 - beta (s_w - s_l))) or "ipo" ((m_w - m_l - 1 / (2 beta))^2), plus sft_weight times the NLL.
/// Follows: Xu et al. 2024, eq. 3. TRL: CPOTrainer; sft_weight is its cpo_alpha, defaults TRL's.
struct CPO {
  static constexpr std::string_view kName = "cpo";
  double beta = 0.1;
  std::string form = "sigmoid";
  double label_smoothing = 0.0;  ///< of the sigmoid form
  double sft_weight = 1.0;
};

/// SimPO with a bent reward r(m) = (1 - exp(-alpha m)) / alpha: z = r_w - r_l - gamma_beta_ratio.
/// Follows: Gupta et al. 2025 (arXiv 2501.03884). TRL: CPOTrainer "alphapo" (which forces cpo_alpha to 0).
/// Trap: with alpha > 0 small likelihoods weigh exponentially; alpha = 0 is SimPO.
struct AlphaPO {
  static constexpr std::string_view kName = "alphapo";
  double beta = 2.0;
  double gamma_beta_ratio = 0.25;
  double alpha = 0.25;
  double label_smoothing = 0.0;
};

/// Odds ratio preference optimization: sft_weight NLL - beta log sg(lo_w - lo_l), lo = m - log(1 - exp(m)).
/// Follows: Hong et al. 2024, eq. 4 and 7. TRL: ORPOTrainer; beta is the paper's lambda, default TRL's.
/// DIFFERS FROM TRL: the NLL is of the chosen response, as in the paper; TRL's also covers the prompt.
struct ORPO {
  static constexpr std::string_view kName = "orpo";
  double beta = 0.1;
  double sft_weight = 1.0;
};

/// SLiC-HF, without reference: max(0, delta - s_w + s_l) - lambda s_w.
/// Follows: Zhao et al. 2023, as in Meng et al. 2024, table 3. Not in TRL, whose "hinge" is `hinge`.
struct SlicHf {
  static constexpr std::string_view kName = "slic_hf";
  double delta = 1.0;
  double lambda = 0.1;  ///< weight of the chosen response's likelihood, summed over its tokens
};

/// RRHF, without reference: max(0, m_l - m_w) - lambda s_w.
/// Follows: Yuan et al. 2023, as in Meng et al. 2024, table 3. Not in TRL.
struct RRHF {
  static constexpr std::string_view kName = "rrhf";
  double lambda = 1.0;  ///< weight of the chosen response's likelihood, summed over its tokens
};

/// Which loss, with its options. A new one is a struct here, its pair_value in preference.cpp and its visit_fields.
using PreferenceLoss = std::variant<SimPO, DPO, CDPO, RobustDPO, DPONorm, RDPO, Hinge, IPO, ExoPair, NcaPair, BcoPair,
                                    SppoHard, ApoZero, ApoDown, DiscoPOP, Sft, CPO, AlphaPO, ORPO, SlicHf, RRHF>;

/// "simpo", "dpo", ...
std::string_view loss_name(const PreferenceLoss& loss);
/// The loss of that name with its defaults; also TRL's "sigmoid" (dpo) and "sigmoid_norm" (dpo_norm).
/// Throws InputError with the known names.
PreferenceLoss parse_loss(std::string_view name);
std::vector<std::string_view> loss_names();

/// Whether the loss reads reference log-probs.
bool needs_reference(const PreferenceLoss& loss);
/// Whether TRL's trainer of this loss logs means instead of sums as logps/chosen and logps/rejected.
bool logs_mean_logps(const PreferenceLoss& loss);

/// Throws InputError naming every option that is out of range.
void validate(const PreferenceLoss& loss);
/// Settings that are allowed but lie far outside what has been published, one sentence each.
std::vector<std::string> unusual_settings(const PreferenceLoss& loss);

/// What a loss is a function of. All tensors are [B].
struct PairLogps {
  at::Tensor chosen = {};            ///< s_w: floating point
  at::Tensor rejected = {};          ///< s_l
  at::Tensor chosen_lengths = {};    ///< n_w > 0: any dtype
  at::Tensor rejected_lengths = {};  ///< n_l > 0
  at::Tensor reference_chosen = {};  ///< log-prob sums under the reference, where the loss needs them
  at::Tensor reference_rejected = {};
  at::Tensor p = {};                ///< soft labels in [0, 1]; undefined = 1. The loss is p L(w, l) + (1 - p) L(l, w):
                                    ///< at p = 1/2 neither response is preferred, whatever the margin of the loss
  at::Tensor weight = {};           ///< of each pair, >= 0; undefined = 1
  double mean_chosen_length = 0.0;  ///< of the whole batch when this is a part of it: makes the mean over pairs of
                                    ///< the SFT term its token mean; 0 = of the pairs given here
};

/// One value a pair, [B], on the device of `chosen`; float64 if `chosen` is, else float32.
struct PairLosses {
  at::Tensor loss;            ///< not reduced, with weight; differentiable (once) in chosen and rejected
  at::Tensor chosen_rewards;  ///< beta times what the loss compares (a, s or m), as TRL logs it; no weight, no margin
  at::Tensor rejected_rewards;
  at::Tensor chosen_gradient;  ///< d loss.sum() / d chosen
  at::Tensor rejected_gradient;
};

/// Computed in double precision on the CPU from closed forms: B numbers, no graph.
/// Throws InputError: shapes that differ, an empty response, labels outside [0, 1], weights that are negative or not
/// finite, missing reference log-probs, options out of range.
PairLosses preference_loss(const PreferenceLoss& loss, const PairLogps& logps);

template <class Visitor, OptionsOf<FDivergence> Options>
void visit_fields(Visitor&& visit, Options& options) {
  visit("type", options.type, "reverse_kl, forward_kl, js_divergence or alpha_divergence");
  visit("alpha", options.alpha, "exponent of alpha_divergence");
}

namespace detail {
inline constexpr const char* kBetaHelp = "strength: scale of the log-probs that are compared";
inline constexpr const char* kSmoothingHelp = "probability that a label is wrong";
inline constexpr const char* kSftHelp = "weight of the chosen responses' token-mean NLL";
}  // namespace detail

template <class Visitor, OptionsOf<SimPO> Options>
void visit_fields(Visitor&& visit, Options& options) {
  visit("beta", options.beta, detail::kBetaHelp);
  visit("gamma_beta_ratio", options.gamma_beta_ratio, "target margin of the mean log-probs: gamma / beta");
  visit("label_smoothing", options.label_smoothing, detail::kSmoothingHelp);
  visit("hinge", options.hinge, "hinge instead of sigmoid form");
  visit("sft_weight", options.sft_weight, detail::kSftHelp);
}

template <class Visitor, OptionsOf<AlphaPO> Options>
void visit_fields(Visitor&& visit, Options& options) {
  visit("beta", options.beta, detail::kBetaHelp);
  visit("gamma_beta_ratio", options.gamma_beta_ratio, "target margin of the rewards: gamma / beta");
  visit("alpha", options.alpha, "shape of the reward; 0 is the log-prob itself");
  visit("label_smoothing", options.label_smoothing, detail::kSmoothingHelp);
}

template <class Visitor, OptionsOf<CPO> Options>
void visit_fields(Visitor&& visit, Options& options) {
  visit("beta", options.beta, detail::kBetaHelp);
  visit("form", options.form, "sigmoid, hinge or ipo");
  visit("label_smoothing", options.label_smoothing, detail::kSmoothingHelp);
  visit("sft_weight", options.sft_weight, detail::kSftHelp);
}

template <class Visitor, OptionsOf<ORPO> Options>
void visit_fields(Visitor&& visit, Options& options) {
  visit("beta", options.beta, "weight of the odds ratio term");
  visit("sft_weight", options.sft_weight, detail::kSftHelp);
}

template <class Visitor, OptionsOf<Sft> Options>
void visit_fields(Visitor&& visit, Options& options) {
  visit("sft_weight", options.sft_weight, detail::kSftHelp);
}

template <class Visitor, OptionsOf<SlicHf> Options>
void visit_fields(Visitor&& visit, Options& options) {
  visit("delta", options.delta, "margin of the summed log-probs");
  visit("lambda", options.lambda, "weight of the chosen response's NLL");
}

template <class Visitor, OptionsOf<RRHF> Options>
void visit_fields(Visitor&& visit, Options& options) {
  visit("lambda", options.lambda, "weight of the chosen response's NLL");
}

namespace detail {
template <class T>
concept DpoFamily = std::same_as<T, DPO> || std::same_as<T, CDPO> || std::same_as<T, RobustDPO> ||
    std::same_as<T, DPONorm> || std::same_as<T, RDPO> || std::same_as<T, Hinge> || std::same_as<T, IPO> ||
    std::same_as<T, ExoPair> || std::same_as<T, NcaPair> || std::same_as<T, BcoPair> || std::same_as<T, SppoHard> ||
    std::same_as<T, ApoZero> || std::same_as<T, ApoDown> || std::same_as<T, DiscoPOP>;
}  // namespace detail

/// The losses against a reference differ in few fields.
template <class Visitor, class Options>
requires detail::DpoFamily<std::remove_const_t<Options>>
void visit_fields(Visitor&& visit, Options& options) {
  visit("beta", options.beta, detail::kBetaHelp);
  if constexpr (requires { options.alpha; }) visit("alpha", options.alpha, "reward a token of length is worth");
  if constexpr (requires { options.tau; }) visit("tau", options.tau, "temperature of the mixing coefficient");
  if constexpr (requires { options.average; }) visit("average", options.average, "per-token averages, not sums");
  if constexpr (requires { options.label_smoothing; }) {
    visit("label_smoothing", options.label_smoothing, detail::kSmoothingHelp);
  }
  if constexpr (requires { options.f_divergence; }) visit("f_divergence", options.f_divergence, "link function");
}

/// The name, then the fields of the loss that is held; a visitor that writes another name changes the loss.
template <class Visitor, OptionsOf<PreferenceLoss> Loss>
void visit_fields(Visitor&& visit, Loss& loss) {
  std::string name(loss_name(loss));
  visit("name", name, "which loss");
  if constexpr (!std::is_const_v<Loss>) {
    if (name != loss_name(loss)) loss = parse_loss(name);
  }
  std::visit([&](auto& options) { visit_fields(visit, options); }, loss);
}

}  // namespace sao

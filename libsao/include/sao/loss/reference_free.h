// SPDX-License-Identifier: Apache-2.0
// Losses of pairs without a reference model, and likelihood itself.
// Symbols: preference.h.
#pragma once

#include <string>
#include <string_view>

#include "sao/base/options.h"
#include "sao/loss/pairwise.h"

namespace sao {

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
/// Trap: the NLL is of the chosen response, as in the paper; TRL's covers the prompt too, which `nll_of_prompt` gives.
struct ORPO {
  static constexpr std::string_view kName = "orpo";
  double beta = 0.1;
  double sft_weight = 1.0;
  bool nll_of_prompt = false;  ///< token mean over prompt and chosen response (all but the first token), as TRL
};

/// Triple preference optimization: the pair part of CPO plus gold_weight times the token-mean NLL of a third, best
/// response. form "sigmoid" (as cdpo of s_w - s_l), "hinge" (max(0, 1 - beta (s_w - s_l))) or "ipo"
/// ((m_w - m_l - 1 / (2 beta))^2).
/// Follows: Saeidi et al. 2024 (arXiv 2405.16681). TRL: TPOTrainer; gold_weight is its tpo_alpha, defaults TRL's. The
/// third response is the rows' "reference". Trap: that word means an answer here, not the reference model, of which
/// there is none.
struct TPO {
  static constexpr std::string_view kName = "tpo";
  double beta = 0.01;
  std::string form = "sigmoid";
  double label_smoothing = 0.0;  ///< of the sigmoid form
  double gold_weight = 1.0;
};

/// TPO with SimPO's pair part: z = m_w - m_l - gamma_beta_ratio, -(1 - eps) log sg(beta z) - eps log sg(-beta z), plus
/// gold_weight times the token-mean NLL of the third response.
/// TRL: TPOTrainer "tpo-l"; defaults TRL's. Trap: TRL's tpo_l_gamma 0.5 is gamma, and with its beta 0.01 the ratio is
/// 50: give both, as for SimPO.
struct TPOL {
  static constexpr std::string_view kName = "tpo_l";
  double beta = 0.01;
  double gamma_beta_ratio = 50.0;
  double label_smoothing = 0.0;
  double gold_weight = 1.0;
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

namespace detail {
inline constexpr const char* kSftHelp = "weight of the chosen responses' token-mean NLL";
inline constexpr const char* kGoldHelp = "weight of the third response's token-mean NLL";
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
  visit("nll_of_prompt", options.nll_of_prompt, "the NLL covers the prompt too, as in TRL");
}

template <class Visitor, OptionsOf<TPO> Options>
void visit_fields(Visitor&& visit, Options& options) {
  visit("beta", options.beta, detail::kBetaHelp);
  visit("form", options.form, "sigmoid, hinge or ipo");
  visit("label_smoothing", options.label_smoothing, detail::kSmoothingHelp);
  visit("gold_weight", options.gold_weight, detail::kGoldHelp);
}

template <class Visitor, OptionsOf<TPOL> Options>
void visit_fields(Visitor&& visit, Options& options) {
  visit("beta", options.beta, detail::kBetaHelp);
  visit("gamma_beta_ratio", options.gamma_beta_ratio, "target margin of the mean log-probs: gamma / beta");
  visit("label_smoothing", options.label_smoothing, detail::kSmoothingHelp);
  visit("gold_weight", options.gold_weight, detail::kGoldHelp);
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

}  // namespace sao

// SPDX-License-Identifier: Apache-2.0
// Losses, gradients and logged rewards against TRL's trainers on their own batches.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/GradMode.h>
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>

#include "sao/io/files.h"
#include "sao/io/safetensors.h"
#include "sao/loss/preference.h"
#include "sao/model/causal_lm.h"
#include "sao/ops/log_probs.h"
#include "support/paths.h"

namespace sao {
namespace {

using Json = nlohmann::json;

constexpr const char* kModels[] = {"gemma2-tiny", "llama3-tiny", "llama-tied", "sharded-gemma2"};

// A fixture's batch as a packed stream: prompts and responses of 2N sequences, chosen first.
struct Batch {
  PackedTokens tokens;
  at::Tensor rows, targets, sequence;  // of each scored token
  at::Tensor lengths;                  // [2N] scored tokens
  std::int64_t pairs = 0;
};

// `scored[t]` says whether token t of a row belongs to the response; rows may be padded on either side.
Batch make_batch(const at::Tensor& ids, const at::Tensor& attention, const at::Tensor& scored) {
  std::vector<TokenIds> sequences;
  std::vector<std::int64_t> rows, targets, owner, lengths;
  std::int64_t begin = 0;
  const auto id = ids.accessor<std::int64_t, 2>(), real = attention.accessor<std::int64_t, 2>();
  const auto counts = scored.accessor<bool, 2>();
  for (std::int64_t r = 0; r < ids.size(0); ++r) {
    TokenIds sequence;
    lengths.push_back(0);
    for (std::int64_t t = 0; t < ids.size(1); ++t) {
      if (real[r][t] == 0) continue;
      if (!sequence.empty() && counts[r][t]) {
        rows.push_back(begin + static_cast<std::int64_t>(sequence.size()) - 1);
        targets.push_back(id[r][t]);
        owner.push_back(r);
        ++lengths.back();
      }
      sequence.push_back(static_cast<TokenId>(id[r][t]));
    }
    begin += static_cast<std::int64_t>(sequence.size());
    sequences.push_back(std::move(sequence));
  }
  return {pack(sequences),   at::tensor(rows),    at::tensor(targets),
          at::tensor(owner), at::tensor(lengths), ids.size(0) / 2};
}

Batch dpo_batch(const SafetensorsFile& file, const std::string& key) {
  return make_batch(file.tensor(key + ".input_ids"), file.tensor(key + ".attention_mask"),
                    file.tensor(key + ".completion_mask") != 0);
}

// CPO and ORPO batches hold chosen and rejected apart, of different widths.
Batch split_batch(const SafetensorsFile& file, const std::string& key) {
  const auto both = [&](const char* name, std::int64_t fill) {
    at::Tensor chosen = file.tensor(key + ".chosen_" + name), rejected = file.tensor(key + ".rejected_" + name);
    const std::int64_t width = std::max(chosen.size(1), rejected.size(1));
    const auto widen = [&](const at::Tensor& t) { return at::constant_pad_nd(t, {0, width - t.size(1)}, fill); };
    return at::cat({widen(chosen), widen(rejected)});
  };
  return make_batch(both("input_ids", 0), both("attention_mask", 0), both("labels", -100) != -100);
}

at::Tensor token_logps(const CausalLM& model, const PackedTokens& tokens, const at::Tensor& rows,
                       const at::Tensor& targets) {
  return ops::log_probs(model.hidden(tokens).index_select(0, rows), model.output_weight(), targets,
                        {.logit_softcap = model.config().final_logit_softcapping, .chunk_tokens = 64});
}

at::Tensor sums_of(const Batch& batch, const at::Tensor& logps) {
  return at::zeros({2 * batch.pairs}, logps.options()).index_add(0, batch.sequence, logps);
}

// TRL's ld_alpha: tokens beyond the shorter response of the pair count alpha.
at::Tensor desensitised(const Batch& batch, const at::Tensor& logps, double alpha) {
  std::vector<float> weight;
  std::vector<std::int64_t> seen(static_cast<std::size_t>(2 * batch.pairs));
  for (std::int64_t i = 0; i < batch.sequence.size(0); ++i) {
    const std::int64_t s = batch.sequence[i].item<std::int64_t>(), pair = s % batch.pairs;
    const std::int64_t shared =
        std::min(batch.lengths[pair].item<std::int64_t>(), batch.lengths[pair + batch.pairs].item<std::int64_t>());
    weight.push_back(++seen[static_cast<std::size_t>(s)] <= shared ? 1.0f : static_cast<float>(alpha));
  }
  return logps * at::tensor(weight);
}

struct WeightedLoss {
  PreferenceLoss loss;
  double weight = 1.0;
};

// The losses of a DPOTrainer variant; nothing for what libsao has no struct for.
std::optional<std::vector<WeightedLoss>> dpo_losses(const Json& args) {
  if (args.contains("use_weighting")) return std::nullopt;
  const double beta = args.value("beta", 0.1), eps = args.value("label_smoothing", 0.0);
  const FDivergence f{args.value("f_divergence_type", "reverse_kl"), args.value("f_alpha_divergence_coef", 0.5)};
  std::vector<WeightedLoss> losses;
  for (const Json& item : args.at("loss_type")) {
    const std::string type = item;
    const double weight = args.contains("loss_weights") ? args["loss_weights"][losses.size()].get<double>() : 1.0;
    std::optional<PreferenceLoss> loss;
    if (type == "sigmoid") loss = DPO{.beta = beta, .f_divergence = f};
    if (type == "sigmoid_norm") loss = DPONorm{.beta = beta, .f_divergence = f};
    if (type == "hinge") loss = Hinge{.beta = beta, .f_divergence = f};
    if (type == "ipo") loss = IPO{.beta = beta, .f_divergence = f};
    if (type == "exo_pair") loss = ExoPair{.beta = beta, .label_smoothing = eps, .f_divergence = f};
    if (type == "nca_pair") loss = NcaPair{.beta = beta};
    if (type == "robust") loss = RobustDPO{.beta = beta, .label_smoothing = eps, .f_divergence = f};
    if (type == "bco_pair") loss = BcoPair{.beta = beta};
    if (type == "sppo_hard") loss = SppoHard{.beta = beta};
    if (type == "apo_zero") loss = ApoZero{.beta = beta};
    if (type == "apo_down") loss = ApoDown{.beta = beta};
    if (type == "discopop") loss = DiscoPOP{.beta = beta, .tau = args.value("discopop_tau", 0.05), .f_divergence = f};
    if (type == "sft") loss = Sft{};
    if (!loss) return std::nullopt;
    losses.push_back({*loss, weight});
  }
  return losses;
}

PreferenceLoss cpo_loss(const Json& args) {
  const std::string type = args.at("loss_type");
  const double beta = args.at("beta"), eps = args.value("label_smoothing", 0.0);
  const double ratio = args.value("simpo_gamma", 0.5) / beta, sft = args.value("cpo_alpha", 1.0);
  if (type == "simpo") {
    return SimPO{.beta = beta, .gamma_beta_ratio = ratio, .label_smoothing = eps, .sft_weight = sft};
  }
  if (type == "alphapo") return AlphaPO{.beta = beta, .gamma_beta_ratio = ratio, .alpha = args.at("alpha")};
  return CPO{.beta = beta, .form = type, .label_smoothing = eps, .sft_weight = sft};
}

double relative(double value, double expected) { return std::abs(value - expected) / std::abs(expected); }

struct Worst {
  double loss = 0.0, norm = 0.0, tensor = 0.0, metric = 0.0;
  int variants = 0;
};

class LossParity : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    SAO_NEED_PARITY(GetParam());
    at::set_num_threads(1);  // so small a model only waits for a second thread
    folder_ = testing::parity(GetParam());
    expected_ = Json::parse(read_file(folder_ / "expected.json"));
    file_.emplace(SafetensorsFile::open(folder_ / "expected.safetensors"));
    model_.emplace(CausalLM::load(folder_));
    reference_.emplace(CausalLM::load(folder_ / "ref"));
    model_->set_requires_grad(true);
  }

  // Compares a variant's loss and the gradients that it leaves in the model.
  void check(const std::string& name, const Json& variant, const at::Tensor& total) {
    SCOPED_TRACE(name);
    for (const auto& [key, parameter] : model_->parameters()) parameter.mutable_grad() = at::Tensor();
    total.backward({}, /*retain_graph=*/true);
    const double loss_error = relative(total.item<double>(), variant.at("loss"));
    EXPECT_LT(loss_error, 1e-4);
    double squares = 0.0;
    for (const auto& [key, parameter] : model_->parameters()) {
      squares += parameter.grad().to(at::kDouble).square().sum().item<double>();
      const std::string tensor = fmt::format("{}.grad.{}", name, key);
      if (!file_->contains(tensor)) continue;
      const at::Tensor expected = file_->tensor(tensor).to(at::kDouble);
      const double error =
          ((parameter.grad().to(at::kDouble) - expected).norm() / expected.norm().clamp_min(1e-30)).item<double>();
      EXPECT_LT(error, 1e-3) << tensor;
      worst_.tensor = std::max(worst_.tensor, error);
    }
    const double norm_error = relative(std::sqrt(squares), variant.at("grad_norm"));
    EXPECT_LT(norm_error, 1e-4);
    worst_.loss = std::max(worst_.loss, loss_error);
    worst_.norm = std::max(worst_.norm, norm_error);
    ++worst_.variants;
  }

  void check_metric(const Json& metrics, const char* name, double value) {
    if (!metrics.contains(name)) return;
    const double expected = metrics[name], error = std::abs(value - expected) / std::max(1.0, std::abs(expected));
    EXPECT_LT(error, 1e-4) << name;
    worst_.metric = std::max(worst_.metric, error);
  }

  void check_metrics(const Json& variant, const PreferenceLoss& loss, const PairLosses& out, const PairLogps& logps) {
    const Json& metrics = variant.at("metrics");
    check_metric(metrics, "rewards/chosen", out.chosen_rewards.mean().item<double>());
    check_metric(metrics, "rewards/rejected", out.rejected_rewards.mean().item<double>());
    check_metric(metrics, "rewards/margins", (out.chosen_rewards - out.rejected_rewards).mean().item<double>());
    check_metric(metrics, "rewards/accuracies",
                 (out.chosen_rewards > out.rejected_rewards).to(at::kDouble).mean().item<double>());
    const bool mean = logs_mean_logps(loss);
    const auto logged = [&](const at::Tensor& s, const at::Tensor& n) {
      return (mean ? s / n : s).mean().item<double>();
    };
    check_metric(metrics, "logps/chosen", logged(logps.chosen.detach(), logps.chosen_lengths));
    check_metric(metrics, "logps/rejected", logged(logps.rejected.detach(), logps.rejected_lengths));
  }

  PairLogps pair_logps(const Batch& batch, const at::Tensor& sums) const {
    const auto chosen = [&](const at::Tensor& t) { return t.narrow(0, 0, batch.pairs); };
    const auto rejected = [&](const at::Tensor& t) { return t.narrow(0, batch.pairs, batch.pairs); };
    return {.chosen = chosen(sums),
            .rejected = rejected(sums),
            .chosen_lengths = chosen(batch.lengths),
            .rejected_lengths = rejected(batch.lengths)};
  }

  void report(const char* family) const {
    RecordProperty(family,
                   fmt::format("{} variants, worst: loss {:.1e}, grad norm {:.1e}, grad tensor {:.1e}, metric {:.1e}",
                               worst_.variants, worst_.loss, worst_.norm, worst_.tensor, worst_.metric));
    std::printf(
        "           %s %s: %d variants, worst relative error: loss %.1e, grad norm %.1e, grad tensor %.1e, "
        "metric %.1e\n",
        GetParam(), family, worst_.variants, worst_.loss, worst_.norm, worst_.tensor, worst_.metric);
  }

  std::filesystem::path folder_;
  Json expected_;
  std::optional<SafetensorsFile> file_;
  std::optional<CausalLM> model_, reference_;
  Worst worst_;
};

// The forward pass of a batch, which its variants share.
struct Forward {
  Batch batch;
  at::Tensor policy, reference;  // token log-probs
};

TEST_P(LossParity, Dpo) {
  std::map<std::string, Forward> forwards;
  for (const auto& [name, variant] : expected_.at("dpo").items()) {
    const auto losses = dpo_losses(variant.at("args"));
    if (!losses || !variant.contains("loss")) continue;
    const std::string key = variant.at("batch");
    if (!forwards.contains(key)) {
      const Batch made = dpo_batch(*file_, key);
      const at::Tensor logps = token_logps(*model_, made.tokens, made.rows, made.targets);
      const c10::NoGradGuard no_grad;
      forwards[key] = {made, logps, token_logps(*reference_, made.tokens, made.rows, made.targets)};
    }
    auto [batch, policy, reference] = forwards.at(key);
    if (variant.at("args").contains("ld_alpha")) {
      policy = desensitised(batch, policy, variant.at("args")["ld_alpha"]);
      reference = desensitised(batch, reference, variant.at("args")["ld_alpha"]);
    }
    PairLogps logps = pair_logps(batch, sums_of(batch, policy));
    const PairLogps at_reference = pair_logps(batch, sums_of(batch, reference));
    logps.reference_chosen = at_reference.chosen;
    logps.reference_rejected = at_reference.rejected;
    at::Tensor total = at::zeros({});
    for (const auto& [loss, weight] : *losses) total = total + weight * preference_loss(loss, logps).loss.mean();
    check("dpo." + name, variant, total);
    if (std::holds_alternative<Sft>(losses->front().loss)) continue;  // TRL logs rewards against a reference it ignores
    check_metrics(variant, losses->front().loss, preference_loss(losses->front().loss, logps), logps);
  }
  EXPECT_GE(worst_.variants, 14);
  report("dpo");
}

TEST_P(LossParity, Cpo) {
  const Batch batch = split_batch(*file_, "cpo.batch");
  const at::Tensor policy = token_logps(*model_, batch.tokens, batch.rows, batch.targets);
  for (const auto& [name, variant] : expected_.at("cpo").items()) {
    const PreferenceLoss loss = cpo_loss(variant.at("args"));
    const PairLogps logps = pair_logps(batch, sums_of(batch, policy));
    const PairLosses out = preference_loss(loss, logps);
    check("cpo." + name, variant, out.loss.mean());
    check_metrics(variant, loss, out, logps);
  }
  EXPECT_EQ(worst_.variants, 10);
  report("cpo");
}

// TRL's ORPO adds the NLL of chosen prompt and response; libsao's struct has the paper's, of the response.
TEST_P(LossParity, Orpo) {
  const Batch batch = split_batch(*file_, "orpo.batch");
  std::vector<std::int64_t> rows, targets;
  const std::int64_t* starts = batch.tokens.starts.const_data_ptr<std::int64_t>();
  for (std::int64_t s = 0; s < batch.pairs; ++s) {
    for (std::int64_t t = starts[s]; t + 1 < starts[s + 1]; ++t) {
      rows.push_back(t);
      targets.push_back(batch.tokens.ids[t + 1].item<std::int64_t>());
    }
  }
  for (const auto& [name, variant] : expected_.at("orpo").items()) {
    const ORPO loss{.beta = variant.at("args").at("beta"), .sft_weight = 0.0};
    const at::Tensor policy = token_logps(*model_, batch.tokens, batch.rows, batch.targets);
    const PairLogps logps = pair_logps(batch, sums_of(batch, policy));
    const PairLosses out = preference_loss(loss, logps);
    const at::Tensor nll = -token_logps(*model_, batch.tokens, at::tensor(rows), at::tensor(targets)).mean();
    check("orpo." + name, variant, out.loss.mean() + nll);
    check_metrics(variant, loss, out, logps);
  }
  EXPECT_EQ(worst_.variants, 2);
  report("orpo");
}

INSTANTIATE_TEST_SUITE_P(Models, LossParity, ::testing::ValuesIn(kModels), [](const auto& name) {
  std::string text = name.param;
  std::replace(text.begin(), text.end(), '-', '_');
  return text;
});

}  // namespace
}  // namespace sao

// SPDX-License-Identifier: Apache-2.0
#include "train/objective.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "sao/base/error.h"
#include "sao/io/files.h"
#include "train/vectors.h"

namespace sao::detail {
namespace {

std::int64_t size_of(const TokenIds& ids) { return static_cast<std::int64_t>(ids.size()); }

// Bytes that tell data apart.
class Bytes {
 public:
  template <class T>
  void add(const T& value) {
    bytes_.append(reinterpret_cast<const char*>(&value), sizeof value);
  }
  void add(const TokenIds& ids) {
    add(ids.size());
    bytes_.append(reinterpret_cast<const char*>(ids.data()), ids.size() * sizeof(TokenId));
  }
  std::string fingerprint() const { return sao::fingerprint(bytes_); }

 private:
  std::string bytes_;
};

void add_side(const SequenceSums& sums, double logged_logp, double reward, double tokens, SideTotals& side) {
  side.rows += 1.0;
  side.reward += reward;
  side.logp += logged_logp;
  side.tokens += tokens;
  side.mean_logit += sums.mean_logit;
  side.top += sums.top;
}

class PairObjective : public Objective {
 public:
  PairObjective(const std::vector<TokenPair>& pairs, const TrainerOptions& options)
      : pairs_(pairs),
        options_(options),
        nll_of_(nll_of(options.loss)),
        imitates_gold_(nll_of_ == NllOf::kGold),
        soft_labels_(options.soft_labels || reads_soft_labels(options.loss)) {}

  std::size_t size() const override { return pairs_.size(); }
  const std::string& id(std::size_t row) const override { return pairs_[row].id; }
  const char* noun() const override { return "pairs"; }

  std::string fingerprint() const override {
    Bytes bytes;
    for (const TokenPair& pair : pairs_) {
      bytes.add(pair.prompt);
      bytes.add(pair.chosen);
      bytes.add(pair.rejected);
      if (imitates_gold_) bytes.add(pair.gold);
      bytes.add(pair.p);
      bytes.add(pair.weight);
    }
    return bytes.fingerprint();
  }

  std::int64_t tokens(std::size_t row) const override {
    const TokenPair& pair = pairs_[row];
    const std::int64_t two = 2 * size_of(pair.prompt) + size_of(pair.chosen) + size_of(pair.rejected);
    return imitates_gold_ ? two + size_of(pair.prompt) + size_of(pair.gold) : two;
  }

  std::vector<Scored> scored(std::size_t row) const override {
    const TokenPair& pair = pairs_[row];
    const std::int64_t shared = std::min(size_of(pair.chosen), size_of(pair.rejected));
    std::vector<Scored> sequences = {{{pair.prompt, pair.chosen, nll_of_ == NllOf::kPromptAndChosen}, shared},
                                     {{pair.prompt, pair.rejected}, shared}};
    if (imitates_gold_) sequences.push_back({{pair.prompt, pair.gold}, size_of(pair.gold)});
    return sequences;
  }

  std::size_t reference_slots() const override { return needs_reference(options_.loss) ? 2 : 0; }
  const char* slot_name(std::size_t slot) const override {
    return slot == 0 ? "chosen" : slot == 1 ? "rejected" : "gold";
  }
  std::optional<double> given_reference(std::size_t row, std::size_t slot) const override {
    return slot == 0 ? pairs_[row].reference_chosen : pairs_[row].reference_rejected;
  }
  std::optional<PromptedResponse> mismatched(std::size_t, std::size_t) const override { return std::nullopt; }

  double mean_nll_length(std::span<const std::size_t> rows) const override {
    double sum = 0.0;
    for (const std::size_t row : rows) sum += nll_length(row);
    return sum / static_cast<double>(rows.size());
  }

  bool is_batchwise() const override { return sao::is_batchwise(options_.loss); }

  std::optional<double> mean_reward(std::span<const std::size_t> rows,
                                    std::span<const RowValues> values) const override {
    if (!uses_reward_shift(options_.loss)) return std::nullopt;
    return sao::mean_reward(options_.loss, inputs(rows, values, {}));
  }

  std::vector<RowLoss> evaluate(std::span<const std::size_t> rows, std::span<const RowValues> values,
                                const BatchFacts& facts) const override {
    const PairLosses out = preference_loss(options_.loss, inputs(rows, values, facts));
    const std::vector<double> loss = to_vector(out.loss), chosen = to_vector(out.chosen_gradient),
                              rejected = to_vector(out.rejected_gradient), nll = to_vector(out.nll_gradient),
                              chosen_reward = to_vector(out.chosen_rewards),
                              rejected_reward = to_vector(out.rejected_rewards);
    const std::vector<double> log_odds =
        out.log_odds.defined() ? to_vector(out.log_odds) : std::vector<double>(rows.size());
    std::vector<RowLoss> losses(rows.size());
    for (std::size_t k = 0; k < rows.size(); ++k) {
      losses[k] = {.loss = loss[k],
                   .slope = {chosen[k], rejected[k], 0.0},
                   .reward = {chosen_reward[k], rejected_reward[k], 0.0},
                   .log_odds = log_odds[k]};
      losses[k].plain_slope[imitates_gold_ ? 2 : 0] = nll[k];
    }
    return losses;
  }

  void add(std::size_t row, const RowValues& values, const RowLoss& loss, BatchTotals& totals) const override {
    const TokenPair& pair = pairs_[row];
    const bool mean = logs_mean_logps(options_.loss);
    for (const std::size_t side : {std::size_t{0}, std::size_t{1}}) {
      const auto n = static_cast<double>((side == 0 ? pair.chosen : pair.rejected).size());
      const double logp = values.policy[side].logp;
      add_side(values.policy[side], mean ? logp / n : logp, loss.reward[side], n, totals.sides[side]);
    }
    totals.correct += loss.reward[0] > loss.reward[1] ? 1.0 : 0.0;
    totals.nll -= nll_sum(values);
    totals.nll_tokens += nll_length(row);
    totals.log_odds += loss.log_odds;
    totals.log_odds_ratio += std::min(loss.log_odds, 0.0) - std::log1p(std::exp(-std::abs(loss.log_odds)));
    for (const SequenceSums& sums : values.policy) totals.entropy += sums.entropy;
    totals.tokens += static_cast<double>(pair.chosen.size() + pair.rejected.size());
    if (imitates_gold_) totals.tokens += static_cast<double>(pair.gold.size());
  }

  void finish(const BatchTotals& totals, const BatchFacts& facts, TrainMetrics& metrics) const override {
    metrics.reward_accuracy = totals.correct / facts.rows;
    metrics.nll_loss = totals.nll / totals.nll_tokens;
    if (options_.token_metrics) metrics.mean_token_accuracy = totals.sides[0].top / totals.sides[0].tokens;
    if (std::holds_alternative<ORPO>(options_.loss)) {
      metrics.log_odds_ratio = totals.log_odds_ratio / facts.rows;
      metrics.log_odds_chosen = totals.log_odds / facts.rows;
    }
  }

 private:
  double nll_length(std::size_t row) const {
    const TokenPair& pair = pairs_[row];
    if (imitates_gold_) return static_cast<double>(pair.gold.size());
    const auto response = static_cast<double>(pair.chosen.size());
    return nll_of_ == NllOf::kPromptAndChosen ? response + static_cast<double>(pair.prompt.size()) - 1.0 : response;
  }

  double nll_sum(const RowValues& values) const {
    if (imitates_gold_) return values.policy[2].plain_logp;
    return values.policy[0].plain_logp + values.policy[0].prompt_logp;
  }

  // WPO, eq. 2: how likely a response is, token by token, against what the policy gives on average.
  static double alignment(const SequenceSums& sums, double tokens) {
    return std::exp((sums.plain_logp - sums.log_sum_square) / tokens);
  }

  PairLogps inputs(std::span<const std::size_t> rows, std::span<const RowValues> values,
                   const BatchFacts& facts) const {
    const std::size_t n = rows.size();
    std::vector<double> sw(n), sl(n), nw(n), nl(n), rw(n), rl(n), nll(n), nll_lengths(n), p(n), weight(n);
    for (std::size_t k = 0; k < n; ++k) {
      const TokenPair& pair = pairs_[rows[k]];
      sw[k] = values[k].policy[0].logp;
      sl[k] = values[k].policy[1].logp;
      nw[k] = static_cast<double>(pair.chosen.size());
      nl[k] = static_cast<double>(pair.rejected.size());
      rw[k] = values[k].reference[0];
      rl[k] = values[k].reference[1];
      nll[k] = nll_sum(values[k]);
      nll_lengths[k] = nll_length(rows[k]);
      p[k] = soft_labels_ ? pair.p : 1.0;
      weight[k] = pair.weight;
      if (options_.use_weighting) {
        weight[k] *= alignment(values[k].policy[0], nw[k]) * alignment(values[k].policy[1], nl[k]);
      }
    }
    return {.chosen = double_tensor(sw),
            .rejected = double_tensor(sl),
            .chosen_lengths = double_tensor(nw),
            .rejected_lengths = double_tensor(nl),
            .reference_chosen = double_tensor(rw),
            .reference_rejected = double_tensor(rl),
            .p = double_tensor(p),
            .weight = double_tensor(weight),
            .nll = double_tensor(nll),
            .nll_lengths = double_tensor(nll_lengths),
            .mean_nll_length = facts.mean_nll_length,
            .reward_shift = facts.reward_shift,
            .average_log_probs = options_.average_log_probs};
  }

  const std::vector<TokenPair>& pairs_;
  const TrainerOptions& options_;
  NllOf nll_of_;
  bool imitates_gold_, soft_labels_;
};

class UnpairedObjective : public Objective {
 public:
  UnpairedObjective(const std::vector<TokenCompletion>& rows, const TrainerOptions& options)
      : rows_(rows), options_(options), estimates_kl_(std::holds_alternative<KTO>(options.loss)) {}

  std::size_t size() const override { return rows_.size(); }
  const std::string& id(std::size_t row) const override { return rows_[row].id; }
  const char* noun() const override { return "rows"; }

  std::string fingerprint() const override {
    Bytes bytes;
    for (const TokenCompletion& row : rows_) {
      bytes.add(row.prompt);
      bytes.add(row.completion);
      bytes.add(row.label);
      bytes.add(row.weight);
    }
    return bytes.fingerprint();
  }

  std::int64_t tokens(std::size_t row) const override {
    return size_of(rows_[row].prompt) + size_of(rows_[row].completion);
  }

  std::vector<Scored> scored(std::size_t row) const override {
    const TokenCompletion& of = rows_[row];
    return {{{of.prompt, of.completion}, size_of(of.completion)}};
  }

  std::size_t reference_slots() const override { return 1; }
  const char* slot_name(std::size_t) const override { return "completion"; }
  std::optional<double> given_reference(std::size_t row, std::size_t) const override { return rows_[row].reference; }
  std::optional<PromptedResponse> mismatched(std::size_t row, std::size_t other) const override {
    if (!estimates_kl_) return std::nullopt;
    return PromptedResponse{rows_[row].prompt, rows_[other].completion};
  }

  double mean_nll_length(std::span<const std::size_t>) const override { return 0.0; }
  bool is_batchwise() const override { return false; }
  std::optional<double> mean_reward(std::span<const std::size_t>, std::span<const RowValues>) const override {
    return std::nullopt;
  }

  std::vector<RowLoss> evaluate(std::span<const std::size_t> rows, std::span<const RowValues> values,
                                const BatchFacts& facts) const override {
    const std::size_t n = rows.size();
    std::vector<double> completion(n), reference(n), label(n), weight(n);
    for (std::size_t k = 0; k < n; ++k) {
      completion[k] = values[k].policy[0].logp;
      reference[k] = values[k].reference[0];
      label[k] = rows_[rows[k]].label ? 1.0 : 0.0;
      weight[k] = rows_[rows[k]].weight;
    }
    const UnpairedLosses out = unpaired_loss(options_.loss, {.completion = double_tensor(completion),
                                                             .reference = double_tensor(reference),
                                                             .label = double_tensor(label),
                                                             .weight = double_tensor(weight),
                                                             .kl = facts.kl});
    const std::vector<double> loss = to_vector(out.loss), slope = to_vector(out.gradient),
                              reward = to_vector(out.rewards);
    std::vector<RowLoss> losses(n);
    for (std::size_t k = 0; k < n; ++k) {
      losses[k] = {.loss = loss[k], .slope = {slope[k], 0.0, 0.0}, .reward = {reward[k], 0.0, 0.0}};
    }
    return losses;
  }

  void add(std::size_t row, const RowValues& values, const RowLoss& loss, BatchTotals& totals) const override {
    const auto n = static_cast<double>(rows_[row].completion.size());
    const SequenceSums& sums = values.policy[0];
    add_side(sums, sums.logp, loss.reward[0], n, totals.sides[rows_[row].label ? 0 : 1]);
    totals.entropy += sums.entropy;
    totals.tokens += n;
  }

  void finish(const BatchTotals&, const BatchFacts& facts, TrainMetrics& metrics) const override {
    metrics.reward_accuracy = std::nan("");
    metrics.kl = facts.kl;
  }

 private:
  const std::vector<TokenCompletion>& rows_;
  const TrainerOptions& options_;
  bool estimates_kl_;
};

}  // namespace

std::unique_ptr<Objective> make_objective(const std::vector<TokenPair>& pairs, const TrainerOptions& options) {
  return std::make_unique<PairObjective>(pairs, options);
}

std::unique_ptr<Objective> make_objective(const std::vector<TokenCompletion>& rows, const TrainerOptions& options) {
  return std::make_unique<UnpairedObjective>(rows, options);
}

}  // namespace sao::detail

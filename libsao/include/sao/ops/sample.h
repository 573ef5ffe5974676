// SPDX-License-Identifier: Apache-2.0
// Choosing tokens from logits. A draw is a pure function of its row of logits, its uniform number and the options:
//   std::vector<sao::ops::Drawn> drawn(draws.size());
//   sao::ops::sample(logits, draws, {.temperature = 0.7, .top_p = 0.9}, drawn);
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Event.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "sao/base/tokens.h"

namespace sao::ops {

/// Filters apply in this order, each to what the one before it left: temperature, top-k, top-p, min-p.
/// Follows: transformers' TemperatureLogitsWarper, TopK-, TopP-, MinPLogitsWarper in the order of generate().
/// NOTE: vLLM applies min-p before top-k and top-p; the set differs only where both cut.
struct SampleOptions {
  double temperature = 1.0;  ///< logits are divided by it; 0 = the most likely token, ties to the lowest id
  std::int64_t top_k = 0;    ///< keep the k largest logits and their equals; 0 = all
  double top_p = 1.0;        ///< keep the most likely tokens (among equals the lowest ids) until they reach top_p
  double min_p = 0.0;        ///< keep tokens of at least min_p times the probability of the most likely one
};

struct Draw {
  std::int64_t row = 0;  ///< of the logits; several draws may share one
  double uniform = 0.0;  ///< in [0, 1)
};

struct Drawn {
  TokenId id = 0;
  float log_prob = 0.0f;  ///< of the id at temperature 1 over the whole vocabulary
};

/// One token a draw: the first, in the order of ids, at which the kept probability exceeds `uniform` times its total
/// (in double). Shape: logits [n, V], soft-capped already unless `softcap` says what is to be done; drawn is as long as
/// draws. On the CPU in float32 and by the CUDA kernel (float32, bfloat16) no vocabulary is sorted as a whole: top-k by
/// partial selection, top-p by a histogram of masses. Throws InputError for
/// options out of range, a `drawn` of another size, and for rows with a NaN, +inf or nothing finite.
void sample(const at::Tensor& logits, std::span<const Draw> draws, const SampleOptions& options, std::span<Drawn> drawn,
            double softcap = 0.0);

/// What sample does in two halves, between which a GPU's kernel computes; where there is no kernel of a GPU all is done
/// in the first.
class PendingDraws {
 public:
  /// As sample, which throws the same; a row with a NaN, +inf or nothing finite is found by finish.
  PendingDraws(const at::Tensor& logits, std::span<const Draw> draws, const SampleOptions& options,
               double softcap = 0.0);
  std::size_t size() const { return count_; }
  /// [draws] int64 on the logits' device, for work that follows there before finish.
  at::Tensor ids() const;
  /// Waits for the draws, not for what was started after them. To be called once. `wanted`: whether a draw must have
  /// come out well; all must where it is empty.
  void finish(std::span<Drawn> drawn, const std::function<bool(std::size_t draw)>& wanted = {});

 private:
  std::size_t count_;
  at::Device device_;
  at::Tensor found_;  // [draws, 2] float64 where the logits are: id and log-prob
  at::Tensor rows_;   // [draws, 2] float64 on the CPU: row, uniform
  at::Tensor here_;   // found_ on the CPU, when its copy has arrived
  std::optional<c10::Event> arrived_;
  std::vector<Drawn> drawn_;  // where no kernel of a GPU computes
};

/// The distribution that sample draws from: [n, V] float64, 0 where dropped, each row summing to 1. In plain LibTorch:
/// it defines the meaning, and serves where there is no kernel.
at::Tensor sampling_distribution(const at::Tensor& logits, const SampleOptions& options);

struct RowToken {
  std::int64_t row = 0;  ///< of the logits
  TokenId id = 0;
};

/// log softmax(logits[row])[id] of each pair, float32 arithmetic. On the CPU the same bits as a Drawn's log_prob.
/// Throws InputError as sample does, and for ids outside the vocabulary.
std::vector<double> token_log_probs(const at::Tensor& logits, std::span<const RowToken> tokens, double softcap = 0.0);

}  // namespace sao::ops

// SPDX-License-Identifier: Apache-2.0
#include "ops/log_prob_blocks.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "ops/kernels.h"
#include "ops/shares.h"

namespace sao::ops {
namespace {

// A row's sums over all blocks so far, in double: blocks are added in their order, whoever computed them.
struct RowSums {
  double peak = -std::numeric_limits<double>::infinity(), sum = 0.0, weighted = 0.0, squares = 0.0, total = 0.0;

  void add(const LogitSums& block) {
    const double highest = !(block.peak <= peak) ? static_cast<double>(block.peak) : peak;  // NaN stays
    // Of sums whose exponents are taken from `from` on, those from `highest` on.
    const auto shifted = [&](double from, double s, double w, double q) {
      const double down = from - highest, factor = std::exp(down);
      return std::array{s * factor, (w + s * down) * factor, q * factor * factor};
    };
    const auto before = peak == -std::numeric_limits<double>::infinity() ? std::array{0.0, 0.0, 0.0}
                                                                         : shifted(peak, sum, weighted, squares);
    const auto more = shifted(block.peak, block.sum, block.weighted, block.squares);
    peak = highest;
    sum = before[0] + more[0];
    weighted = before[1] + more[1];
    squares = before[2] + more[2];
    total += block.total;
  }
};

std::int64_t blocks_at_once() { return std::max<std::int64_t>(4, at::get_num_threads()); }  // one for each thread

std::int64_t rows_at_once(std::int64_t rows, std::int64_t block, std::int64_t most_logits) {
  return even_chunk(rows, std::max<std::int64_t>(1, most_logits / std::max<std::int64_t>(1, block)));
}

}  // namespace

void log_probs_by_blocks(const at::Tensor& hidden, std::int64_t vocabulary, const OutputRows& weight,
                         const at::Tensor& targets, double logit_softcap, const at::Tensor& log_prob,
                         const at::Tensor& log_sum_exp, const TokenStatistics* statistics) {
  const c10::NoGradGuard no_grad;
  const std::int64_t n = hidden.size(0), threads = at::get_num_threads(), at_once = blocks_at_once();
  const auto softcap = static_cast<float>(logit_softcap);
  const at::Tensor rows_of_all = hidden.detach();
  const std::int64_t* target = targets.const_data_ptr<std::int64_t>();
  std::vector<RowSums> of_rows(static_cast<std::size_t>(n));
  std::vector<float> of_targets(static_cast<std::size_t>(n));
  std::vector<LogitSums> of_blocks(static_cast<std::size_t>(n * at_once));
  // Rows are shared out where there are enough for all threads, else the group's blocks are.
  const bool by_rows = n >= threads * kMostRows;
  at::Tensor logits = at::empty({threads, std::min(n, kMostRows), kVocabularyBlock}, rows_of_all.options());

  for (std::int64_t first = 0; first < vocabulary; first += at_once * kVocabularyBlock) {
    const std::int64_t of_group = std::min(at_once * kVocabularyBlock, vocabulary - first);
    const std::int64_t blocks = (of_group + kVocabularyBlock - 1) / kVocabularyBlock;
    const PackedWeight group = weight(first, of_group);
    const auto tile = [&](std::int64_t begin, std::int64_t end, std::int64_t block, std::int64_t slot) {
      const std::int64_t column = block * kVocabularyBlock, width = std::min(kVocabularyBlock, of_group - column);
      const at::Tensor z = logits[slot].narrow(0, 0, end - begin).narrow(1, 0, width);
      group.narrow(column, width).multiply_into(z, rows_of_all.narrow(0, begin, end - begin));
      const float* values = z.const_data_ptr<float>();
      kernels().logit_sums(end - begin, width, values, kVocabularyBlock, softcap,
                           of_blocks.data() + begin * at_once + block, at_once);
      for (std::int64_t row = begin; row < end; ++row) {
        const std::int64_t here = target[row] - first - column;
        if (here >= 0 && here < width)
          of_targets[static_cast<std::size_t>(row)] = values[(row - begin) * kVocabularyBlock + here];
      }
    };
    if (by_rows) {
      for_each_share(n, kLeastRows, kMostRows, [&](std::int64_t begin, std::int64_t end, std::int64_t slot) {
        for (std::int64_t block = 0; block < blocks; ++block) tile(begin, end, block, slot);
      });
    } else {
      for_each_share(blocks, 1, 1, [&](std::int64_t block, std::int64_t, std::int64_t slot) {
        for (std::int64_t begin = 0; begin < n; begin += kMostRows) {
          tile(begin, std::min(n, begin + kMostRows), block, slot);
        }
      });
    }
    at::parallel_for(0, n, 256, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t row = begin; row < end; ++row) {
        for (std::int64_t block = 0; block < blocks; ++block) {
          of_rows[static_cast<std::size_t>(row)].add(of_blocks[static_cast<std::size_t>(row * at_once + block)]);
        }
      }
    });
  }

  if (softcap > 0.0f) kernels().softcap(n, of_targets.data(), softcap);
  float* out = log_prob.mutable_data_ptr<float>();
  float* sum_out = log_sum_exp.mutable_data_ptr<float>();
  for (std::int64_t row = 0; row < n; ++row) {
    const RowSums& sums = of_rows[static_cast<std::size_t>(row)];
    const float logit = of_targets[static_cast<std::size_t>(row)];
    const double log_sum = std::log(sums.sum), whole = sums.peak + log_sum;
    sum_out[row] = static_cast<float>(whole);
    out[row] = static_cast<float>(logit - whole);
    if (statistics == nullptr) continue;
    statistics->entropy.mutable_data_ptr<float>()[row] = static_cast<float>(log_sum - sums.weighted / sums.sum);
    statistics->log_sum_square.mutable_data_ptr<float>()[row] =
        static_cast<float>(std::log(sums.squares) - 2.0 * log_sum);
    statistics->mean_logit.mutable_data_ptr<float>()[row] =
        static_cast<float>(sums.total / static_cast<double>(vocabulary));
    statistics->is_top.mutable_data_ptr<bool>()[row] = static_cast<double>(logit) >= sums.peak;
  }
}

std::array<at::Tensor, 2> log_probs_backward_by_blocks(const at::Tensor& hidden, const at::Tensor& weight,
                                                       const at::Tensor& targets, double logit_softcap,
                                                       const at::Tensor& log_sum_exp, const at::Tensor& grad,
                                                       bool hidden_wanted, bool weight_wanted,
                                                       std::int64_t most_logits) {
  const c10::NoGradGuard no_grad;
  const std::int64_t n = hidden.size(0), vocabulary = weight.size(0);
  const auto softcap = static_cast<float>(logit_softcap);
  const at::Tensor rows_of_all = hidden.detach(), matrix = weight.detach();
  at::Tensor hidden_grad, weight_grad;
  if (hidden_wanted) hidden_grad = at::empty_like(rows_of_all, at::MemoryFormat::Contiguous);
  if (weight_wanted) weight_grad = at::empty_like(matrix, at::MemoryFormat::Contiguous);

  const std::int64_t block = std::min(kVocabularyBlock, vocabulary);
  const std::int64_t chunk = rows_at_once(n, block, most_logits);
  at::Tensor buffer = at::empty({chunk, block}, rows_of_all.options());
  float* logits = buffer.mutable_data_ptr<float>();
  for (std::int64_t start = 0; start < n; start += chunk) {
    const std::int64_t rows = std::min(chunk, n - start);
    const at::Tensor inputs = rows_of_all.narrow(0, start, rows);
    const at::Tensor turned = inputs.t();
    const PackedWeight packed_inputs = weight_wanted ? PackedWeight::pack({&turned, 1}) : PackedWeight();
    const std::int64_t* target = targets.const_data_ptr<std::int64_t>() + start;
    const float* sums = log_sum_exp.const_data_ptr<float>() + start;
    const float* slopes = grad.const_data_ptr<float>() + start;
    for (std::int64_t first = 0; first < vocabulary; first += block) {
      const std::int64_t width = std::min(block, vocabulary - first);
      const at::Tensor outputs = matrix.narrow(0, first, width), outputs_turned = outputs.t();
      const PackedWeight packed = PackedWeight::pack({&outputs, 1});
      const PackedWeight packed_turned = hidden_wanted ? PackedWeight::pack({&outputs_turned, 1}) : PackedWeight();
      const at::Tensor d = buffer.narrow(0, 0, rows).narrow(1, 0, width);
      for_each_share(rows, kLeastRows, kMostRows, [&](std::int64_t begin, std::int64_t end, std::int64_t) {
        const at::Tensor tile = d.narrow(0, begin, end - begin);
        packed.multiply_into(tile, inputs.narrow(0, begin, end - begin));
        kernels().log_probs_backward(end - begin, width, first, logits + begin * block, block, softcap, target + begin,
                                     sums + begin, slopes + begin);
        if (!hidden_wanted) return;
        packed_turned.multiply_into(hidden_grad.narrow(0, start + begin, end - begin), tile, first > 0);
      });
      if (weight_wanted) packed_inputs.multiply_into(weight_grad.narrow(0, first, width), d.t(), start > 0);
    }
  }
  if (weight_wanted && n == 0) weight_grad.zero_();
  return {hidden_grad, weight_grad};
}

std::int64_t log_prob_blocks_bytes(std::int64_t rows, std::int64_t vocabulary, std::int64_t hidden,
                                   std::int64_t most_logits, bool differentiable) {
  constexpr std::int64_t kFloat = sizeof(float);
  const std::int64_t block = std::min(kVocabularyBlock, vocabulary);
  if (differentiable) {
    return (rows_at_once(rows, block, most_logits) * (block + hidden) + 2 * block * hidden) * kFloat;
  }
  constexpr std::int64_t kOfRow = sizeof(RowSums) + sizeof(float), kOfBlock = sizeof(LogitSums);
  return rows * (kOfRow + blocks_at_once() * kOfBlock) +
         at::get_num_threads() * std::min(rows, kMostRows) * kVocabularyBlock * kFloat +
         std::min(vocabulary, blocks_at_once() * kVocabularyBlock) * hidden * kFloat;
}

}  // namespace sao::ops

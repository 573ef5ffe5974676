// SPDX-License-Identifier: Apache-2.0
#include "train/batches.h"

#include <algorithm>
#include <numeric>

namespace sao::detail {
namespace {

// Of a row in a forward pass, where the prompt of its responses stands once.
std::int64_t computed_tokens(const std::vector<Scored>& sequences) {
  std::size_t tokens = sequences.front().tokens.prompt.size();
  for (const Scored& sequence : sequences) tokens += sequence.tokens.response.size();
  return static_cast<std::int64_t>(tokens);
}

}  // namespace

std::int64_t Batches::steps_per_epoch() const { return (count() + options_.batch_size - 1) / options_.batch_size; }

std::int64_t Batches::rows_before(std::int64_t step) const {
  return step / steps_per_epoch() * count() + step % steps_per_epoch() * options_.batch_size;
}

std::vector<std::size_t> Batches::batch_of(std::int64_t step) {
  const std::int64_t epoch = step / steps_per_epoch();
  if (epoch != ordered_epoch_) {
    if (options_.shuffle) {
      order_ = permutation(options_.seed.fork("order").fork(static_cast<std::uint64_t>(epoch)), objective_.size());
    } else {
      order_.resize(objective_.size());
      std::iota(order_.begin(), order_.end(), std::size_t{0});
    }
    ordered_epoch_ = epoch;
  }
  const std::int64_t begin = (step % steps_per_epoch()) * options_.batch_size;
  const std::int64_t end = std::min(begin + options_.batch_size, count());
  return {order_.begin() + begin, order_.begin() + end};
}

std::vector<Scored> Batches::mismatched(std::span<const std::size_t> batch) const {
  std::vector<Scored> sequences;
  for (std::size_t k = 0; k < batch.size(); ++k) {
    const std::size_t before = batch.size() > 1 ? batch[(k + batch.size() - 1) % batch.size()] : order_.front();
    const auto sequence = objective_.mismatched(batch[k], before);
    if (!sequence) return {};
    sequences.push_back({*sequence, static_cast<std::int64_t>(sequence->response.size())});
  }
  return sequences;
}

std::vector<std::span<const std::size_t>> Batches::micro_batches(std::span<const std::size_t> batch) const {
  std::vector<std::span<const std::size_t>> parts;
  std::size_t begin = 0;
  while (begin < batch.size()) {
    std::size_t end = begin;
    std::int64_t tokens = 0;
    while (end < batch.size()) {
      tokens += computed_tokens(objective_.scored(batch[end]));
      const auto taken = static_cast<std::int64_t>(end - begin);
      if (taken > 0 && tokens > options_.micro_batch_tokens) break;
      if (options_.micro_batch_pairs > 0 && taken >= options_.micro_batch_pairs) break;
      ++end;
    }
    parts.push_back(batch.subspan(begin, end - begin));
    begin = end;
  }
  return parts;
}

}  // namespace sao::detail

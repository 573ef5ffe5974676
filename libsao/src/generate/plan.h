// SPDX-License-Identifier: Apache-2.0
// One step of the engine, as values: what is computed, and what is done with the logits.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "sao/model/kv_cache.h"

namespace sao::detail {

/// A token to draw: number `position` of sample `sample` of request `request`, from row `row` of the step's logits.
struct PlannedDraw {
  std::int64_t row = 0;
  std::size_t request = 0;
  std::int64_t sample = 0;
  std::int64_t position = 0;
  bool dropped = false;  ///< the sample has ended since this was planned: its token is not wanted
};

/// The distribution of what follows token `position` of a request's prompt: row `row` of the step's logits.
struct PlannedRead {
  std::int64_t row = 0;
  std::size_t request = 0;
  std::int64_t position = 0;
};

struct Plan {
  std::vector<KvCache::SequenceId> sequences = {};
  std::vector<std::int64_t> counts = {};  ///< new tokens of each sequence
  std::vector<std::int64_t> ids = {};     ///< the new tokens, by sequence; 0 where the step before draws them
  std::vector<std::int64_t> drawn = {};   ///< of each of ids: the draw of the step before that gives it; -1: known
  std::vector<std::int64_t> rows = {};    ///< new tokens whose logits are wanted, ascending
  std::vector<PlannedDraw> draws = {};    ///< by row
  std::vector<PlannedRead> reads = {};    ///< by row
  std::int64_t prompt_tokens = 0;         ///< of ids, those of prompts

  /// Keeps the memory.
  void clear() {
    sequences.clear();
    counts.clear();
    ids.clear();
    drawn.clear();
    rows.clear();
    draws.clear();
    reads.clear();
    prompt_tokens = 0;
  }
};

}  // namespace sao::detail

// SPDX-License-Identifier: Apache-2.0
#include "text/unigram_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "sao/base/error.h"
#include "text/unicode.h"

namespace sao::detail {
namespace {

constexpr double kUnknownPenalty = 10.0;  // below the worst piece

}  // namespace

UnigramModel::UnigramModel(const JsonNode& model) : where_(model.where()) {
  const JsonNode vocab = model.at("vocab", "a list of token and score");
  tokens_.resize(vocab.array_size());
  scores_.resize(vocab.array_size());
  double worst = std::numeric_limits<double>::infinity();
  for (std::size_t i = 0; i < scores_.size(); ++i) {
    const JsonNode entry = vocab[i];
    if (entry.array_size() != 2 || !entry.value()[1].is_number()) entry.fail("a token and its score");
    const std::string& token = entry[0].string();
    scores_[i] = entry.value()[1].get<double>();
    worst = std::min(worst, scores_[i]);
    if (token.empty()) continue;
    if (tokens_.find(token) >= 0) entry.fail("a token that is not listed before");
    tokens_.set(static_cast<TokenId>(i), token);
    pieces_.insert(token, static_cast<TokenId>(i));
  }
  unknown_score_ = worst - kUnknownPenalty;
  if (const auto unk = model.find("unk_id")) {
    if (unk->integer() < 0 || unk->integer() >= static_cast<std::int64_t>(scores_.size()))
      unk->fail("an id of the vocabulary");
    unk_ = static_cast<TokenId>(unk->integer());
  }
  byte_fallback_ = model.boolean_or("byte_fallback", false);
  for (std::size_t b = 0; b < byte_ids_.size(); ++b) byte_ids_[b] = tokens_.find(fmt::format("<0x{:02X}>", b));
}

void UnigramModel::encode(std::string_view word, TokenIds& ids) const {
  struct Best {
    double score = 0.0;
    std::size_t begin = SIZE_MAX;  // of the last piece; SIZE_MAX: not reached
    TokenId id = -1;
  };
  std::vector<Best> best(word.size() + 1);  // of the pieces up to a position
  for (std::size_t i = 0; i < word.size();) {
    const std::size_t character = read_character(word.substr(i)).length;
    const double score = best[i].score;
    bool covered = false;
    const auto offer = [&](std::size_t end, double piece_score, TokenId id) {
      Best& target = best[end];
      if (target.begin == SIZE_MAX || score + piece_score > target.score) target = {score + piece_score, i, id};
    };
    pieces_.for_each_prefix(word.substr(i), [&](std::size_t length, TokenId id) {
      offer(i + length, scores_[static_cast<std::size_t>(id)], id);
      covered = covered || length == character;
    });
    if (!covered) {
      if (!unk_) throw InputError(fmt::format("{}: no piece for a character of the text, expected an unk_id", where_));
      offer(i + character, unknown_score_, *unk_);
    }
    i += character;
  }
  // Backwards; unknown pieces that follow each other are one.
  std::vector<std::string_view> pieces;
  bool previous_unknown = false;
  for (std::size_t end = word.size(); end > 0;) {
    const Best& last = best[end];
    const bool unknown = unk_ && last.id == *unk_;
    const std::string_view piece = word.substr(last.begin, end - last.begin);
    if (unknown && previous_unknown) {
      pieces.back() = word.substr(last.begin, piece.size() + pieces.back().size());
    } else {
      pieces.push_back(piece);
    }
    previous_unknown = unknown;
    end = last.begin;
  }
  for (auto piece = pieces.rbegin(); piece != pieces.rend(); ++piece) append_piece(*piece, ids);
}

void UnigramModel::append_piece(std::string_view piece, TokenIds& ids) const {
  if (const TokenId id = tokens_.find(piece); id >= 0) {
    ids.push_back(id);
    return;
  }
  const auto byte_id = [&](char c) { return byte_ids_[static_cast<unsigned char>(c)]; };
  if (byte_fallback_ && std::ranges::all_of(piece, [&](char c) { return byte_id(c) >= 0; })) {
    for (const char c : piece) ids.push_back(byte_id(c));
  } else {
    ids.push_back(*unk_);
  }
}

}  // namespace sao::detail

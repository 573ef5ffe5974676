// SPDX-License-Identifier: Apache-2.0
// The fields of a SentencePiece model file (a protocol buffer, sentencepiece_model.proto) that the library's
// public header does not give.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace sao::detail {

enum class PieceType { kNormal = 1, kUnknown = 2, kControl = 3, kUserDefined = 4, kUnused = 5, kByte = 6 };

struct SentencePieceModel {
  struct Piece {
    std::string text = {};
    PieceType type = PieceType::kNormal;
  };
  std::vector<Piece> pieces = {};
  int model_type = 1;  ///< 1 unigram, 2 BPE, 3 word, 4 character
  bool add_dummy_prefix = true;
  bool remove_extra_whitespaces = true;
};

/// Throws InputError, beginning with `file`, where the bytes are not such a model.
SentencePieceModel parse_sentencepiece_model(std::string_view bytes, const std::string& file);

}  // namespace sao::detail

// SPDX-License-Identifier: Apache-2.0
// The printable characters that stand for bytes in byte-level vocabularies (GPT-2's bytes_to_unicode).
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace sao::detail {

/// The bytes that `token` stands for; nothing when a character is not of the alphabet.
std::optional<std::string> bytes_of_token(std::string_view token);

/// The characters that stand for `bytes`.
std::string token_of_bytes(std::string_view bytes);

}  // namespace sao::detail

// SPDX-License-Identifier: Apache-2.0
#include "text/byte_alphabet.h"

#include <array>
#include <cstdint>

#include "base/utf8.h"

namespace sao::detail {
namespace {

// Printable bytes of Latin-1 stand for themselves, the others for U+0100 onwards in order.
constexpr std::array<std::int16_t, 0x144> make_byte_of() {
  std::array<std::int16_t, 0x144> byte_of = {};
  byte_of.fill(-1);
  std::size_t next = 0x100;
  for (int b = 0; b < 256; ++b) {
    const bool printable = (b >= '!' && b <= '~') || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
    byte_of[printable ? static_cast<std::size_t>(b) : next++] = static_cast<std::int16_t>(b);
  }
  return byte_of;
}
constexpr auto kByteOf = make_byte_of();

constexpr std::array<char32_t, 256> make_character_of() {
  std::array<char32_t, 256> character_of = {};
  for (std::size_t c = 0; c < kByteOf.size(); ++c)
    if (kByteOf[c] >= 0) character_of[static_cast<std::size_t>(kByteOf[c])] = static_cast<char32_t>(c);
  return character_of;
}
constexpr auto kCharacterOf = make_character_of();

}  // namespace

std::optional<std::string> bytes_of_token(std::string_view token) {
  std::string bytes;
  while (!token.empty()) {
    const std::size_t length = character_length(token);
    const char32_t c = code_point(token);
    if (length == 0 || c >= kByteOf.size() || kByteOf[c] < 0) return std::nullopt;
    bytes += static_cast<char>(kByteOf[c]);
    token.remove_prefix(length);
  }
  return bytes;
}

std::string token_of_bytes(std::string_view bytes) {
  std::string token;
  for (const char byte : bytes) append_utf8(kCharacterOf[static_cast<unsigned char>(byte)], token);
  return token;
}

}  // namespace sao::detail

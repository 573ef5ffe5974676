// SPDX-License-Identifier: Apache-2.0
// The exceptions that cross libsao's API. Catch sao::Error to catch them all:
//   try { ... } catch (const sao::Error& e) { std::fprintf(stderr, "%s\n", e.what()); }
#pragma once

#include <stdexcept>
#include <string>

namespace sao {

/// Base of everything libsao throws on purpose.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// The caller's input is wrong: a file, a field, an option. Message grammar:
/// `<where>: <what was found>, expected <what>[; <what to do>]`.
class InputError : public Error {
 public:
  using Error::Error;
};

/// Something outside the input ran out or is not there: disk, memory, a device, a feature not built.
class ResourceError : public Error {
 public:
  using Error::Error;
};

/// A bug in libsao. Must be unreachable from input.
class InternalError : public Error {
 public:
  using Error::Error;
};

namespace detail {
[[noreturn]] void throw_internal_error(const char* file, int line, const char* condition);
}  // namespace detail

}  // namespace sao

/// Checks an invariant of libsao's own; stays on in release builds. Never for input.
#define SAO_CHECK(condition)                                               \
  do {                                                                     \
    if (!(condition)) [[unlikely]]                                         \
      ::sao::detail::throw_internal_error(__FILE__, __LINE__, #condition); \
  } while (false)

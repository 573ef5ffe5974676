// SPDX-License-Identifier: Apache-2.0
// Options are plain aggregates with defaults. Each has ONE function that lists its fields:
//
//   struct JudgeOptions { bool both_orders = true; double tie_margin = 0.0; };
//   template <class Visitor, OptionsOf<JudgeOptions> Options>
//   void visit_fields(Visitor&& visit, Options& options) {
//     visit("both_orders", options.both_orders, "judge each pair in both orders");
//     visit("tie_margin", options.tie_margin, "|p - 1/2| up to which a verdict is a tie");
//   }
//
// From it come the JSON form, the command-line flags, the run record and equality.
// Field types: bool, std::int64_t, double, std::string, Seed, or another options struct.
#pragma once

#include <concepts>
#include <string>
#include <type_traits>

namespace sao {

/// Matches `Struct` and `const Struct`, so that one visit_fields serves reading and writing.
template <class T, class Struct>
concept OptionsOf = std::same_as<std::remove_const_t<T>, Struct>;

namespace detail {
struct AnyFieldVisitor {
  template <class Field>
  void operator()(const char*, Field&&, const char*) const {}
};
}  // namespace detail

/// True for structs that have visit_fields.
template <class T>
concept HasFields = requires(T& options) {
  visit_fields(detail::AnyFieldVisitor{}, options);
};

/// Calls visit(path, field, help) for every field that is no struct itself, nested ones with dots: "sampling.top_p".
template <class Visitor, HasFields Options>
void visit_leaves(Visitor&& visit, Options& options, const std::string& prefix = {}) {
  visit_fields(
      [&](const char* name, auto& field, const char* help) {
        if constexpr (HasFields<std::remove_cvref_t<decltype(field)>>) {
          visit_leaves(visit, field, prefix + name + ".");
        } else {
          visit(prefix + name, field, help);
        }
      },
      options);
}

}  // namespace sao

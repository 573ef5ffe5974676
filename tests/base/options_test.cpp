// SPDX-License-Identifier: Apache-2.0
#include "sao/base/options.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace sao {

struct ColourOptions {
  std::string name = "red";
  double share = 0.5;
};

template <class Visitor, OptionsOf<ColourOptions> Options>
void visit_fields(Visitor&& visit, Options& options) {
  visit("name", options.name, "which colour");
  visit("share", options.share, "how much of it");
}

struct PaintOptions {
  bool shiny = false;
  ColourOptions colour = {};
};

template <class Visitor, OptionsOf<PaintOptions> Options>
void visit_fields(Visitor&& visit, Options& options) {
  visit("shiny", options.shiny, "whether it shines");
  visit("colour", options.colour, "its colour");
}

namespace {

TEST(Options, LeavesHaveTheirPaths) {
  PaintOptions options;
  std::vector<std::string> paths;
  visit_leaves(
      [&](const std::string& path, auto& field, const char* help) {
        paths.push_back(path + ": " + help);
        if constexpr (std::is_same_v<std::remove_cvref_t<decltype(field)>, double>) field = 0.75;
      },
      options);
  EXPECT_EQ(paths, (std::vector<std::string>{"shiny: whether it shines", "colour.name: which colour",
                                             "colour.share: how much of it"}));
  EXPECT_EQ(options.colour.share, 0.75);
  const PaintOptions constant;
  int leaves = 0;
  visit_leaves([&](const std::string&, const auto&, const char*) { ++leaves; }, constant);
  EXPECT_EQ(leaves, 3);
}

TEST(Options, OneFunctionReadsAndWrites) {
  ColourOptions options;
  std::vector<std::string> names;
  visit_fields(
      [&](const char* name, auto& field, const char*) {
        names.emplace_back(name);
        if constexpr (std::is_same_v<std::remove_cvref_t<decltype(field)>, double>) field = 0.25;
      },
      options);
  EXPECT_EQ(names, (std::vector<std::string>{"name", "share"}));
  EXPECT_EQ(options.share, 0.25);

  const ColourOptions constant;
  visit_fields([](const char*, auto& field,
                  const char*) { static_assert(std::is_const_v<std::remove_reference_t<decltype(field)>>); },
               constant);
}

TEST(Options, HasFieldsTellsOptionsFromPlainValues) {
  static_assert(HasFields<ColourOptions>);
  static_assert(!HasFields<double>);
  static_assert(!HasFields<std::string>);
}

}  // namespace
}  // namespace sao

// SPDX-License-Identifier: Apache-2.0
// Pieces of a page.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace sao::detail {

/// `text` with the five characters that mean something in HTML written as entities.
std::string escape_html(std::string_view text);

/// A table with a head; cells are HTML already. `class_name` may be empty.
std::string html_table(const std::vector<std::string>& head, const std::vector<std::vector<std::string>>& rows,
                       std::string_view class_name = {});

struct Series {
  std::string name = {};
  std::vector<double> values = {};  ///< NaN is a gap
  std::vector<double> low = {};     ///< error bars, where there are any
  std::vector<double> high = {};
};

struct ChartOptions {
  std::string title = {};
  std::string x_name = {};
  double first_x = 1;      ///< of the first value; the next is one more
  bool has_guide = false;  ///< a horizontal line at `guide`
  double guide = 0;
};

/// Lines over 1, 2, ... as SVG.
std::string line_chart(const std::vector<Series>& series, const ChartOptions& options);

}  // namespace sao::detail

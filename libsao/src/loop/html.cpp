// SPDX-License-Identifier: Apache-2.0
#include "loop/html.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

namespace sao::detail {
namespace {

constexpr std::array<std::string_view, 4> kColours = {"#0b6e99", "#c4572b", "#3d7d3f", "#7a4fa3"};
constexpr double kWidth = 430, kHeight = 220, kLeft = 52, kRight = 12, kTop = 28, kBottom = 34;

/// A step of 1, 2 or 5 times a power of ten that divides `span` into about four parts.
double nice_step(double span) {
  const double raw = span / 4.0;
  const double power = std::pow(10.0, std::floor(std::log10(raw)));
  for (const double factor : {1.0, 2.0, 5.0}) {
    if (raw <= factor * power) return factor * power;
  }
  return 10.0 * power;
}

}  // namespace

std::string escape_html(std::string_view text) {
  std::string escaped;
  for (const char c : text) {
    switch (c) {
      case '&':
        escaped += "&amp;";
        break;
      case '<':
        escaped += "&lt;";
        break;
      case '>':
        escaped += "&gt;";
        break;
      case '"':
        escaped += "&quot;";
        break;
      case '\'':
        escaped += "&#39;";
        break;
      default:
        escaped += c;
    }
  }
  return escaped;
}

std::string html_table(const std::vector<std::string>& head, const std::vector<std::vector<std::string>>& rows,
                       std::string_view class_name) {
  std::string html = class_name.empty() ? "<table>\n" : fmt::format("<table class=\"{}\">\n", class_name);
  if (!head.empty()) {
    html += "<thead><tr>";
    for (const std::string& cell : head) html += fmt::format("<th>{}</th>", cell);
    html += "</tr></thead>\n";
  }
  html += "<tbody>\n";
  for (const auto& row : rows) {
    html += "<tr>";
    for (const std::string& cell : row) html += fmt::format("<td>{}</td>", cell);
    html += "</tr>\n";
  }
  return html + "</tbody></table>\n";
}

std::string line_chart(const std::vector<Series>& series, const ChartOptions& options) {
  double low = std::numeric_limits<double>::infinity();
  double high = -low;
  std::size_t count = 0;
  const auto include = [&](double value) {
    if (!std::isfinite(value)) return;
    low = std::min(low, value);
    high = std::max(high, value);
  };
  for (const Series& line : series) {
    count = std::max(count, line.values.size());
    for (const auto* values : {&line.values, &line.low, &line.high}) {
      for (const double value : *values) include(value);
    }
  }
  if (options.has_guide) include(options.guide);
  if (count == 0 || !(low <= high)) return {};
  if (high - low < 1e-12 * std::max(1.0, std::abs(high))) {
    const double pad = high == 0.0 ? 1.0 : 0.1 * std::abs(high);
    low -= pad;
    high += pad;
  }
  const double step = nice_step(high - low);
  low = std::floor(low / step) * step;
  high = std::ceil(high / step) * step;

  const double plot_width = kWidth - kLeft - kRight;
  const double plot_height = kHeight - kTop - kBottom;
  const auto x = [&](std::size_t i) {
    return kLeft + (count == 1 ? 0.5 : static_cast<double>(i) / static_cast<double>(count - 1)) * plot_width;
  };
  const auto y = [&](double value) { return kTop + (high - value) / (high - low) * plot_height; };

  std::string svg = fmt::format("<svg viewBox=\"0 0 {} {}\" role=\"img\" aria-label=\"{}\">\n", kWidth, kHeight,
                                escape_html(options.title));
  svg += fmt::format("<text x=\"{}\" y=\"14\" class=\"title\">{}</text>\n", kLeft, escape_html(options.title));
  const auto ticks = static_cast<int>(std::lround((high - low) / step));
  for (int tick = 0; tick <= ticks; ++tick) {
    const double value = low + tick * step;
    svg += fmt::format("<line x1=\"{:.1f}\" x2=\"{:.1f}\" y1=\"{:.1f}\" y2=\"{:.1f}\" class=\"grid\"/>", kLeft,
                       kWidth - kRight, y(value), y(value));
    svg += fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" class=\"tick end\">{:g}</text>\n", kLeft - 6, y(value) + 4,
                       std::abs(value) < step * 1e-6 ? 0.0 : value);
  }
  if (options.has_guide) {
    svg += fmt::format("<line x1=\"{:.1f}\" x2=\"{:.1f}\" y1=\"{:.1f}\" y2=\"{:.1f}\" class=\"guide\"/>\n", kLeft,
                       kWidth - kRight, y(options.guide), y(options.guide));
  }
  const std::size_t label_step = std::max<std::size_t>(1, (count + 7) / 8);
  for (std::size_t i = 0; i < count; i += label_step) {
    svg += fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" class=\"tick middle\">{:g}</text>", x(i),
                       kHeight - kBottom + 14, options.first_x + static_cast<double>(i));
  }
  svg += fmt::format("\n<text x=\"{:.1f}\" y=\"{:.1f}\" class=\"tick end\">{}</text>\n", kWidth - kRight, kHeight - 4,
                     escape_html(options.x_name));

  double legend = kLeft;
  for (std::size_t s = 0; s < series.size(); ++s) {
    const Series& line = series[s];
    const std::string_view colour = kColours[s % kColours.size()];
    std::string points;
    const auto flush = [&] {
      if (!points.empty()) svg += fmt::format("<polyline points=\"{}\" stroke=\"{}\"/>\n", points, colour);
      points.clear();
    };
    for (std::size_t i = 0; i < line.values.size(); ++i) {
      if (!std::isfinite(line.values[i])) {
        flush();
        continue;
      }
      points += fmt::format("{:.1f},{:.1f} ", x(i), y(line.values[i]));
      constexpr std::size_t kFewPoints = 40;
      if (count <= kFewPoints) {
        svg +=
            fmt::format("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"2.6\" fill=\"{}\"/>", x(i), y(line.values[i]), colour);
      }
      if (i < line.low.size() && i < line.high.size() && std::isfinite(line.low[i]) && std::isfinite(line.high[i])) {
        svg += fmt::format("<line x1=\"{0:.1f}\" x2=\"{0:.1f}\" y1=\"{1:.1f}\" y2=\"{2:.1f}\" stroke=\"{3}\"/>", x(i),
                           y(line.low[i]), y(line.high[i]), colour);
      }
    }
    flush();
    svg += fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" class=\"tick\" fill=\"{}\">{}</text>\n", legend, kHeight - 4,
                       colour, escape_html(line.name));
    legend += 7.0 * static_cast<double>(line.name.size()) + 16.0;
  }
  return svg + "</svg>\n";
}

}  // namespace sao::detail

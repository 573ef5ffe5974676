// SPDX-License-Identifier: Apache-2.0
// Messages to people. libsao is silent unless the caller passes a sink.
#pragma once

#include <functional>
#include <string_view>

namespace sao {

enum class LogLevel { kInfo, kWarning };

/// Where messages go; empty = nowhere. Called from the caller's thread only.
using LogSink = std::function<void(LogLevel, std::string_view)>;

/// Progress of a long step: what, done so far, in total (0 = unknown). Empty = nobody asks.
using ProgressSink = std::function<void(std::string_view what, std::size_t done, std::size_t total)>;

}  // namespace sao

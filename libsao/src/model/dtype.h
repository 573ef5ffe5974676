// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <c10/core/ScalarType.h>

#include "sao/base/device.h"

namespace sao::detail {

at::ScalarType scalar_type(DType dtype);

}  // namespace sao::detail

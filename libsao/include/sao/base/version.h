// SPDX-License-Identifier: Apache-2.0
#pragma once

#define SAO_VERSION_MAJOR 0
#define SAO_VERSION_MINOR 1
#define SAO_VERSION_PATCH 0
#define SAO_VERSION "0.1.0"

# SPDX-License-Identifier: Apache-2.0
# Everything that libsao builds on, found in one place.
find_package(SaoTorch 2.7 REQUIRED)
include(ReaderDependencies)
if(SAO_BUILD_TESTS)
  find_package(GTest REQUIRED)
endif()
if(SAO_BUILD_EXAMPLES)
  find_package(CLI11 2 REQUIRED)
endif()
if(SAO_BUILD_BENCHMARKS)
  find_package(benchmark REQUIRED)
endif()

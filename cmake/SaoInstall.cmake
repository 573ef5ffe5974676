# SPDX-License-Identifier: Apache-2.0
# Install rules and the package `sao`: find_package(sao COMPONENTS judge train) gives sao::judge, sao::train, sao::sao.
include(CMakePackageConfigHelpers)

set(_package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/sao)
set(_targets sao)
foreach(room ${SAO_ROOMS})
  list(APPEND _targets sao_${room})
endforeach()
install(TARGETS ${_targets} EXPORT saoTargets ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR} LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(DIRECTORY ${PROJECT_SOURCE_DIR}/libsao/include/ DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(DIRECTORY ${PROJECT_SOURCE_DIR}/libsao/share/ DESTINATION ${CMAKE_INSTALL_DATADIR}/sao)
install(EXPORT saoTargets NAMESPACE sao:: DESTINATION ${_package_dir})

configure_package_config_file(cmake/saoConfig.cmake.in ${CMAKE_BINARY_DIR}/saoConfig.cmake INSTALL_DESTINATION ${_package_dir})
write_basic_package_version_file(${CMAKE_BINARY_DIR}/saoConfigVersion.cmake VERSION ${PROJECT_VERSION} COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_BINARY_DIR}/saoConfig.cmake ${CMAKE_BINARY_DIR}/saoConfigVersion.cmake cmake/FindSaoTorch.cmake
        DESTINATION ${_package_dir})

# SPDX-License-Identifier: Apache-2.0
# FindSaoTorch.cmake and ./dev on trees that only look like LibTorch.
# usage: cmake -D SOURCE_DIR=... -D WORK_DIR=... -D CXX=... -P find_torch.cmake
file(REMOVE_RECURSE ${WORK_DIR})

# torch(NAME VERSION ABI): WORK_DIR/NAME/torch
function(torch name version abi)
  set(tree ${WORK_DIR}/${name}/torch)
  file(WRITE ${tree}/__init__.py "")
  file(WRITE ${tree}/version.py "__version__ = '${version}+cpu'\n")
  file(WRITE ${tree}/include/ATen/ATen.h "")
  file(WRITE ${tree}/lib/libc10.so "")
  file(WRITE ${tree}/lib/libtorch_cpu.so "")
  file(WRITE ${tree}/share/cmake/Torch/TorchConfig.cmake "set(TORCH_CXX_FLAGS \"-D_GLIBCXX_USE_CXX11_ABI=${abi}\")\n")
endfunction()
torch(good 2.9.0 1)
torch(other 2.8.1 1)
torch(old 2.5.1 1)
torch(abi 2.9.0 0)
torch(bare 2.9.0 1)
file(REMOVE_RECURSE ${WORK_DIR}/bare/torch/include)

file(WRITE ${WORK_DIR}/project/CMakeLists.txt "cmake_minimum_required(VERSION 3.23)
project(finds LANGUAGES CXX)
list(APPEND CMAKE_MODULE_PATH ${SOURCE_DIR}/cmake)
find_package(SaoTorch 2.7 REQUIRED)
message(STATUS \"found \${SaoTorch_VERSION} \${SaoTorch_INCLUDE_DIR} \${SaoTorch_torch_cpu_LIBRARY}\")\n")

# One build folder throughout, as a user has it. `expected` is a regular expression of what is said.
function(configure name good expected)
  execute_process(COMMAND ${CMAKE_COMMAND} -G Ninja -S ${WORK_DIR}/project -B ${WORK_DIR}/build -D SAO_TORCH_DIR=${WORK_DIR}/${name}/torch
                          -D CMAKE_CXX_COMPILER=${CXX} RESULT_VARIABLE status OUTPUT_VARIABLE output ERROR_VARIABLE output)
  string(REGEX REPLACE "[ \n]+" " " output "${output}")  # CMake breaks its lines
  if((good AND NOT status EQUAL 0) OR (NOT good AND status EQUAL 0) OR NOT output MATCHES "${expected}")
    message(FATAL_ERROR "${name}: status ${status}, expected ${expected} in\n${output}")
  endif()
endfunction()
configure(good TRUE "found 2.9.0 ${WORK_DIR}/good/torch/include ${WORK_DIR}/good/torch/lib/libtorch_cpu.so")
configure(other TRUE "found 2.8.1 ${WORK_DIR}/other/torch/include ${WORK_DIR}/other/torch/lib/libtorch_cpu.so")
configure(old FALSE "unsuitable version \"2.5.1\", but required is at least \"2.7\"")
configure(abi FALSE "C\\+\\+ ABI of before GCC 5")
configure(bare FALSE "no LibTorch found")
configure(good TRUE "found 2.9.0 ${WORK_DIR}/good/torch/include ")

# What ./dev takes of python3's torch: the tree itself where it serves, else nothing and a reason.
function(dev name folder reason)
  execute_process(
    COMMAND ${CMAKE_COMMAND} -E env PYTHONPATH=${WORK_DIR}/${name} bash -c ". \"$0\" >/dev/null; python_torch" ${SOURCE_DIR}/dev
    OUTPUT_VARIABLE output ERROR_VARIABLE errors OUTPUT_STRIP_TRAILING_WHITESPACE)
  if(NOT output STREQUAL folder OR NOT errors MATCHES "${reason}")
    message(FATAL_ERROR "./dev, ${name}: \"${output}\" and \"${errors}\", expected \"${folder}\" and \"${reason}\"")
  endif()
endfunction()
dev(good ${WORK_DIR}/good/torch "^$")
dev(old "" "not used: 2.5.1 in ${WORK_DIR}/old/torch, expected 2.7 or newer")
dev(abi "" "not used: .* ABI of before GCC 5")
dev(bare "" "not used: no headers")
file(REMOVE_RECURSE ${WORK_DIR})

# SPDX-License-Identifier: Apache-2.0
# Installs libsao to a fresh prefix, then configures, builds and runs examples/consumer against it as a stranger would.
# usage: cmake -D BINARY_DIR=... -D SOURCE_DIR=... -D WORK_DIR=... -D CXX=... -P run.cmake
function(run)
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE result OUTPUT_VARIABLE output ERROR_VARIABLE output)
  if(NOT result EQUAL 0)
    list(JOIN ARGN " " command)
    message(FATAL_ERROR "failed: ${command}\n${output}")
  endif()
  message("${output}")
endfunction()

file(REMOVE_RECURSE ${WORK_DIR})
run(${CMAKE_COMMAND} --install ${BINARY_DIR} --prefix ${WORK_DIR}/prefix)
foreach(unwanted microworld_oracle microworld_world)  # the bundled world is no part of the library
  file(GLOB_RECURSE found ${WORK_DIR}/prefix/*${unwanted}*)
  if(found)
    message(FATAL_ERROR "installed, but should not be: ${found}")
  endif()
endforeach()
set(configure ${CMAKE_COMMAND} -G Ninja -S ${SOURCE_DIR}/examples/consumer -D CMAKE_PREFIX_PATH=${WORK_DIR}/prefix
              -D CMAKE_CXX_COMPILER=${CXX} -D CMAKE_BUILD_TYPE=Release)

# A LibTorch of another version is refused in one sentence.
set(other ${WORK_DIR}/other/torch)
file(WRITE ${other}/version.py "__version__ = '9.0.0'\n")
foreach(file include/ATen/ATen.h lib/libc10.so lib/libtorch_cpu.so)
  file(WRITE ${other}/${file} "")
endforeach()
execute_process(COMMAND ${configure} -B ${WORK_DIR}/refused -D SAO_TORCH_DIR=${other} RESULT_VARIABLE result OUTPUT_VARIABLE output
                ERROR_VARIABLE output)
string(REGEX REPLACE "[ \n]+" " " output "${output}")
if(result EQUAL 0 OR NOT output MATCHES "libsao is built with LibTorch [0-9.]+, but LibTorch 9.0.0 in ${other} is found")
  message(FATAL_ERROR "not refused: LibTorch 9.0.0\n${output}")
endif()

run(${configure} -B ${WORK_DIR}/build)
run(${CMAKE_COMMAND} --build ${WORK_DIR}/build)
run(${WORK_DIR}/build/consumer)
file(REMOVE_RECURSE ${WORK_DIR})

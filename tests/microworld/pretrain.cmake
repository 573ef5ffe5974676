# SPDX-License-Identifier: Apache-2.0
# Makes a small model as the bundled one was made, twice: it must learn, and both runs must give the same bytes.
# usage: cmake -D MICROWORLD=<program> -D WORK_DIR=<folder> -P pretrain.cmake
file(REMOVE_RECURSE ${WORK_DIR})
file(MAKE_DIRECTORY ${WORK_DIR})
foreach(run a b)
  execute_process(COMMAND ${MICROWORLD} pretrain ${WORK_DIR}/${run} --steps 100 --hidden-size 64 --layers 2 --heads 2 --kv-heads 1
                          --intermediate-size 128 --vocab-size 700 --tokenizer-documents 2000 --tokens-a-step 1024
                  RESULT_VARIABLE result ERROR_VARIABLE output)
  if(NOT result EQUAL 0)
    message(FATAL_ERROR "microworld pretrain failed:\n${output}")
  endif()
endforeach()
foreach(file model.safetensors tokenizer.model config.json)
  file(SHA256 ${WORK_DIR}/a/${file} first)
  file(SHA256 ${WORK_DIR}/b/${file} second)
  if(NOT first STREQUAL second)
    message(FATAL_ERROR "${file} differs between two runs with the same seed")
  endif()
endforeach()
string(REGEX MATCH "step 100 of 100: loss ([0-9.]+)" line "${output}")
if(NOT CMAKE_MATCH_1 OR CMAKE_MATCH_1 GREATER 4.0)  # log(700) = 6.6 before it has learnt anything
  message(FATAL_ERROR "the model did not learn: ${output}")
endif()
message("${line}")
file(REMOVE_RECURSE ${WORK_DIR})

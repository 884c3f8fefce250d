# Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
#
# Shared by native/ and cuda/: compiler flags, build information and the helpers that make the loader and the kernel packs.
include_guard(GLOBAL)

get_filename_component(Q4J_ROOT "${CMAKE_CURRENT_LIST_DIR}/.." ABSOLUTE)
set(Q4J_CMAKE_DIR "${CMAKE_CURRENT_LIST_DIR}")
set(Q4J_PLATFORM "linux-x86_64") # JavaCPP's name for it
set(Q4J_PACK_RESOURCES "org/qlora4j/packs/${Q4J_PLATFORM}")

if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "" FORCE)
endif()
set(CMAKE_CXX_STANDARD 17)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_CXX_FLAGS_RELEASE "-O3 -DNDEBUG")
# Nothing of the build machine may travel: no RUNPATH, neither in the build folder nor after installation.
set(CMAKE_SKIP_RPATH ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)

option(Q4J_SANITIZE "Build with AddressSanitizer and UndefinedBehaviorSanitizer" OFF)

# -ffp-contract=off: the ABI says where a multiply and an add are rounded separately; g++ would otherwise fuse them as soon as an
#   instruction set has FMA, and packs would disagree. Kernels that want FMA call it by name.
# -fno-math-errno, -fno-trapping-math: let loops with sqrt and conditionals vectorise; no value changes.
set(Q4J_COMPILE_OPTIONS
    -Wall -Wextra -Wconversion -Wshadow -Werror
    -ffp-contract=off -fno-math-errno -fno-trapping-math -ffile-prefix-map=${Q4J_ROOT}/=)
# The C++ runtime is linked in, so that the libraries run on machines without a compiler and beside any other libstdc++.
set(Q4J_LINK_OPTIONS -static-libstdc++ -static-libgcc -Wl,--no-undefined -Wl,-z,relro -Wl,-z,now -Wl,--build-id)

# Turns AddressSanitizer and UndefinedBehaviorSanitizer on for the targets that this folder makes from here on. The sanitizers'
# runtimes come from the process that loads a library, so undefined symbols are expected then.
macro(q4j_sanitize)
  list(APPEND Q4J_COMPILE_OPTIONS -fsanitize=address,undefined -fno-omit-frame-pointer -g1) # reports name lines
  set(Q4J_LINK_OPTIONS -fsanitize=address,undefined)
endmacro()
if(Q4J_SANITIZE)
  q4j_sanitize()
endif()

find_package(Threads REQUIRED)

set(Q4J_INCLUDE_DIRECTORIES ${Q4J_ROOT}/native/include ${Q4J_ROOT}/native/src ${Q4J_ROOT}/native/src/support
                            ${CMAKE_BINARY_DIR}/generated)

# build_info.h with the git revision and the hash of all native sources, checked at every build and rewritten when they change.
set(Q4J_GENERATED "${CMAKE_BINARY_DIR}/generated")
add_custom_target(
  q4j_build_info
  COMMAND ${CMAKE_COMMAND} -DROOT=${Q4J_ROOT} -DOUT=${Q4J_GENERATED} -P ${Q4J_CMAKE_DIR}/BuildInfo.cmake
  BYPRODUCTS ${Q4J_GENERATED}/q4j_build_info.h ${Q4J_GENERATED}/build.properties
  COMMENT "Checking the build information")

# Flags and include folders every library of the project is built with.
function(q4j_configure target version_script)
  target_include_directories(${target} PRIVATE ${Q4J_INCLUDE_DIRECTORIES})
  target_compile_options(${target} PRIVATE "$<$<COMPILE_LANGUAGE:CXX>:${Q4J_COMPILE_OPTIONS}>")
  target_link_options(${target} PRIVATE ${Q4J_LINK_OPTIONS} -Wl,--version-script=${version_script})
  set_target_properties(${target} PROPERTIES LINK_DEPENDS ${version_script})
  target_link_libraries(${target} PRIVATE Threads::Threads ${CMAKE_DL_LIBS})
  add_dependencies(${target} q4j_build_info)
endfunction()

# q4j_add_pack(<pack name> SOURCES <files...> [ISA <flags...>] [DEVELOPMENT])
#
# Makes libqlora4j-pack-<pack name>.so. ISA flags go to every C++ file except those named *_baseline.cpp: the entry point asks
# CPUID before anything else runs, so it must run on any x86-64. Baseline files come first on the link line; should
# both kinds instantiate the same inline function, the linker keeps the copy that runs everywhere.
# DEVELOPMENT: for the test suite only, not part of the shipped jar.
function(q4j_add_pack name)
  cmake_parse_arguments(PACK "DEVELOPMENT" "" "SOURCES;ISA" ${ARGN})
  set(target qlora4j-pack-${name})
  set(baseline ${PACK_SOURCES})
  list(FILTER baseline INCLUDE REGEX "_baseline\\.cpp$")
  set(specific ${PACK_SOURCES})
  list(FILTER specific EXCLUDE REGEX "_baseline\\.cpp$")
  if(PACK_ISA)
    # A second target, because source properties are shared by all targets of a folder.
    add_library(${target}-isa OBJECT ${specific})
    target_compile_options(${target}-isa PRIVATE ${PACK_ISA})
    add_library(${target} SHARED ${baseline} $<TARGET_OBJECTS:${target}-isa>)
    set(parts ${target} ${target}-isa)
    target_include_directories(${target}-isa PRIVATE ${Q4J_INCLUDE_DIRECTORIES})
    target_compile_options(${target}-isa PRIVATE ${Q4J_COMPILE_OPTIONS})
    add_dependencies(${target}-isa q4j_build_info)
  else()
    add_library(${target} SHARED ${baseline} ${specific})
    set(parts ${target})
  endif()
  q4j_configure(${target} ${Q4J_CMAKE_DIR}/pack.map)
  foreach(part IN LISTS parts)
    target_compile_definitions(${part} PRIVATE "Q4J_PACK_NAME=\"${name}\"")
    set_target_properties(${part} PROPERTIES CXX_VISIBILITY_PRESET hidden CUDA_VISIBILITY_PRESET hidden
                                             VISIBILITY_INLINES_HIDDEN ON)
  endforeach()
  set(component packs)
  if(PACK_DEVELOPMENT)
    set(component development-packs)
  endif()
  install(TARGETS ${target} LIBRARY DESTINATION lib)
  install(TARGETS ${target} LIBRARY DESTINATION ${Q4J_PACK_RESOURCES} COMPONENT ${component} EXCLUDE_FROM_ALL)
  if(NOT PACK_DEVELOPMENT)
    install(TARGETS ${target} LIBRARY DESTINATION lib/shared COMPONENT nar EXCLUDE_FROM_ALL)
  endif()
endfunction()

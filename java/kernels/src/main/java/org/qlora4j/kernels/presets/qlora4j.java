// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.kernels.presets;

import org.bytedeco.javacpp.annotation.Platform;
import org.bytedeco.javacpp.annotation.Properties;
import org.bytedeco.javacpp.tools.Info;
import org.bytedeco.javacpp.tools.InfoMap;
import org.bytedeco.javacpp.tools.InfoMapper;

/**
 * Tells JavaCPP how to turn the kernel ABI headers into the package {@code
 * org.qlora4j.kernels.abi}.
 *
 * <p>The class keeps the lower-case name of the library it maps, as all JavaCPP presets do.
 */
@Properties(
    value =
        @Platform(
            include = {"qlora4j/types.h", "qlora4j/context.h", "qlora4j/operators.h"},
            link = "qlora4j"),
    target = "org.qlora4j.kernels.abi",
    global = "org.qlora4j.kernels.abi.qlora4j")
public class qlora4j implements InfoMapper {

  @Override
  public void map(InfoMap infoMap) {
    infoMap.put(new Info("__cplusplus").define(false));
    infoMap.put(
        new Info("QLORA4J_TYPES_H_", "QLORA4J_CONTEXT_H_", "QLORA4J_OPERATORS_H_").cppTypes());
    // Status codes and enumerations are plain integers on both sides.
    infoMap.put(
        new Info(
                "q4j_status",
                "q4j_dtype",
                "q4j_device_kind",
                "q4j_limit",
                "q4j_weight_format",
                "q4j_weight_layout",
                "q4j_lora_compute",
                "q4j_map_8bit",
                "q4j_activation",
                "q4j_paging")
            .cast()
            .valueTypes("int"));
    // Host arrays of device addresses are written as 64-bit integers, in one piece; JavaCPP would
    // only offer getters.
    addressArray(infoMap, "q4j_gradient_norm_params", "tensors", "const void*const*");
    addressArray(infoMap, "q4j_adamw_params", "parameters", "void*const*");
    addressArray(infoMap, "q4j_adamw_params", "gradients", "const void*const*");
    addressArray(infoMap, "q4j_adamw_params", "first_moments", "void*const*");
    addressArray(infoMap, "q4j_adamw_params", "second_moments", "void*const*");
    addressArray(infoMap, "q4j_adamw_8bit_params", "parameters", "void*const*");
    addressArray(infoMap, "q4j_adamw_8bit_params", "gradients", "const void*const*");
    addressArray(infoMap, "q4j_adamw_8bit_params", "first_moment_codes", "void*const*");
    addressArray(infoMap, "q4j_adamw_8bit_params", "first_moment_absmax", "void*const*");
    addressArray(infoMap, "q4j_adamw_8bit_params", "second_moment_codes", "void*const*");
    addressArray(infoMap, "q4j_adamw_8bit_params", "second_moment_absmax", "void*const*");
    // Host addresses that receive one device address or handle.
    addressArray(infoMap, "q4j_paged_store_create_params", "store", "void**");
    addressArray(infoMap, "q4j_paged_store_acquire_params", "memory", "void**");
  }

  private static void addressArray(InfoMap infoMap, String struct, String field, String type) {
    String cast = "@Cast(\"" + type + "\") LongPointer";
    infoMap.put(
        new Info(struct + "::" + field)
            .javaText(
                "public native "
                    + cast
                    + " "
                    + field
                    + "();\n  public native "
                    + struct
                    + " "
                    + field
                    + "("
                    + cast
                    + " setter);"));
  }
}

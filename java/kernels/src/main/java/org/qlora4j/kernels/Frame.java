// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.kernels;

import org.bytedeco.javacpp.FloatPointer;
import org.bytedeco.javacpp.IntPointer;
import org.bytedeco.javacpp.LongPointer;
import org.bytedeco.javacpp.Pointer;
import org.qlora4j.kernels.abi.q4j_activation_backward_params;
import org.qlora4j.kernels.abi.q4j_activation_forward_params;
import org.qlora4j.kernels.abi.q4j_adamw_8bit_params;
import org.qlora4j.kernels.abi.q4j_adamw_params;
import org.qlora4j.kernels.abi.q4j_attention_backward_params;
import org.qlora4j.kernels.abi.q4j_attention_forward_params;
import org.qlora4j.kernels.abi.q4j_cross_entropy_params;
import org.qlora4j.kernels.abi.q4j_dequantize_4bit_params;
import org.qlora4j.kernels.abi.q4j_dequantize_8bit_blockwise_params;
import org.qlora4j.kernels.abi.q4j_dequantize_fp8_rowwise_params;
import org.qlora4j.kernels.abi.q4j_dequantize_int8_rowwise_params;
import org.qlora4j.kernels.abi.q4j_dropout;
import org.qlora4j.kernels.abi.q4j_gradient_norm_params;
import org.qlora4j.kernels.abi.q4j_layer_norm_backward_params;
import org.qlora4j.kernels.abi.q4j_layer_norm_forward_params;
import org.qlora4j.kernels.abi.q4j_linear_backward_input_params;
import org.qlora4j.kernels.abi.q4j_linear_forward_params;
import org.qlora4j.kernels.abi.q4j_linear_weight_gradient_params;
import org.qlora4j.kernels.abi.q4j_lora;
import org.qlora4j.kernels.abi.q4j_lora_weight_gradient_params;
import org.qlora4j.kernels.abi.q4j_pack_weight_params;
import org.qlora4j.kernels.abi.q4j_paged_store_acquire_params;
import org.qlora4j.kernels.abi.q4j_paged_store_copy_params;
import org.qlora4j.kernels.abi.q4j_paged_store_create_params;
import org.qlora4j.kernels.abi.q4j_paged_store_destroy_params;
import org.qlora4j.kernels.abi.q4j_paged_store_plan_params;
import org.qlora4j.kernels.abi.q4j_paged_store_release_params;
import org.qlora4j.kernels.abi.q4j_paged_store_statistics_params;
import org.qlora4j.kernels.abi.q4j_quantize_4bit_params;
import org.qlora4j.kernels.abi.q4j_quantize_8bit_blockwise_params;
import org.qlora4j.kernels.abi.q4j_quantize_fp8_rowwise_params;
import org.qlora4j.kernels.abi.q4j_quantize_int8_rowwise_params;
import org.qlora4j.kernels.abi.q4j_rms_norm_backward_params;
import org.qlora4j.kernels.abi.q4j_rms_norm_forward_params;
import org.qlora4j.kernels.abi.q4j_rotary_params;
import org.qlora4j.kernels.abi.q4j_unpack_weight_params;
import org.qlora4j.kernels.abi.q4j_weight;

/**
 * The parameter structs of one pack, in one block of native memory that is allocated once and
 * written again by every call. So a call allocates nothing native, and nothing waits for the
 * garbage collector. Guarded by {@link KernelPack#lock}.
 *
 * <p>Every operator sets every field of its struct, because the values of the call before are still
 * there.
 */
final class Frame {
  private static final int ALIGNMENT = 16;

  private final Pointer block;
  private final HostArray integers = new HostArray();
  private final HostArray secondIntegers = new HostArray();
  private final HostArray lengths = new HostArray();
  private final HostArray decays = new HostArray();
  private final HostArray[] addresses = {
    new HostArray(), new HostArray(), new HostArray(),
    new HostArray(), new HostArray(), new HostArray()
  };

  final LongPointer bytes;
  final q4j_weight weight;
  final q4j_lora lora;
  final q4j_quantize_4bit_params quantize4bit;
  final q4j_dequantize_4bit_params dequantize4bit;
  final q4j_quantize_8bit_blockwise_params quantize8bit;
  final q4j_dequantize_8bit_blockwise_params dequantize8bit;
  final q4j_quantize_int8_rowwise_params quantizeInt8;
  final q4j_dequantize_int8_rowwise_params dequantizeInt8;
  final q4j_quantize_fp8_rowwise_params quantizeFp8;
  final q4j_dequantize_fp8_rowwise_params dequantizeFp8;
  final q4j_pack_weight_params packWeight;
  final q4j_unpack_weight_params unpackWeight;
  final q4j_linear_forward_params linearForward;
  final q4j_linear_backward_input_params linearBackwardInput;
  final q4j_lora_weight_gradient_params loraWeightGradient;
  final q4j_linear_weight_gradient_params linearWeightGradient;
  final q4j_rms_norm_forward_params rmsNormForward;
  final q4j_rms_norm_backward_params rmsNormBackward;
  final q4j_layer_norm_forward_params layerNormForward;
  final q4j_layer_norm_backward_params layerNormBackward;
  final q4j_rotary_params rotary;
  final q4j_activation_forward_params activationForward;
  final q4j_activation_backward_params activationBackward;
  final q4j_cross_entropy_params crossEntropy;
  final q4j_attention_forward_params attentionForward;
  final q4j_attention_backward_params attentionBackward;
  final q4j_gradient_norm_params gradientNorm;
  final q4j_adamw_params adamW;
  final q4j_adamw_8bit_params adamW8bit;
  final q4j_paged_store_create_params pagedStoreCreate;
  final q4j_paged_store_destroy_params pagedStoreDestroy;
  final q4j_paged_store_plan_params pagedStorePlan;
  final q4j_paged_store_acquire_params pagedStoreAcquire;
  final q4j_paged_store_release_params pagedStoreRelease;
  final q4j_paged_store_copy_params pagedStoreCopy;
  final q4j_paged_store_statistics_params pagedStoreStatistics;
  private final q4j_dropout dropout;

  Frame() {
    Layout layout = new Layout();
    long bytesAt = layout.add(Long.BYTES);
    int weightSize = Pointer.sizeof(q4j_weight.class);
    long weightAt = layout.add(weightSize);
    int loraSize = Pointer.sizeof(q4j_lora.class);
    long loraAt = layout.add(loraSize);
    int quantize4bitSize = Pointer.sizeof(q4j_quantize_4bit_params.class);
    long quantize4bitAt = layout.add(quantize4bitSize);
    int dequantize4bitSize = Pointer.sizeof(q4j_dequantize_4bit_params.class);
    long dequantize4bitAt = layout.add(dequantize4bitSize);
    int quantize8bitSize = Pointer.sizeof(q4j_quantize_8bit_blockwise_params.class);
    long quantize8bitAt = layout.add(quantize8bitSize);
    int dequantize8bitSize = Pointer.sizeof(q4j_dequantize_8bit_blockwise_params.class);
    long dequantize8bitAt = layout.add(dequantize8bitSize);
    int quantizeInt8Size = Pointer.sizeof(q4j_quantize_int8_rowwise_params.class);
    long quantizeInt8At = layout.add(quantizeInt8Size);
    int dequantizeInt8Size = Pointer.sizeof(q4j_dequantize_int8_rowwise_params.class);
    long dequantizeInt8At = layout.add(dequantizeInt8Size);
    int quantizeFp8Size = Pointer.sizeof(q4j_quantize_fp8_rowwise_params.class);
    long quantizeFp8At = layout.add(quantizeFp8Size);
    int dequantizeFp8Size = Pointer.sizeof(q4j_dequantize_fp8_rowwise_params.class);
    long dequantizeFp8At = layout.add(dequantizeFp8Size);
    int packWeightSize = Pointer.sizeof(q4j_pack_weight_params.class);
    long packWeightAt = layout.add(packWeightSize);
    int unpackWeightSize = Pointer.sizeof(q4j_unpack_weight_params.class);
    long unpackWeightAt = layout.add(unpackWeightSize);
    int linearForwardSize = Pointer.sizeof(q4j_linear_forward_params.class);
    long linearForwardAt = layout.add(linearForwardSize);
    int linearBackwardInputSize = Pointer.sizeof(q4j_linear_backward_input_params.class);
    long linearBackwardInputAt = layout.add(linearBackwardInputSize);
    int loraWeightGradientSize = Pointer.sizeof(q4j_lora_weight_gradient_params.class);
    long loraWeightGradientAt = layout.add(loraWeightGradientSize);
    int linearWeightGradientSize = Pointer.sizeof(q4j_linear_weight_gradient_params.class);
    long linearWeightGradientAt = layout.add(linearWeightGradientSize);
    int rmsNormForwardSize = Pointer.sizeof(q4j_rms_norm_forward_params.class);
    long rmsNormForwardAt = layout.add(rmsNormForwardSize);
    int rmsNormBackwardSize = Pointer.sizeof(q4j_rms_norm_backward_params.class);
    long rmsNormBackwardAt = layout.add(rmsNormBackwardSize);
    int layerNormForwardSize = Pointer.sizeof(q4j_layer_norm_forward_params.class);
    long layerNormForwardAt = layout.add(layerNormForwardSize);
    int layerNormBackwardSize = Pointer.sizeof(q4j_layer_norm_backward_params.class);
    long layerNormBackwardAt = layout.add(layerNormBackwardSize);
    int rotarySize = Pointer.sizeof(q4j_rotary_params.class);
    long rotaryAt = layout.add(rotarySize);
    int activationForwardSize = Pointer.sizeof(q4j_activation_forward_params.class);
    long activationForwardAt = layout.add(activationForwardSize);
    int activationBackwardSize = Pointer.sizeof(q4j_activation_backward_params.class);
    long activationBackwardAt = layout.add(activationBackwardSize);
    int crossEntropySize = Pointer.sizeof(q4j_cross_entropy_params.class);
    long crossEntropyAt = layout.add(crossEntropySize);
    int attentionForwardSize = Pointer.sizeof(q4j_attention_forward_params.class);
    long attentionForwardAt = layout.add(attentionForwardSize);
    int attentionBackwardSize = Pointer.sizeof(q4j_attention_backward_params.class);
    long attentionBackwardAt = layout.add(attentionBackwardSize);
    int gradientNormSize = Pointer.sizeof(q4j_gradient_norm_params.class);
    long gradientNormAt = layout.add(gradientNormSize);
    int adamWSize = Pointer.sizeof(q4j_adamw_params.class);
    long adamWAt = layout.add(adamWSize);
    int adamW8bitSize = Pointer.sizeof(q4j_adamw_8bit_params.class);
    long adamW8bitAt = layout.add(adamW8bitSize);
    int pagedStoreCreateSize = Pointer.sizeof(q4j_paged_store_create_params.class);
    long pagedStoreCreateAt = layout.add(pagedStoreCreateSize);
    int pagedStoreDestroySize = Pointer.sizeof(q4j_paged_store_destroy_params.class);
    long pagedStoreDestroyAt = layout.add(pagedStoreDestroySize);
    int pagedStorePlanSize = Pointer.sizeof(q4j_paged_store_plan_params.class);
    long pagedStorePlanAt = layout.add(pagedStorePlanSize);
    int pagedStoreAcquireSize = Pointer.sizeof(q4j_paged_store_acquire_params.class);
    long pagedStoreAcquireAt = layout.add(pagedStoreAcquireSize);
    int pagedStoreReleaseSize = Pointer.sizeof(q4j_paged_store_release_params.class);
    long pagedStoreReleaseAt = layout.add(pagedStoreReleaseSize);
    int pagedStoreCopySize = Pointer.sizeof(q4j_paged_store_copy_params.class);
    long pagedStoreCopyAt = layout.add(pagedStoreCopySize);
    int pagedStoreStatisticsSize = Pointer.sizeof(q4j_paged_store_statistics_params.class);
    long pagedStoreStatisticsAt = layout.add(pagedStoreStatisticsSize);

    block = Pointer.calloc(layout.total, 1);
    if (block == null || block.isNull()) {
      throw new OutOfMemoryError("no room for " + layout.total + " bytes of parameter structs");
    }
    long base = block.address();
    bytes = new LongPointer(new DeviceAddress(base + bytesAt));
    weight = new q4j_weight(new DeviceAddress(base + weightAt)).size(weightSize);
    lora = new q4j_lora(new DeviceAddress(base + loraAt)).size(loraSize);
    dropout = lora.dropout().size(Pointer.sizeof(q4j_dropout.class));
    quantize4bit =
        new q4j_quantize_4bit_params(new DeviceAddress(base + quantize4bitAt))
            .size(quantize4bitSize);
    dequantize4bit =
        new q4j_dequantize_4bit_params(new DeviceAddress(base + dequantize4bitAt))
            .size(dequantize4bitSize);
    quantize8bit =
        new q4j_quantize_8bit_blockwise_params(new DeviceAddress(base + quantize8bitAt))
            .size(quantize8bitSize);
    dequantize8bit =
        new q4j_dequantize_8bit_blockwise_params(new DeviceAddress(base + dequantize8bitAt))
            .size(dequantize8bitSize);
    quantizeInt8 =
        new q4j_quantize_int8_rowwise_params(new DeviceAddress(base + quantizeInt8At))
            .size(quantizeInt8Size);
    dequantizeInt8 =
        new q4j_dequantize_int8_rowwise_params(new DeviceAddress(base + dequantizeInt8At))
            .size(dequantizeInt8Size);
    quantizeFp8 =
        new q4j_quantize_fp8_rowwise_params(new DeviceAddress(base + quantizeFp8At))
            .size(quantizeFp8Size);
    dequantizeFp8 =
        new q4j_dequantize_fp8_rowwise_params(new DeviceAddress(base + dequantizeFp8At))
            .size(dequantizeFp8Size);
    packWeight =
        new q4j_pack_weight_params(new DeviceAddress(base + packWeightAt)).size(packWeightSize);
    unpackWeight =
        new q4j_unpack_weight_params(new DeviceAddress(base + unpackWeightAt))
            .size(unpackWeightSize);
    linearForward =
        new q4j_linear_forward_params(new DeviceAddress(base + linearForwardAt))
            .size(linearForwardSize);
    linearBackwardInput =
        new q4j_linear_backward_input_params(new DeviceAddress(base + linearBackwardInputAt))
            .size(linearBackwardInputSize);
    loraWeightGradient =
        new q4j_lora_weight_gradient_params(new DeviceAddress(base + loraWeightGradientAt))
            .size(loraWeightGradientSize);
    linearWeightGradient =
        new q4j_linear_weight_gradient_params(new DeviceAddress(base + linearWeightGradientAt))
            .size(linearWeightGradientSize);
    rmsNormForward =
        new q4j_rms_norm_forward_params(new DeviceAddress(base + rmsNormForwardAt))
            .size(rmsNormForwardSize);
    rmsNormBackward =
        new q4j_rms_norm_backward_params(new DeviceAddress(base + rmsNormBackwardAt))
            .size(rmsNormBackwardSize);
    layerNormForward =
        new q4j_layer_norm_forward_params(new DeviceAddress(base + layerNormForwardAt))
            .size(layerNormForwardSize);
    layerNormBackward =
        new q4j_layer_norm_backward_params(new DeviceAddress(base + layerNormBackwardAt))
            .size(layerNormBackwardSize);
    rotary = new q4j_rotary_params(new DeviceAddress(base + rotaryAt)).size(rotarySize);
    activationForward =
        new q4j_activation_forward_params(new DeviceAddress(base + activationForwardAt))
            .size(activationForwardSize);
    activationBackward =
        new q4j_activation_backward_params(new DeviceAddress(base + activationBackwardAt))
            .size(activationBackwardSize);
    crossEntropy =
        new q4j_cross_entropy_params(new DeviceAddress(base + crossEntropyAt))
            .size(crossEntropySize);
    attentionForward =
        new q4j_attention_forward_params(new DeviceAddress(base + attentionForwardAt))
            .size(attentionForwardSize);
    attentionBackward =
        new q4j_attention_backward_params(new DeviceAddress(base + attentionBackwardAt))
            .size(attentionBackwardSize);
    gradientNorm =
        new q4j_gradient_norm_params(new DeviceAddress(base + gradientNormAt))
            .size(gradientNormSize);
    adamW = new q4j_adamw_params(new DeviceAddress(base + adamWAt)).size(adamWSize);
    adamW8bit =
        new q4j_adamw_8bit_params(new DeviceAddress(base + adamW8bitAt)).size(adamW8bitSize);
    pagedStoreCreate =
        new q4j_paged_store_create_params(new DeviceAddress(base + pagedStoreCreateAt))
            .size(pagedStoreCreateSize);
    pagedStoreDestroy =
        new q4j_paged_store_destroy_params(new DeviceAddress(base + pagedStoreDestroyAt))
            .size(pagedStoreDestroySize);
    pagedStorePlan =
        new q4j_paged_store_plan_params(new DeviceAddress(base + pagedStorePlanAt))
            .size(pagedStorePlanSize);
    pagedStoreAcquire =
        new q4j_paged_store_acquire_params(new DeviceAddress(base + pagedStoreAcquireAt))
            .size(pagedStoreAcquireSize);
    pagedStoreRelease =
        new q4j_paged_store_release_params(new DeviceAddress(base + pagedStoreReleaseAt))
            .size(pagedStoreReleaseSize);
    pagedStoreCopy =
        new q4j_paged_store_copy_params(new DeviceAddress(base + pagedStoreCopyAt))
            .size(pagedStoreCopySize);
    pagedStoreStatistics =
        new q4j_paged_store_statistics_params(new DeviceAddress(base + pagedStoreStatisticsAt))
            .size(pagedStoreStatisticsSize);
  }

  /** Writes a weight into the frame. */
  q4j_weight weight(KernelPack pack, Weight value) {
    return weight
        .format(value.format().code())
        .dtype(value.dtype().code())
        .block_size(value.blockSize())
        .nested_block_size(value.nestedBlockSize())
        .nested_offset(value.nestedOffset())
        .rows(value.rows())
        .cols(value.cols())
        .ld(value.format() == WeightFormat.DENSE ? value.data().rowStride() : value.cols())
        .data(pack.address(value.data()))
        .absmax(pack.address(value.absmax()))
        .nested_absmax(pack.address(value.nestedAbsmax()))
        .layout(value.layout().code())
        .reserved(0);
  }

  /** Writes a LoRA term into the frame. */
  q4j_lora lora(KernelPack pack, LoraTerm value) {
    Dropout mask = value.dropout();
    dropout
        .probability(mask.probability())
        .seed(mask.seed())
        .step(mask.step())
        .micro_batch(mask.microBatch())
        .linear(mask.linear())
        .reserved(0)
        .row_offset(mask.rowOffset());
    return lora.rank(value.rank())
        .s(value.s())
        .compute(value.compute().code())
        .a(pack.address(value.a()))
        .b(pack.address(value.b()));
  }

  /** Copies an array to host memory that is valid until the next call that uses this slot. */
  IntPointer integers(int[] values) {
    IntPointer target = new IntPointer(integers.ensure((long) values.length * Integer.BYTES));
    target.put(values, 0, values.length);
    return target;
  }

  /** A second slot like {@link #integers}. */
  IntPointer secondIntegers(int[] values) {
    IntPointer target = new IntPointer(secondIntegers.ensure((long) values.length * Integer.BYTES));
    target.put(values, 0, values.length);
    return target;
  }

  LongPointer lengths(long[] values) {
    LongPointer target = new LongPointer(lengths.ensure((long) values.length * Long.BYTES));
    target.put(values, 0, values.length);
    return target;
  }

  FloatPointer decays(float[] values) {
    FloatPointer target = new FloatPointer(decays.ensure((long) values.length * Float.BYTES));
    target.put(values, 0, values.length);
    return target;
  }

  /** A host array of device addresses, in slot 0 to 5. */
  LongPointer addresses(int slot, long[] values) {
    LongPointer target = new LongPointer(addresses[slot].ensure((long) values.length * Long.BYTES));
    target.put(values, 0, values.length);
    return target;
  }

  void free() {
    Pointer.free(block);
    integers.free();
    secondIntegers.free();
    lengths.free();
    decays.free();
    for (HostArray array : addresses) {
      array.free();
    }
  }

  /** Hands out aligned offsets. */
  private static final class Layout {
    private long total;

    long add(int size) {
      long at = total;
      total += (size + ALIGNMENT - 1L) / ALIGNMENT * ALIGNMENT;
      return at;
    }
  }

  /** Host memory that grows and is reused. */
  private static final class HostArray {
    private long address;
    private long capacity;

    DeviceAddress ensure(long needed) {
      if (needed > capacity || address == 0) {
        free();
        long size = Math.max(needed + needed / 2, 64);
        Pointer memory = Pointer.malloc(size);
        if (memory == null || memory.isNull()) {
          throw new OutOfMemoryError("no room for " + size + " bytes of call arguments");
        }
        address = memory.address();
        capacity = size;
      }
      return new DeviceAddress(address);
    }

    void free() {
      if (address != 0) {
        Pointer.free(new DeviceAddress(address));
        address = 0;
        capacity = 0;
      }
    }
  }
}

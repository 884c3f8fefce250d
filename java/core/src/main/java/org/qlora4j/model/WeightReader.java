// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.model;

import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.ArrayList;
import java.util.List;
import org.qlora4j.checkpoint.TensorSource;
import org.qlora4j.kernels.DType;
import org.qlora4j.kernels.DeviceBuffer;
import org.qlora4j.kernels.DeviceTensor;
import org.qlora4j.kernels.KernelPack;
import org.qlora4j.kernels.Weight;
import org.qlora4j.quant.QuantizationConfig;
import org.qlora4j.quant.QuantizedTensors;
import org.qlora4j.quant.QuantizedWeight;
import org.qlora4j.tensor.TorchBridge;

/**
 * Moves tensors from files to the device, one at a time and through bounded buffers: besides what
 * it keeps, memory holds at most one tensor (the one being quantized) and a few megabytes.
 * Everything it allocates is handed over by {@link #takeMemory}, or released by {@link #close}.
 */
final class WeightReader implements AutoCloseable {

  /**
   * Bytes read and converted at a time. Large enough that a system call costs nothing beside it.
   */
  private static final int CHUNK_BYTES = 4 << 20;

  private final KernelPack pack;
  private final ByteBuffer host =
      ByteBuffer.allocateDirect(CHUNK_BYTES).order(ByteOrder.LITTLE_ENDIAN);
  private List<AutoCloseable> memory = new ArrayList<>();

  WeightReader(KernelPack pack) {
    this.pack = pack;
  }

  /** A new device tensor of {@code type} with the tensor's values. */
  DeviceTensor read(TensorSource source, DType type) {
    DeviceBuffer buffer =
        own(DeviceBuffer.allocate(pack, Math.multiplyExact(source.elements(), type.bytes())));
    DeviceTensor target = DeviceTensor.of(buffer, 0, type, source.shape());
    readInto(source, target);
    return target;
  }

  /**
   * Copies the tensor's values into {@code target} (same number of elements, contiguous),
   * converting the type.
   */
  void readInto(TensorSource source, DeviceTensor target) {
    if (source.elements() != target.elements()) {
      throw new IllegalArgumentException(
          source.name() + " has " + source.elements() + " elements, not " + target.elements());
    }
    if (source.dtype() == target.dtype()) {
      upload(source, 0, target);
      return;
    }
    int elementBytes = source.dtype().bytes();
    long chunk = CHUNK_BYTES / elementBytes;
    try (DeviceBuffer staging =
        DeviceBuffer.allocate(pack, Math.min(source.bytes(), CHUNK_BYTES))) {
      for (long first = 0; first < source.elements(); first += chunk) {
        long count = Math.min(chunk, source.elements() - first);
        DeviceTensor raw = DeviceTensor.of(staging, 0, source.dtype(), count);
        upload(source, first * elementBytes, raw);
        TorchBridge.copy(
            raw,
            DeviceTensor.of(
                target.buffer(),
                target.byteOffset() + first * target.dtype().bytes(),
                target.dtype(),
                count));
      }
    }
  }

  /** Reads a [rows, cols] tensor and quantizes it; the dense copy is gone when this returns. */
  Weight readQuantized(TensorSource source, QuantizationConfig config) {
    QuantizedWeight weight;
    try (DeviceBuffer dense = DeviceBuffer.allocate(pack, source.bytes())) {
      DeviceTensor raw = DeviceTensor.of(dense, 0, source.dtype(), source.shape());
      upload(source, 0, raw);
      weight = QuantizedWeight.quantize(pack, raw, config);
    }
    return ready(weight);
  }

  /** Reads a weight that is stored in 4 or 8 bits as it is. */
  Weight readQuantized(QuantizedTensors tensors) {
    return ready(tensors.load(pack, host));
  }

  /**
   * A weight that the model will own, as its linear takes it: packed where the pack has an order of
   * its own.
   */
  Weight ready(QuantizedWeight weight) {
    own(weight);
    weight.pack();
    return weight.weight();
  }

  /** Registers memory that lives as long as the model. */
  <T extends AutoCloseable> T own(T part) {
    memory.add(part);
    return part;
  }

  /** Everything allocated, now the caller's to close. */
  List<AutoCloseable> takeMemory() {
    List<AutoCloseable> taken = memory;
    memory = new ArrayList<>();
    return taken;
  }

  /** Copies the file's bytes from {@code sourceOffset} on as they are. */
  private void upload(TensorSource source, long sourceOffset, DeviceTensor target) {
    if (pack.isDryRun()) {
      return;
    }
    long bytes = target.bytes();
    for (long done = 0; done < bytes; done += CHUNK_BYTES) {
      host.clear().limit((int) Math.min(CHUNK_BYTES, bytes - done));
      source.read(sourceOffset + done, host);
      host.flip();
      target.buffer().copyIn(target.byteOffset() + done, host);
    }
  }

  @Override
  public void close() {
    for (AutoCloseable part : takeMemory()) {
      try {
        part.close();
      } catch (RuntimeException e) {
        throw e;
      } catch (Exception e) {
        throw new IllegalStateException("releasing a weight failed", e);
      }
    }
  }
}

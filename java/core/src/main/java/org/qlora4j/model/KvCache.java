// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.model;

import java.util.ArrayList;
import java.util.List;
import org.qlora4j.kernels.DType;
import org.qlora4j.kernels.DeviceBuffer;
import org.qlora4j.kernels.DeviceTensor;
import org.qlora4j.kernels.HeadView;
import org.qlora4j.kernels.KernelPack;
import org.qlora4j.tensor.TorchBridge;

/**
 * Keys and values of one sequence for every layer, each laid out [kv head][position][head size].
 */
public final class KvCache implements AutoCloseable {

  private final List<Layer> layers = new ArrayList<>();

  /**
   * @param dtype element type of keys and values, the compute type
   * @param capacity most positions it can hold
   */
  public KvCache(KernelPack pack, ModelConfig config, DType dtype, int capacity) {
    try {
      for (int i = 0; i < config.layers(); i++) {
        layers.add(new Layer(pack, config.kvHeads(), config.headDim(), dtype, capacity));
      }
    } catch (RuntimeException e) {
      layers.forEach(Layer::close);
      throw e;
    }
  }

  /** Positions held so far. */
  public int length() {
    return layers.get(0).length();
  }

  /** Forgets all positions. */
  public void clear() {
    layers.forEach(Layer::clear);
  }

  Layer layer(int index) {
    return layers.get(index);
  }

  @Override
  public void close() {
    layers.forEach(Layer::close);
  }

  /** One layer's keys and values. */
  static final class Layer implements AutoCloseable {
    private final DeviceBuffer memory;
    private final DeviceTensor keys;
    private final DeviceTensor values;
    private final int kvHeads;
    private final int headDim;
    private final int capacity;
    private int length = 0;

    Layer(KernelPack pack, int kvHeads, int headDim, DType dtype, int capacity) {
      this.kvHeads = kvHeads;
      this.headDim = headDim;
      this.capacity = capacity;
      long elements = Math.multiplyExact((long) kvHeads * headDim, capacity);
      this.memory = DeviceBuffer.allocate(pack, 2 * elements * dtype.bytes());
      this.keys = DeviceTensor.of(memory, 0, dtype, elements);
      this.values = DeviceTensor.of(memory, elements * dtype.bytes(), dtype, elements);
    }

    int length() {
      return length;
    }

    void clear() {
      length = 0;
    }

    HeadView keys() {
      return from(keys, 0);
    }

    HeadView values() {
      return from(values, 0);
    }

    /**
     * Copies the keys (rotated) and values of {@code tokens} new positions behind the ones held.
     */
    void append(HeadView newKeys, HeadView newValues, long tokens) {
      if (length + tokens > capacity) {
        throw new IllegalArgumentException(
            "the key/value cache holds "
                + capacity
                + " positions, "
                + (length + tokens)
                + " are needed");
      }
      TorchBridge.copyHeads(newKeys, from(keys, length), tokens, kvHeads, headDim);
      TorchBridge.copyHeads(newValues, from(values, length), tokens, kvHeads, headDim);
      length += (int) tokens;
    }

    private HeadView from(DeviceTensor memory, long position) {
      return new HeadView(memory, position * headDim, headDim, (long) capacity * headDim);
    }

    @Override
    public void close() {
      memory.close();
    }
  }
}

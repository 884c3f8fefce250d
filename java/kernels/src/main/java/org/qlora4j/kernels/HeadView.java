// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.kernels;

/**
 * Where the heads of a tensor lie: element (token t, head h, i) is at element {@code elementOffset
 * + t * tokenStride + h * headStride + i} of {@code base}. So queries, keys and values can stay in
 * the one tensor a fused projection wrote, and a cache can keep heads outside of positions.
 *
 * @param base memory and type, F32 or BF16
 * @param elementOffset of token 0, head 0, in elements
 * @param tokenStride elements from one token to the next
 * @param headStride elements from one head to the next
 */
public record HeadView(DeviceTensor base, long elementOffset, long tokenStride, long headStride) {

  /** Checks that offsets and strides are not negative. */
  public HeadView {
    if (elementOffset < 0 || tokenStride < 0 || headStride < 0) {
      throw new IllegalArgumentException(
          "offset and strides cannot be negative, found "
              + elementOffset
              + ", "
              + tokenStride
              + ", "
              + headStride);
    }
  }

  /**
   * Heads of {@code headDim} side by side in the columns of {@code x} [tokens, heads * headDim],
   * which may be strided.
   */
  public static HeadView of(DeviceTensor x, int headDim) {
    return new HeadView(x, 0, x.rowStride(), headDim);
  }

  /**
   * Checks that heads of this type and number lie within the base.
   *
   * @param name what the message calls the view
   * @param width elements of a head
   * @throws IllegalArgumentException naming both extents
   */
  public void check(String name, DType type, long tokens, long heads, long width) {
    Checks.type(name, base, type);
    if (tokens == 0 || heads == 0) {
      return;
    }
    long end = elementOffset + (tokens - 1) * tokenStride + (heads - 1) * headStride + width;
    if (end > base.extent()) {
      throw new IllegalArgumentException(
          name
              + " of "
              + tokens
              + " tokens, "
              + heads
              + " heads of "
              + width
              + " needs "
              + end
              + " elements, its tensor "
              + base
              + " spans "
              + base.extent());
    }
  }

  DeviceAddress address(KernelPack pack) {
    DeviceAddress start = pack.address(base);
    start.setAddress(start.address() + elementOffset * base.dtype().bytes());
    return start;
  }
}

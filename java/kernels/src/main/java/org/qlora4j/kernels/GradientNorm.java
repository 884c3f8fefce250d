// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.kernels;

import java.nio.ByteBuffer;
import java.util.List;
import org.qlora4j.kernels.abi.q4j_gradient_norm_params;
import org.qlora4j.kernels.abi.qlora4j;

/** The Euclidean norm of many gradients together. */
public final class GradientNorm {
  private GradientNorm() {}

  /**
   * {@code sqrt(sum of all squares)}, summed in f64 in an order that does not depend on the number
   * of threads. Waits for the result.
   *
   * @param gradients F32, contiguous
   */
  public static double compute(KernelPack pack, List<DeviceTensor> gradients) {
    int count = gradients.size();
    long[] lengths = new long[count];
    long[] addresses = new long[count];
    for (int i = 0; i < count; i++) {
      DeviceTensor gradient = gradients.get(i);
      Checks.vector("gradient " + i, gradient, DType.F32, gradient.elements());
      lengths[i] = gradient.elements();
      addresses[i] = pack.address(gradient).address();
    }
    synchronized (pack.lock()) {
      Frame frame = pack.frame();
      DeviceBuffer result = pack.workspace(Double.BYTES);
      q4j_gradient_norm_params params =
          frame
              .gradientNorm
              .count(count)
              .tensors(frame.addresses(0, addresses))
              .lengths(frame.lengths(lengths))
              .result(result.pointer());
      if (!pack.isDryRun()) {
        Status.check(qlora4j.q4j_gradient_norm(pack.context(), params));
      }
      ByteBuffer value = pack.staging().limit(Double.BYTES);
      result.copyOut(0, value);
      return value.getDouble(0);
    }
  }
}

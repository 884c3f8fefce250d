// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.kernels;

import java.util.List;
import org.qlora4j.kernels.abi.q4j_adamw_params;
import org.qlora4j.kernels.abi.qlora4j;

/** AdamW over many tensors in one call, PyTorch's order of operations. */
public final class AdamW {
  private AdamW() {}

  /**
   * What all tensors share.
   *
   * @param learningRate step size
   * @param beta1 decay of the first moment
   * @param beta2 decay of the second moment
   * @param eps added to the root of the second moment
   */
  public record Options(double learningRate, double beta1, double beta2, double eps) {}

  /**
   * One tensor with its gradient and its state, all F32, contiguous, of the same element count.
   *
   * @param parameter updated
   * @param gradient read
   * @param firstMoment updated; zeros before the first step
   * @param secondMoment updated; zeros before the first step
   * @param weightDecay decoupled decay of this tensor
   */
  public record Slot(
      DeviceTensor parameter,
      DeviceTensor gradient,
      DeviceTensor firstMoment,
      DeviceTensor secondMoment,
      float weightDecay) {
    /** Checks that the four fit each other. */
    public Slot {
      long n = parameter.elements();
      Checks.vector("parameter", parameter, DType.F32, n);
      Checks.vector("gradient", gradient, DType.F32, n);
      Checks.vector("firstMoment", firstMoment, DType.F32, n);
      Checks.vector("secondMoment", secondMoment, DType.F32, n);
    }
  }

  /**
   * One step: {@code g = gradient * gradientScale; p *= 1 - lr * decay; m = b1 m + (1 - b1) g; v =
   * b2 v + (1 - b2) g^2; p -= (lr / (1 - b1^t)) * m / (sqrt(v) / sqrt(1 - b2^t) + eps)}.
   *
   * @param t number of this step, 1 for the first
   * @param gradientScale factor on every gradient, for example of clipping
   */
  public static void step(
      KernelPack pack, Options options, long t, float gradientScale, List<Slot> slots) {
    if (t < 1) {
      throw new IllegalArgumentException("steps count from 1, found " + t);
    }
    int count = slots.size();
    long[] lengths = new long[count];
    float[] decays = new float[count];
    long[][] addresses = new long[4][count];
    for (int i = 0; i < count; i++) {
      Slot slot = slots.get(i);
      lengths[i] = slot.parameter().elements();
      decays[i] = slot.weightDecay();
      addresses[0][i] = pack.address(slot.parameter()).address();
      addresses[1][i] = pack.address(slot.gradient()).address();
      addresses[2][i] = pack.address(slot.firstMoment()).address();
      addresses[3][i] = pack.address(slot.secondMoment()).address();
    }
    synchronized (pack.lock()) {
      Frame frame = pack.frame();
      q4j_adamw_params params =
          frame
              .adamW
              .count(count)
              .t(t)
              .learning_rate(options.learningRate())
              .beta1(options.beta1())
              .beta2(options.beta2())
              .eps(options.eps())
              .gradient_scale(gradientScale)
              .reserved(0)
              .lengths(frame.lengths(lengths))
              .weight_decays(frame.decays(decays))
              .parameters(frame.addresses(0, addresses[0]))
              .gradients(frame.addresses(1, addresses[1]))
              .first_moments(frame.addresses(2, addresses[2]))
              .second_moments(frame.addresses(3, addresses[3]));
      if (!pack.isDryRun()) {
        Status.check(qlora4j.q4j_adamw(pack.context(), params));
      }
    }
  }
}

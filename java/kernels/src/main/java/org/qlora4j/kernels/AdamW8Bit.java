// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.kernels;

import java.util.List;
import org.qlora4j.kernels.abi.q4j_adamw_8bit_params;
import org.qlora4j.kernels.abi.qlora4j;

/**
 * AdamW over many tensors in one call, with both moments in 8 bits: blockwise codes of the signed
 * and the unsigned dynamic map, bitsandbytes' format. Two bytes of state per parameter where {@link
 * AdamW} has eight.
 */
public final class AdamW8Bit {
  /** Elements per block in bitsandbytes' optimizers. */
  public static final int BLOCK_SIZE = 256;

  private AdamW8Bit() {}

  /**
   * One moment of one tensor as it is stored. Before the first step absmax holds zeros; the codes
   * may be anything then.
   *
   * @param codes U8, one per element
   * @param absmax F32, one per block
   */
  public record Moment(DeviceTensor codes, DeviceTensor absmax) {}

  /**
   * One tensor with its gradient and its state, contiguous.
   *
   * @param parameter F32, updated
   * @param gradient F32, read
   * @param firstMoment updated; codes of the signed map
   * @param secondMoment updated; codes of the unsigned map
   * @param weightDecay decoupled decay of this tensor
   */
  public record Slot(
      DeviceTensor parameter,
      DeviceTensor gradient,
      Moment firstMoment,
      Moment secondMoment,
      float weightDecay) {
    /** Checks that the codes fit the parameter; {@link #step} checks the blocks. */
    public Slot {
      long n = parameter.elements();
      Checks.vector("parameter", parameter, DType.F32, n);
      Checks.vector("gradient", gradient, DType.F32, n);
      Checks.vector("first moment codes", firstMoment.codes(), DType.U8, n);
      Checks.vector("second moment codes", secondMoment.codes(), DType.U8, n);
    }
  }

  /**
   * One step in f32, the same bits on every pack: {@code g = gradient * gradientScale; m = b1 m +
   * (1 - b1) g; v = b2 v + (1 - b2) g^2; p = p * (1 - lr * decay) - (lr / (1 - b1^t)) * (m /
   * (sqrt(v) / sqrt(1 - b2^t) + eps))}. The parameter uses m and v before they are coded again. A
   * NaN moment gets code 0 and leaves the other elements of its block alone; its parameter is NaN.
   *
   * @param blockSize elements per absmax, a power of two from 32 to 4096
   * @param t number of this step, 1 for the first
   * @param gradientScale factor on every gradient, for example of clipping
   */
  public static void step(
      KernelPack pack,
      AdamW.Options options,
      int blockSize,
      long t,
      float gradientScale,
      List<Slot> slots) {
    Checks.blockSize(blockSize);
    if (t < 1) {
      throw new IllegalArgumentException("steps count from 1, found " + t);
    }
    int count = slots.size();
    long[] lengths = new long[count];
    float[] decays = new float[count];
    long[][] addresses = new long[6][count];
    for (int i = 0; i < count; i++) {
      Slot slot = slots.get(i);
      long n = slot.parameter().elements();
      long blocks = Quantization4Bit.blocks(n, blockSize);
      Checks.vector("first moment absmax", slot.firstMoment().absmax(), DType.F32, blocks);
      Checks.vector("second moment absmax", slot.secondMoment().absmax(), DType.F32, blocks);
      lengths[i] = n;
      decays[i] = slot.weightDecay();
      addresses[0][i] = pack.address(slot.parameter()).address();
      addresses[1][i] = pack.address(slot.gradient()).address();
      addresses[2][i] = pack.address(slot.firstMoment().codes()).address();
      addresses[3][i] = pack.address(slot.firstMoment().absmax()).address();
      addresses[4][i] = pack.address(slot.secondMoment().codes()).address();
      addresses[5][i] = pack.address(slot.secondMoment().absmax()).address();
    }
    synchronized (pack.lock()) {
      Frame frame = pack.frame();
      q4j_adamw_8bit_params params =
          frame
              .adamW8bit
              .count(count)
              .t(t)
              .learning_rate(options.learningRate())
              .beta1(options.beta1())
              .beta2(options.beta2())
              .eps(options.eps())
              .gradient_scale(gradientScale)
              .block_size(blockSize)
              .lengths(frame.lengths(lengths))
              .weight_decays(frame.decays(decays))
              .parameters(frame.addresses(0, addresses[0]))
              .gradients(frame.addresses(1, addresses[1]))
              .first_moment_codes(frame.addresses(2, addresses[2]))
              .first_moment_absmax(frame.addresses(3, addresses[3]))
              .second_moment_codes(frame.addresses(4, addresses[4]))
              .second_moment_absmax(frame.addresses(5, addresses[5]));
      if (!pack.isDryRun()) {
        Status.check(qlora4j.q4j_adamw_8bit(pack.context(), params));
      }
    }
  }
}

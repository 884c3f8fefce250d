// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.cli.bench;

import java.util.Locale;
import org.bytedeco.javacpp.PointerScope;
import org.bytedeco.pytorch.Scalar;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.global.torch.ScalarType;
import org.jspecify.annotations.Nullable;

/** Compares a result with what it should be. */
final class Agreement {
  /** Keeps a tolerance of zero from dividing. */
  private static final double TINY = 1e-30;

  private Agreement() {}

  /**
   * Null when every element of {@code found} is within its {@code tolerance} of {@code expected};
   * else one line that says how far the worst one is off.
   */
  static @Nullable String check(String what, Tensor found, Tensor expected, Tensor tolerance) {
    try (PointerScope scope = new PointerScope()) {
      Tensor far =
          found
              .to(ScalarType.Double)
              .sub(expected.to(ScalarType.Double))
              .abs()
              .div(tolerance.to(ScalarType.Double).add(new Scalar(TINY)));
      double worst = far.amax().item_double();
      return worst <= 1
          ? null
          : String.format(Locale.ROOT, "%s is off by %.3g times its tolerance", what, worst);
    }
  }

  /** As {@link #check}, with a tolerance of relative |expected| + absolute * largest |expected|. */
  static @Nullable String check(
      String what, Tensor found, Tensor expected, double relative, double absolute) {
    try (PointerScope scope = new PointerScope()) {
      Tensor size = expected.to(ScalarType.Double).abs();
      double largest = size.amax().item_double();
      return check(
          what,
          found,
          expected,
          size.mul(new Scalar(relative)).add(new Scalar(absolute * largest)));
    }
  }
}

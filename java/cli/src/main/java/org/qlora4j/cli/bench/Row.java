// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.cli.bench;

import java.util.List;
import java.util.Locale;
import org.jspecify.annotations.Nullable;

/**
 * What was measured of one operator on one shape.
 *
 * @param operator name
 * @param direction forward, backward, or both
 * @param m rows
 * @param n columns of the result, or 0 where there is no such number; also of k and rank
 * @param k inner dimension
 * @param rank of the LoRA branch
 * @param pack name of the kernel pack
 * @param seconds median time of a call; NaN when the result was wrong and nothing was timed
 * @param operations of a call; 0 for an operator that is bound by memory alone
 * @param bytes that a call must read and write
 * @param share of the machine's limit, or NaN
 * @param rival what libtorch does instead, or null
 * @param rivalSeconds median time of the rival, or NaN
 * @param ratio median of the rival's time over ours in runs side by side, or NaN
 * @param error what is wrong with the result, or null
 */
public record Row(
    String operator,
    String direction,
    long m,
    long n,
    long k,
    long rank,
    String pack,
    double seconds,
    double operations,
    double bytes,
    double share,
    @Nullable String rival,
    double rivalSeconds,
    double ratio,
    @Nullable String error) {

  /** Heading of a CSV file of rows. */
  public static final String CSV_HEADING =
      "operator,direction,m,n,k,rank,pack,milliseconds,tflops,gbps,share_of_limit,rival,rival_milliseconds,ratio";

  /** Heading of a table of rows. */
  public static final List<String> HEADING =
      List.of(
          "operator",
          "direction",
          "m x n x k",
          "ms",
          "TFLOPS",
          "GB/s",
          "share of limit",
          "rival ms",
          "ratio",
          "rival");

  /** A line of a CSV file; figures that do not exist are empty. */
  public String csv() {
    return String.join(
        ",",
        operator,
        direction,
        whole(m),
        whole(n),
        whole(k),
        whole(rank),
        pack,
        figure(seconds * 1e3),
        figure(tflops()),
        figure(gbps()),
        figure(share),
        rival == null ? "" : rival,
        figure(rivalSeconds * 1e3),
        figure(ratio));
  }

  /** A line of a table. */
  public List<String> cells() {
    return List.of(
        operator,
        direction,
        shape(),
        error == null ? figure(seconds * 1e3) : "WRONG",
        figure(tflops()),
        figure(gbps()),
        figure(share),
        figure(rivalSeconds * 1e3),
        figure(ratio),
        rival == null ? "" : rival);
  }

  /** The numbers of the shape that exist. */
  public String shape() {
    return whole(m) + (n == 0 ? "" : " x " + n) + (k == 0 ? "" : " x " + k);
  }

  private double tflops() {
    return operations == 0 ? Double.NaN : operations / seconds / 1e12;
  }

  private double gbps() {
    return bytes / seconds / 1e9;
  }

  private static String whole(long number) {
    return number == 0 ? "" : String.valueOf(number);
  }

  /** Four digits, without an exponent. */
  private static String figure(double value) {
    if (!Double.isFinite(value)) {
      return "";
    }
    int digits = value == 0 ? 0 : (int) Math.floor(Math.log10(Math.abs(value)));
    return String.format(Locale.ROOT, "%." + Math.max(0, Math.min(6, 3 - digits)) + "f", value);
  }
}

// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.train;

/**
 * What an optimizer's states take and how they moved.
 *
 * @param totalBytes of all states
 * @param paged whether some of them are in pages
 * @param held what the device holds of them
 */
public record OptimizerMemory(long totalBytes, boolean paged, Held held) {

  /**
   * Memory of the device and the traffic of pages since the optimizer was made.
   *
   * @param residentBytes memory of the device
   * @param bytesIn pages fetched to the device
   * @param bytesOut pages written back from it
   * @param misses uses of a page whose fetch had not begun before
   */
  public record Held(long residentBytes, long bytesIn, long bytesOut, long misses) {
    /** Nothing. */
    static final Held NONE = new Held(0, 0, 0, 0);

    Held plus(Held other) {
      return new Held(
          residentBytes + other.residentBytes,
          bytesIn + other.bytesIn,
          bytesOut + other.bytesOut,
          misses + other.misses);
    }
  }
}

// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.train;

/**
 * Memory of the device for something that may be paged, and the traffic of its pages since it was
 * made.
 *
 * @param residentBytes memory of the device
 * @param bytesIn pages fetched to the device
 * @param bytesOut pages written back from it
 * @param misses uses of a page whose fetch had not begun before
 */
public record PagedMemory(long residentBytes, long bytesIn, long bytesOut, long misses) {
  /** Nothing. */
  static final PagedMemory NONE = new PagedMemory(0, 0, 0, 0);

  PagedMemory plus(PagedMemory other) {
    return new PagedMemory(
        residentBytes + other.residentBytes,
        bytesIn + other.bytesIn,
        bytesOut + other.bytesOut,
        misses + other.misses);
  }
}

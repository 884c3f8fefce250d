// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.kernels;

import java.nio.ByteBuffer;
import org.bytedeco.javacpp.Pointer;
import org.jspecify.annotations.Nullable;

/**
 * A piece of memory of a pack's device. {@link #allocate} owns it, {@link #wrap} borrows it; {@link
 * #close} frees what is owned.
 *
 * <p>Copies are ordered with the pack's operators. Offsets and lengths are in bytes.
 */
public final class DeviceBuffer implements AutoCloseable {
  private final KernelPack pack;
  private final long address;
  private final long bytes;
  private final boolean owned;

  /** Keeps a wrapped pointer's memory alive. */
  private final @Nullable Pointer borrowed;

  private final LeakAlarm.@Nullable Watch alarm;
  private boolean closed;

  private DeviceBuffer(
      KernelPack pack, long address, long bytes, boolean owned, @Nullable Pointer borrowed) {
    this.pack = pack;
    this.address = address;
    this.bytes = bytes;
    this.owned = owned;
    this.borrowed = borrowed;
    this.alarm =
        owned
            ? LeakAlarm.watch(this, "a DeviceBuffer of " + bytes + " bytes on " + pack.name())
            : null;
  }

  /**
   * Allocates memory of the pack's device; its content is undefined.
   *
   * @param bytes size, 0 or more
   * @throws OutOfDeviceMemoryException when the device has no room
   */
  public static DeviceBuffer allocate(KernelPack pack, long bytes) {
    if (bytes < 0) {
      throw new IllegalArgumentException("a buffer cannot have " + bytes + " bytes");
    }
    return new DeviceBuffer(pack, pack.allocateMemory(bytes), bytes, true, null);
  }

  /**
   * Borrows memory of the pack's device that something else owns, for example a libtorch tensor.
   * The owner must keep it alive as long as this buffer is used; the Java object {@code memory} is
   * held.
   *
   * @param memory start, its position included
   * @param bytes size
   */
  public static DeviceBuffer wrap(KernelPack pack, Pointer memory, long bytes) {
    if (bytes < 0 || (memory.isNull() && bytes > 0)) {
      throw new IllegalArgumentException("cannot wrap " + bytes + " bytes at " + memory);
    }
    // Pointer.position() counts elements; sizeof() of an untyped pointer is 1.
    long address = memory.address() + memory.position() * memory.sizeof();
    return new DeviceBuffer(pack, address, bytes, false, memory);
  }

  /** Size in bytes. */
  public long bytes() {
    return bytes;
  }

  /** The pack whose device this memory is on. */
  public KernelPack pack() {
    return pack;
  }

  /**
   * Start of the memory, for handing it to another JavaCPP library. Borrowed: valid until {@link
   * #close}.
   */
  public Pointer pointer() {
    return new DeviceAddress(address());
  }

  /**
   * The address, after checking that the memory is still there.
   *
   * @throws IllegalStateException when the buffer or its pack was closed
   */
  long address() {
    if (closed) {
      throw new IllegalStateException("this DeviceBuffer of " + bytes + " bytes was closed");
    }
    pack.requireOpen();
    return address;
  }

  /**
   * Copies all remaining bytes of {@code source} to {@code offset}. The position of {@code source}
   * stays as it is, and the buffer may be reused when the call returns. Direct buffers are copied
   * in one go, heap buffers through a bounded bridge.
   */
  public void copyIn(long offset, ByteBuffer source) {
    checkRange(offset, source.remaining());
    pack.copyIn(address() + offset, source);
  }

  /**
   * Fills all remaining bytes of {@code target} from {@code offset} on. The position of {@code
   * target} stays as it is.
   */
  public void copyOut(long offset, ByteBuffer target) {
    checkRange(offset, target.remaining());
    pack.copyOut(target, address() + offset);
  }

  /** Sets every byte to the low eight bits of {@code value}. */
  public void fill(int value) {
    fill(0, bytes, value);
  }

  /** Sets {@code count} bytes from {@code offset} on to the low eight bits of {@code value}. */
  public void fill(long offset, long count, int value) {
    checkRange(offset, count);
    pack.fillMemory(address() + offset, value, count);
  }

  private void checkRange(long offset, long count) {
    if (offset < 0 || count < 0 || offset > bytes - count) {
      throw new IndexOutOfBoundsException(
          count
              + " bytes from offset "
              + offset
              + " do not lie in a buffer of "
              + bytes
              + " bytes");
    }
  }

  /** Frees the memory when this buffer owns it. A second call does nothing. */
  @Override
  public void close() {
    if (closed) {
      return;
    }
    closed = true;
    if (alarm != null) {
      alarm.disarm();
    }
    if (owned) {
      pack.freeMemory(address, bytes);
    }
  }

  @Override
  public String toString() {
    return "DeviceBuffer["
        + bytes
        + " bytes on "
        + pack.name()
        + (borrowed == null ? "" : ", borrowed")
        + "]";
  }
}

// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tests.kernels;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.nio.ByteBuffer;
import org.bytedeco.javacpp.BytePointer;
import org.bytedeco.javacpp.Pointer;
import org.bytedeco.javacpp.PointerScope;
import org.junit.jupiter.api.Test;
import org.qlora4j.kernels.DType;
import org.qlora4j.kernels.DeviceBuffer;
import org.qlora4j.kernels.DeviceTensor;
import org.qlora4j.kernels.FloatBits;
import org.qlora4j.kernels.KernelPack;
import org.qlora4j.kernels.OutOfDeviceMemoryException;
import org.qlora4j.kernels.PackOptions;
import org.qlora4j.kernels.RmsNorm;
import org.qlora4j.tests.support.Randoms;

/** Buffers, views, conversions, and that nothing leaks. */
class DeviceMemoryTest {
  private static KernelPack open() {
    return KernelPack.open(PackOptions.defaults().withPack("reference"));
  }

  @Test
  void copiesThroughHeapAndDirectBuffers() {
    // Larger than the bridge that heap buffers travel through, and no multiple of it.
    byte[] bytes = new Randoms(1).bytes(3_000_001);
    ByteBuffer direct = ByteBuffer.allocateDirect(bytes.length + 5);
    direct.position(5);
    direct.put(bytes).position(5);
    try (KernelPack pack = open();
        DeviceBuffer buffer = DeviceBuffer.allocate(pack, bytes.length + 20L)) {
      for (ByteBuffer source :
          new ByteBuffer[] {ByteBuffer.wrap(bytes), direct, direct.asReadOnlyBuffer()}) {
        buffer.fill(0x5a);
        int position = source.position();
        buffer.copyIn(7, source);
        assertEquals(position, source.position());
        byte[] heap = new byte[bytes.length + 20];
        buffer.copyOut(0, ByteBuffer.wrap(heap));
        assertArrayEquals(bytes, java.util.Arrays.copyOfRange(heap, 7, 7 + bytes.length));
        assertEquals(0x5a, heap[6]);
        assertEquals(0x5a, heap[7 + bytes.length]);
        ByteBuffer back = ByteBuffer.allocateDirect(bytes.length + 1).position(1);
        buffer.copyOut(7, back);
        assertEquals(1, back.position());
        byte[] copy = new byte[bytes.length];
        back.get(copy);
        assertArrayEquals(bytes, copy);
      }
      assertThrows(
          IllegalArgumentException.class,
          () -> buffer.copyOut(0, ByteBuffer.allocate(1).asReadOnlyBuffer()));
      assertThrows(
          IndexOutOfBoundsException.class, () -> buffer.copyIn(21, ByteBuffer.wrap(bytes)));
      assertThrows(
          IndexOutOfBoundsException.class, () -> buffer.copyIn(-1, ByteBuffer.allocate(1)));
      assertThrows(IndexOutOfBoundsException.class, () -> buffer.fill(bytes.length + 20L, 1, 0));
    }
  }

  @Test
  void countsWhatIsAllocated() {
    try (KernelPack pack = open()) {
      assertEquals(0, pack.allocatedBytes());
      DeviceBuffer first = DeviceBuffer.allocate(pack, 1000);
      DeviceBuffer second = DeviceBuffer.allocate(pack, 500);
      assertEquals(1500, pack.allocatedBytes());
      first.close();
      first.close();
      assertEquals(500, pack.allocatedBytes());
      assertEquals(1500, pack.peakAllocatedBytes());
      pack.resetPeak();
      assertEquals(500, pack.peakAllocatedBytes());
      try (DeviceBuffer wrapped = DeviceBuffer.wrap(pack, second.pointer(), 500)) {
        assertEquals(500, pack.allocatedBytes());
        wrapped.fill(1);
      }
      second.fill(2);
      second.close();
      assertEquals(0, pack.allocatedBytes());
      assertThrows(IllegalStateException.class, second::pointer);
      assertThrows(IllegalStateException.class, () -> second.fill(0));
      try (DeviceBuffer empty = DeviceBuffer.allocate(pack, 0)) {
        empty.fill(0);
        empty.copyIn(0, ByteBuffer.allocate(0));
      }
      assertThrows(IllegalArgumentException.class, () -> DeviceBuffer.allocate(pack, -1));
      assertThrows(OutOfDeviceMemoryException.class, () -> DeviceBuffer.allocate(pack, 1L << 55));
      assertEquals(0, pack.allocatedBytes());
    }
  }

  @Test
  void workspaceGrowsAndIsCounted() {
    try (KernelPack pack = open()) {
      DeviceBuffer small = pack.workspace(10);
      assertTrue(small.bytes() >= 10);
      assertEquals(small, pack.workspace(20));
      DeviceBuffer large = pack.workspace(1_000_000);
      assertTrue(large.bytes() >= 1_000_000);
      assertEquals(large.bytes(), pack.allocatedBytes());
      assertEquals(large, pack.workspace(10));
      assertThrows(IllegalStateException.class, small::pointer);
    }
  }

  @Test
  void closedPackRefusesEverything() {
    KernelPack pack = open();
    DeviceBuffer buffer = DeviceBuffer.allocate(pack, 64);
    pack.close();
    pack.close();
    assertThrows(IllegalStateException.class, pack::synchronize);
    assertThrows(IllegalStateException.class, () -> pack.supports("rotary"));
    assertThrows(IllegalStateException.class, buffer::pointer);
    assertThrows(IllegalStateException.class, () -> DeviceBuffer.allocate(pack, 1));
    buffer.close();
  }

  @Test
  void wrapsMemoryOfOthersFromItsPosition() {
    try (KernelPack pack = open();
        PointerScope scope = new PointerScope()) {
      BytePointer memory = new BytePointer(16);
      for (int i = 0; i < 16; i++) {
        memory.put(i, (byte) i);
      }
      try (DeviceBuffer buffer = DeviceBuffer.wrap(pack, memory.position(4), 8)) {
        byte[] bytes = new byte[8];
        buffer.copyOut(0, ByteBuffer.wrap(bytes));
        assertArrayEquals(new byte[] {4, 5, 6, 7, 8, 9, 10, 11}, bytes);
      }
    }
  }

  @Test
  void viewsShareMemory() {
    try (KernelPack pack = open();
        DeviceBuffer buffer = DeviceBuffer.allocate(pack, 4 * 24 + 8)) {
      DeviceTensor x = DeviceTensor.of(buffer, 8, DType.F32, 4, 6);
      float[] values = new float[24];
      for (int i = 0; i < 24; i++) {
        values[i] = i;
      }
      x.copyFrom(values);
      DeviceTensor middle = x.columns(2, 3);
      assertFalse(middle.isContiguous());
      assertEquals(6, middle.rowStride());
      assertArrayEquals(new float[] {2, 3, 4, 8, 9, 10, 14, 15, 16, 20, 21, 22}, middle.toFloats());
      assertArrayEquals(new float[] {14, 15, 16}, middle.rows(2, 1).toFloats());
      assertArrayEquals(new float[] {}, middle.rows(4, 0).toFloats());
      middle.rows(1, 2).zero();
      assertArrayEquals(new float[] {6, 7, 0, 0, 0, 11}, x.rows(1, 1).toFloats());
      DeviceTensor cube = x.reshape(2, 2, 6);
      assertArrayEquals(
          new float[] {12, 13, 0, 0, 0, 17, 18, 19, 20, 21, 22, 23}, cube.rows(1, 1).toFloats());
      // The rows of a vector are its elements.
      assertArrayEquals(new float[] {3, 4, 5}, x.reshape(24).rows(3, 3).toFloats());
      assertArrayEquals(new float[] {3, 4, 5}, x.reshape(24).columns(3, 3).toFloats());
      assertArrayEquals(new long[] {2, 2, 3}, middle.reshape(2, 2, 3).shape());
      DeviceTensor other = DeviceTensor.strided(buffer, 8, DType.F32, 4, 3, 6);
      other.copyFrom(middle);
      assertArrayEquals(new float[] {2, 3, 4}, x.columns(0, 3).rows(0, 1).toFloats());
      assertThrows(IllegalArgumentException.class, () -> middle.reshape(12));
      assertThrows(IllegalArgumentException.class, () -> x.reshape(5, 5));
      assertThrows(IllegalArgumentException.class, () -> x.reshape(-4, -6));
      assertThrows(IndexOutOfBoundsException.class, () -> x.rows(3, 2));
      assertThrows(IndexOutOfBoundsException.class, () -> x.columns(-1, 2));
      assertThrows(
          IndexOutOfBoundsException.class, () -> DeviceTensor.of(buffer, 12, DType.F32, 24));
      assertThrows(IllegalArgumentException.class, () -> DeviceTensor.of(buffer, 2, DType.F32, 1));
      assertThrows(IllegalArgumentException.class, () -> x.copyFrom(new float[23]));
      assertThrows(IllegalArgumentException.class, () -> x.copyFrom(new int[24]));
      assertThrows(IllegalArgumentException.class, x::toInts);
    }
  }

  @Test
  void convertsEveryType() {
    float[] values = {0, -0f, 1, -1.5f, 65504, 1e-7f, Float.NaN, Float.NEGATIVE_INFINITY, 3.14159f};
    try (KernelPack pack = open();
        DeviceBuffer buffer = DeviceBuffer.allocate(pack, 64)) {
      for (DType type : new DType[] {DType.F32, DType.BF16, DType.F16}) {
        DeviceTensor tensor = DeviceTensor.of(buffer, 0, type, values.length);
        tensor.copyFrom(values);
        float[] back = tensor.toFloats();
        for (int i = 0; i < values.length; i++) {
          float expected =
              switch (type) {
                case BF16 -> FloatBits.roundToBf16(values[i]);
                case F16 -> FloatBits.fromF16(FloatBits.toF16(values[i]));
                default -> values[i];
              };
          assertEquals(expected, back[i], type + " " + values[i]);
        }
      }
      DeviceTensor integers = DeviceTensor.of(buffer, 0, DType.I32, 3);
      integers.copyFrom(new int[] {1, -2, Integer.MIN_VALUE});
      assertArrayEquals(new int[] {1, -2, Integer.MIN_VALUE}, integers.toInts());
      assertArrayEquals(new byte[] {1, 0, 0, 0, -2, -1, -1, -1, 0, 0, 0, -128}, integers.toBytes());
    }
  }

  /**
   * A call allocates nothing native: neither what JavaCPP tracks nor what only the process sees.
   */
  @Test
  void callsDoNotLeak() {
    try (KernelPack pack = open();
        DeviceBuffer buffer = DeviceBuffer.allocate(pack, 4096)) {
      DeviceTensor x = DeviceTensor.of(buffer, 0, DType.F32, 1, 16);
      DeviceTensor weight = DeviceTensor.of(buffer, 64, DType.F32, 16);
      DeviceTensor y = DeviceTensor.of(buffer, 128, DType.F32, 1, 16);
      x.copyFrom(new float[16]);
      weight.copyFrom(new float[16]);
      RmsNorm.forward(pack, x, null, weight, 1e-5f, false, null, y, null);
      long count = Pointer.totalCount();
      long bytes = Pointer.totalBytes();
      long allocated = pack.allocatedBytes();
      long physical = Pointer.physicalBytes();
      for (int i = 0; i < 200_000; i++) {
        RmsNorm.forward(pack, x, null, weight, 1e-5f, false, null, y, null);
      }
      assertEquals(count, Pointer.totalCount());
      assertEquals(bytes, Pointer.totalBytes());
      assertEquals(allocated, pack.allocatedBytes());
      // 200,000 calls that lost a struct of 100 bytes each would show as 20 MB; the Java heap's
      // young generation may still be growing,
      // so this only guards against losses of a kilobyte per call.
      assertTrue(Pointer.physicalBytes() - physical < 200_000L * 1024, "the process grew");
    }
  }

  /** What a closed scope around the opening frees must not be what the pack lives on. */
  @Test
  void packOutlivesThePointerScopeItWasOpenedIn() {
    KernelPack pack;
    try (PointerScope scope = new PointerScope()) {
      pack = open();
    }
    try (pack;
        DeviceBuffer buffer = DeviceBuffer.allocate(pack, 64)) {
      buffer.fill(3);
      pack.synchronize();
      assertTrue(pack.supports("rotary"));
    }
  }

  @Test
  void halfConversionsAreExactBothWays() {
    for (int bits = 0; bits < 65536; bits++) {
      float value = FloatBits.fromF16((short) bits);
      short back = FloatBits.toF16(value);
      if (Float.isNaN(value)) {
        assertTrue(Float.isNaN(FloatBits.fromF16(back)));
      } else {
        assertEquals((short) bits, back, "F16 " + Integer.toHexString(bits));
      }
      float wide = FloatBits.fromBf16((short) bits);
      if (Float.isNaN(wide)) {
        assertTrue(Float.isNaN(FloatBits.fromBf16(FloatBits.toBf16(wide))));
      } else {
        assertEquals((short) bits, FloatBits.toBf16(wide), "BF16 " + Integer.toHexString(bits));
      }
    }
  }

  /**
   * Midpoints between neighbours go to the even one, and what is just beside a midpoint to the
   * nearer one.
   */
  @Test
  void halfConversionsRoundToNearestEven() {
    for (int bits = 0; bits < 0x7bff; bits++) {
      checkMidpoint(
          FloatBits.fromF16((short) bits), FloatBits.fromF16((short) (bits + 1)), bits, true);
    }
    for (int bits = 0; bits < 0x7f7f; bits++) {
      checkMidpoint(
          FloatBits.fromBf16((short) bits), FloatBits.fromBf16((short) (bits + 1)), bits, false);
    }
    assertEquals((short) 0x7c00, FloatBits.toF16(65520));
    assertEquals((short) 0x7bff, FloatBits.toF16(Math.nextDown(65520f)));
    assertEquals((short) 0x7f80, FloatBits.toBf16(Float.MAX_VALUE));
  }

  private static void checkMidpoint(float low, float high, int bits, boolean half) {
    float middle = (float) (((double) low + (double) high) / 2);
    int even = bits % 2 == 0 ? bits : bits + 1;
    for (int sign = 0; sign <= 1; sign++) {
      float s = sign == 0 ? 1 : -1;
      int flag = sign << 15;
      assertEquals((short) (even | flag), to(s * middle, half));
      assertEquals((short) (bits | flag), to(s * Math.nextDown(middle), half));
      assertEquals((short) ((bits + 1) | flag), to(s * Math.nextUp(middle), half));
    }
  }

  private static short to(float value, boolean half) {
    return half ? FloatBits.toF16(value) : FloatBits.toBf16(value);
  }
}

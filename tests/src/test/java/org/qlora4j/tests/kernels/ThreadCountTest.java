// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tests.kernels;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;

import java.util.List;
import java.util.stream.Stream;
import org.junit.jupiter.api.DynamicTest;
import org.junit.jupiter.api.TestFactory;
import org.qlora4j.kernels.DType;
import org.qlora4j.kernels.DeviceTensor;
import org.qlora4j.kernels.Dropout;
import org.qlora4j.kernels.GradientNorm;
import org.qlora4j.kernels.KernelPack;
import org.qlora4j.kernels.Linear;
import org.qlora4j.kernels.Lora;
import org.qlora4j.kernels.LoraCompute;
import org.qlora4j.kernels.LoraTerm;
import org.qlora4j.kernels.PackOptions;
import org.qlora4j.kernels.RmsNorm;
import org.qlora4j.tests.support.DeviceMemory;
import org.qlora4j.tests.support.Packs;
import org.qlora4j.tests.support.Randoms;

/**
 * Sums over rows are the same bits for any number of threads, so that a run can be repeated on
 * another machine.
 */
class ThreadCountTest {
  private static final long SEED = 4201;
  private static final int M = 333;
  private static final int N = 70;
  private static final int K = 130;
  private static final int RANK = 8;

  private record Sums(
      float[] da, float[] db, float[] dw, float[] dbias, float[] dweight, double norm) {}

  @TestFactory
  Stream<DynamicTest> everyPack() {
    return Packs.names(false).stream()
        .filter(name -> name.startsWith("cpu-"))
        .map(name -> DynamicTest.dynamicTest(name, () -> check(name)));
  }

  private static void check(String name) {
    Packs.open(name);
    Sums one = sums(name, 1);
    for (int threads : new int[] {2, 3, 7}) {
      Sums many = sums(name, threads);
      String context = name + " with " + threads + " threads and one, ";
      assertArrayEquals(one.da(), many.da(), context + "da");
      assertArrayEquals(one.db(), many.db(), context + "db");
      assertArrayEquals(one.dw(), many.dw(), context + "dw");
      assertArrayEquals(one.dbias(), many.dbias(), context + "dbias");
      assertArrayEquals(one.dweight(), many.dweight(), context + "dweight");
      assertEquals(one.norm(), many.norm(), context + "norm");
    }
  }

  private static Sums sums(String name, int threads) {
    try (KernelPack pack =
            KernelPack.open(PackOptions.defaults().withPack(name).withThreads(threads));
        DeviceMemory memory = new DeviceMemory(pack)) {
      assertEquals(threads, pack.threads());
      Randoms random = new Randoms(SEED);
      DeviceTensor x = memory.of(DType.F32, random.normal((long) M * K, 1), M, K);
      DeviceTensor dy = memory.of(DType.F32, random.normal((long) M * N, 1), M, N);
      DeviceTensor xa = memory.of(DType.F32, random.normal((long) M * RANK, 1), M, RANK);
      DeviceTensor dyb = memory.of(DType.F32, random.normal((long) M * RANK, 1), M, RANK);
      LoraTerm term =
          new LoraTerm(
              RANK,
              2,
              LoraCompute.F32,
              memory.of(DType.F32, random.normal((long) RANK * K, 1), RANK, K),
              memory.of(DType.F32, random.normal((long) N * RANK, 1), N, RANK),
              new Dropout(0.1f, 5, 1, 0, 2, 0));
      DeviceTensor da = memory.zeros(DType.F32, RANK, K);
      DeviceTensor db = memory.zeros(DType.F32, N, RANK);
      DeviceTensor dw = memory.zeros(DType.F32, N, K);
      DeviceTensor dbias = memory.zeros(DType.F32, N);
      Lora.weightGradient(pack, term, x, dy, xa, dyb, da, db);
      Linear.weightGradient(pack, x, dy, dw, dbias);
      DeviceTensor dweight = memory.zeros(DType.F32, K);
      RmsNorm.backward(
          pack,
          x,
          memory.of(DType.F32, random.uniform(K, 0.5, 1.5), K),
          false,
          memory.of(DType.F32, random.uniform(M, 0.5, 1.5), M),
          memory.of(DType.F32, random.normal((long) M * K, 1), M, K),
          null,
          memory.empty(DType.F32, M, K),
          dweight);
      double norm = GradientNorm.compute(pack, List.of(x, dy, da, db, dw));
      return new Sums(
          da.toFloats(), db.toFloats(), dw.toFloats(), dbias.toFloats(), dweight.toFloats(), norm);
    }
  }
}

// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tests.kernels;

import java.util.List;
import java.util.stream.Stream;
import org.junit.jupiter.api.DynamicContainer;
import org.junit.jupiter.api.DynamicNode;
import org.junit.jupiter.api.DynamicTest;
import org.junit.jupiter.api.TestFactory;
import org.qlora4j.kernels.Attention;
import org.qlora4j.kernels.DType;
import org.qlora4j.kernels.DeviceTensor;
import org.qlora4j.kernels.KernelPack;
import org.qlora4j.tensor.TorchAttention;
import org.qlora4j.tests.support.Comparison;
import org.qlora4j.tests.support.DeviceMemory;
import org.qlora4j.tests.support.Packs;
import org.qlora4j.tests.support.Tolerance;

/**
 * libtorch's attention, which stands in for packs without one, against the reference pack's: the
 * cases of {@link AttentionParityTest}, forward and backward, in the memory of the CPU and of a GPU
 * where there is one.
 */
class TorchAttentionTest {

  @TestFactory
  Stream<DynamicNode> everyDevice() {
    return Stream.of(Packs.REFERENCE, "cuda")
        .map(
            name ->
                Packs.opens(name)
                    ? DynamicContainer.dynamicContainer(name, tests(Packs.open(name)))
                    : DynamicTest.dynamicTest(name, () -> Packs.open(name)));
  }

  private static Stream<DynamicTest> tests(KernelPack pack) {
    return AttentionSetup.all().stream()
        .map(setup -> DynamicTest.dynamicTest(setup.title(), () -> check(pack, setup)));
  }

  private static void check(KernelPack pack, AttentionSetup setup) {
    Packs.requireLibtorch(pack);
    List<float[]> expected;
    try (DeviceMemory memory = new DeviceMemory(Packs.reference())) {
      expected = byPack(setup, memory);
    }
    List<float[]> actual;
    try (DeviceMemory memory = new DeviceMemory(pack)) {
      actual = byLibtorch(setup, memory);
      memory.checkGuards();
    }
    Tolerance gradient = setup.tolerance(2);
    if (setup.type() == DType.BF16) {
      // The gradients of query heads that share a key head may be rounded before they are added.
      gradient = gradient.plus(Tolerance.intermediate(DType.BF16));
    }
    // The gradient of a score is p (dp - d): dp and d are sums of headDim products of their own, and
    // of one key alone they are equal but for their roundoff.
    Tolerance score = gradient.plus(Tolerance.sum(setup.shape().headDim())).ofTerms(1);
    List<Tolerance> tolerances = List.of(setup.tolerance(1), score, score, gradient);
    List<String> names = List.of("out", "dq", "dk", "dv");
    for (int i = 0; i < names.size(); i++) {
      Comparison.of(names.get(i), expected.get(i), actual.get(i), tolerances.get(i), 1)
          .orFail("libtorch on " + pack.name() + ", " + setup.title());
    }
  }

  private static List<float[]> byPack(AttentionSetup setup, DeviceMemory memory) {
    AttentionSetup.Tensors t = new AttentionSetup.Tensors(setup, memory);
    DeviceTensor dout = t.dout();
    DeviceTensor dq = t.queries();
    DeviceTensor dk = t.keys();
    DeviceTensor dv = t.keys();
    Attention.forward(
        memory.pack(),
        setup.shape(),
        setup.cuQ(),
        setup.cuK(),
        t.q,
        t.k,
        t.v,
        t.heads(t.out),
        t.lse);
    Attention.backward(
        memory.pack(),
        setup.shape(),
        setup.cuQ(),
        setup.cuK(),
        t.q,
        t.k,
        t.v,
        t.heads(t.out),
        t.lse,
        t.heads(dout),
        t.heads(dq),
        t.heads(dk),
        t.heads(dv));
    return List.of(t.out.toFloats(), dq.toFloats(), dk.toFloats(), dv.toFloats());
  }

  private static List<float[]> byLibtorch(AttentionSetup setup, DeviceMemory memory) {
    AttentionSetup.Tensors t = new AttentionSetup.Tensors(setup, memory);
    DeviceTensor dout = t.dout();
    DeviceTensor dq = t.queries();
    DeviceTensor dk = t.keys();
    DeviceTensor dv = t.keys();
    TorchAttention.forward(setup.shape(), setup.cuQ(), setup.cuK(), t.q, t.k, t.v, t.heads(t.out));
    TorchAttention.backward(
        setup.shape(),
        setup.cuQ(),
        setup.cuK(),
        t.q,
        t.k,
        t.v,
        t.heads(dout),
        t.heads(dq),
        t.heads(dk),
        t.heads(dv));
    return List.of(t.out.toFloats(), dq.toFloats(), dk.toFloats(), dv.toFloats());
  }
}

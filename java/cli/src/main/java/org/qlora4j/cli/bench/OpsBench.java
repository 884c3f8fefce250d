// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.cli.bench;

import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.function.Consumer;
import org.bytedeco.javacpp.PointerScope;
import org.bytedeco.pytorch.global.torch;
import org.jspecify.annotations.Nullable;
import org.qlora4j.common.Progress;
import org.qlora4j.kernels.DType;
import org.qlora4j.kernels.DeviceTensor;
import org.qlora4j.kernels.KernelPack;
import org.qlora4j.kernels.Limit;
import org.qlora4j.tensor.TensorArena;
import org.qlora4j.tensor.TorchBridge;

/**
 * The operators between the products, beside libtorch. Each is first compared with the reference
 * pack on a small shape that is no multiple of anything; then it is timed over several sets of
 * operands, so that they come out of memory.
 */
public final class OpsBench {
  private static final double ROW_SECONDS = 15;
  private static final int MAXIMUM_SETS = 8;

  /** No multiple of a vector or a tile, but a head must be one of 8 and is 64 wide. */
  private static final OperatorCalls.Size SMALL = new OperatorCalls.Size(13, 331, 1003, 3, 64, 77);

  /**
   * What to measure.
   *
   * @param operators names of {@link #names}
   * @param rows of the activations
   * @param columns of the activations
   * @param vocabulary columns of the logits
   * @param tokens of each attention
   */
  public record Options(
      List<String> operators, long rows, long columns, long vocabulary, List<Integer> tokens) {}

  private final Setting setting;
  private final KernelPack pack;
  private final Options options;

  public OpsBench(Setting setting, Options options) {
    this.setting = setting;
    this.pack = setting.pack();
    this.options = options;
  }

  /** Operators that can be measured. */
  public static List<String> names() {
    return List.copyOf(OperatorCalls.all().keySet());
  }

  /** Measures everything; see {@link LinearBench#run}. */
  public void run(Consumer<Row> rows, Consumer<String> notes, Progress progress) {
    progress.start("bench ops", options.operators().size());
    Map<String, List<OperatorCalls.Maker>> all = OperatorCalls.all();
    long done = 0;
    for (String name : options.operators()) {
      progress.update(done++, name);
      List<Integer> tokens = name.equals("attention") ? options.tokens() : List.of(0);
      for (OperatorCalls.Maker maker : all.getOrDefault(name, List.of())) {
        for (int t : tokens) {
          try {
            rows.accept(measure(name, maker, t));
          } catch (UnsupportedOperationException e) {
            notes.accept(setting.notSupported(name, e));
          }
        }
      }
    }
    progress.update(done, "done");
    progress.finish();
  }

  private Row measure(String name, OperatorCalls.Maker maker, int tokens) {
    String error = check(maker);
    OperatorCalls.Size size =
        new OperatorCalls.Size(
            options.rows(), options.columns(), options.vocabulary(), 32, 64, tokens);
    try (TensorArena arena = new TensorArena(pack);
        PointerScope scope = new PointerScope()) {
      OperatorCalls with = new OperatorCalls(pack, arena, setting.compute());
      List<OperatorCall> sets = new ArrayList<>();
      sets.add(maker.make(with, size));
      OperatorCall first = sets.get(0);
      if (error != null) {
        return row(name, first, Double.NaN, Double.NaN, Double.NaN, Double.NaN, error);
      }
      while (sets.size() < MAXIMUM_SETS
          && sets.size() * first.bytes() < setting.machine().outOfCacheBytes()) {
        sets.add(maker.make(with, size));
      }
      Limit limit = setting.compute() == DType.BF16 ? Limit.BF16 : Limit.F32;
      List<PairedTimer.Call> calls = new ArrayList<>();
      calls.add(i -> sets.get(i % sets.size()).ours().run());
      if (first.rival() != null) {
        calls.add(i -> rival(sets.get(i % sets.size())));
      }
      PairedTimer.Times times = PairedTimer.measure(calls, setting.repetitions(), ROW_SECONDS);
      double seconds = times.seconds()[0];
      return row(
          name,
          first,
          seconds,
          setting.limits().share(limit, first.operations(), first.bytes(), seconds),
          first.rival() == null ? Double.NaN : times.seconds()[1],
          first.rival() == null ? Double.NaN : times.ratios()[1],
          null);
    }
  }

  private static void rival(OperatorCall call) {
    Runnable rival = call.rival();
    if (rival != null) {
      rival.run();
    }
  }

  private Row row(
      String name,
      OperatorCall call,
      double seconds,
      double share,
      double rivalSeconds,
      double ratio,
      @Nullable String error) {
    return new Row(
        name,
        call.direction(),
        call.m(),
        call.n(),
        call.k(),
        0,
        pack.name(),
        seconds,
        call.operations(),
        call.bytes(),
        share,
        error == null ? call.rivalName() : null,
        rivalSeconds,
        ratio,
        error);
  }

  /** Both packs on the same small operands; null where every result agrees. */
  private @Nullable String check(OperatorCalls.Maker maker) {
    try (TensorArena ourArena = new TensorArena(pack);
        TensorArena itsArena = new TensorArena(setting.reference());
        PointerScope scope = new PointerScope()) {
      torch.manual_seed(1);
      OperatorCall ours = maker.make(new OperatorCalls(pack, ourArena, setting.compute()), SMALL);
      torch.manual_seed(1);
      OperatorCall its =
          maker.make(new OperatorCalls(setting.reference(), itsArena, setting.compute()), SMALL);
      ours.ours().run();
      its.ours().run();
      for (int i = 0; i < ours.results().size(); i++) {
        DeviceTensor found = ours.results().get(i);
        DeviceTensor expected = its.results().get(i);
        String error =
            Agreement.check(
                "result " + (i + 1) + " of " + ours.results().size(),
                TorchBridge.view(found),
                TorchBridge.view(expected),
                ours.relative(),
                ours.absolute());
        if (error != null) {
          return error;
        }
      }
      return null;
    }
  }
}

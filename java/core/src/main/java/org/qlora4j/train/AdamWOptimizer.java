// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.train;

import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.function.Predicate;
import java.util.function.ToDoubleFunction;
import org.jspecify.annotations.Nullable;
import org.qlora4j.checkpoint.SafetensorsFile;
import org.qlora4j.checkpoint.SafetensorsWriter;
import org.qlora4j.kernels.AdamW;
import org.qlora4j.kernels.DeviceTensor;
import org.qlora4j.kernels.GradientNorm;
import org.qlora4j.kernels.KernelPack;
import org.qlora4j.kernels.MomentPages.Format;
import org.qlora4j.model.Parameter;
import org.qlora4j.model.ParameterSet;

/**
 * AdamW with decoupled weight decay over all parameters of a set, in PyTorch's order of operations,
 * with the gradients' global norm clipped first: scale = min(1, maxNorm / (norm + 1e-6)).
 *
 * <p>The moments are in 32 or 8 bits, in the memory of the device or paged. Where they are makes no
 * difference to any bit of the result.
 */
public final class AdamWOptimizer implements AutoCloseable {

  /** As in bitsandbytes, tensors of fewer elements keep their moments in 32 bits. */
  public static final long SMALLEST_8BIT = 4096;

  /** Bytes on the host at a time, while a checkpoint is written or read. */
  private static final int CHUNK_BYTES = 4 << 20;

  /** Settings; weight decay applies to every trained tensor. */
  public record Settings(
      double beta1, double beta2, double epsilon, double weightDecay, double maxGradNorm) {}

  /**
   * Where the moments are.
   *
   * @param eightBit in 8 bits, but those of tensors below {@link #SMALLEST_8BIT} elements, which
   *     are resident and in 32
   * @param paging null for all in the memory of the device
   */
  public record States(boolean eightBit, @Nullable Paging paging) {
    /** In 32 bits, in the memory of the device. */
    public static final States PLAIN = new States(false, null);
  }

  /**
   * How moments are paged.
   *
   * @param budget what of the paged moments is in the memory of the device; two pages at least
   * @param directory where a CPU pack makes its file, which has no name and ends with the process
   */
  public record Paging(MemoryBudget budget, Path directory) {}

  private final KernelPack pack;
  private final Settings settings;
  private final ToDoubleFunction<Parameter> rateFactors;
  private final boolean paged;
  private final List<DeviceTensor> gradients;
  private final List<MomentStates> states = new ArrayList<>();
  private long steps = 0;

  /** With moments in 32 bits, in the memory of the device. */
  public AdamWOptimizer(KernelPack pack, ParameterSet parameters, Settings settings) {
    this(pack, parameters, settings, States.PLAIN);
  }

  /** With one learning rate for all parameters. */
  public AdamWOptimizer(KernelPack pack, ParameterSet parameters, Settings settings, States where) {
    this(pack, parameters, settings, where, parameter -> 1);
  }

  /**
   * @param rateFactors what a parameter's learning rate is a multiple of
   * @throws org.qlora4j.common.InputException when there is no room for the pages
   * @throws UnsupportedOperationException when the pack lacks what {@code where} needs
   */
  public AdamWOptimizer(
      KernelPack pack,
      ParameterSet parameters,
      Settings settings,
      States where,
      ToDoubleFunction<Parameter> rateFactors) {
    this.pack = pack;
    this.settings = settings;
    this.rateFactors = rateFactors;
    this.paged = where.paging() != null;
    this.gradients = parameters.parameters().stream().map(Parameter::gradient).toList();
    if (where.eightBit() && !pack.supports("adamw_8bit")) {
      throw new UnsupportedOperationException(
          pack.name() + " leaves out adamw_8bit; use optim: adamw");
    }
    try {
      if (where.eightBit()) {
        Predicate<Parameter> small = p -> p.value().elements() < SMALLEST_8BIT;
        add(chosen(parameters, small.negate()), Format.BLOCKWISE_8BIT, where.paging());
        add(chosen(parameters, small), Format.F32, null);
      } else {
        add(chosen(parameters, p -> true), Format.F32, where.paging());
      }
    } catch (RuntimeException e) {
      close();
      throw e;
    }
  }

  private static List<Parameter> chosen(ParameterSet parameters, Predicate<Parameter> which) {
    return parameters.parameters().stream()
        .filter(p -> p.value().elements() > 0)
        .filter(which)
        .toList();
  }

  private void add(List<Parameter> parameters, Format format, @Nullable Paging paging) {
    if (parameters.isEmpty()) {
      return;
    }
    float decay = (float) settings.weightDecay();
    states.add(
        paging == null
            ? MomentStates.resident(pack, parameters, decay, rateFactors, format)
            : MomentStates.paged(pack, parameters, decay, rateFactors, format, paging));
  }

  /**
   * Clips and applies the gradients; returns their norm before clipping. A norm that is not finite
   * changes nothing.
   */
  public double step(double learningRate) {
    double norm = GradientNorm.compute(pack, gradients);
    if (!Double.isFinite(norm)) {
      return norm;
    }
    double scale =
        settings.maxGradNorm() > 0 ? Math.min(1, settings.maxGradNorm() / (norm + 1e-6)) : 1;
    steps++;
    AdamW.Options options =
        new AdamW.Options(learningRate, settings.beta1(), settings.beta2(), settings.epsilon());
    for (MomentStates part : states) {
      part.step(options, steps, (float) scale);
    }
    return norm;
  }

  /** Steps taken. */
  public long steps() {
    return steps;
  }

  /**
   * Writes the moments of all parameters. Moments of the same precision give the same file, paged
   * or not.
   */
  public void write(Path file) {
    ByteBuffer host = hostBuffer();
    try (SafetensorsWriter writer = SafetensorsWriter.create(file)) {
      states.forEach(part -> part.declare(writer));
      states.forEach(part -> part.write(writer, host));
      writer.commit();
    }
  }

  /**
   * Restores what {@link #write} wrote after {@code steps} steps, with any paging but the same
   * precision.
   *
   * @throws org.qlora4j.common.InputException when the file does not fit
   */
  public void read(Path file, long steps) {
    ByteBuffer host = hostBuffer();
    try (SafetensorsFile source = SafetensorsFile.open(file)) {
      states.forEach(part -> part.read(source, host));
    }
    this.steps = steps;
  }

  private static ByteBuffer hostBuffer() {
    return ByteBuffer.allocateDirect(CHUNK_BYTES).order(ByteOrder.LITTLE_ENDIAN);
  }

  /** What the moments take, and how pages moved so far. */
  public OptimizerMemory memory() {
    long total = 0;
    PagedMemory held = PagedMemory.NONE;
    for (MomentStates part : states) {
      total += part.bytes();
      held = held.plus(part.memory().held());
    }
    return new OptimizerMemory(total, paged, held);
  }

  /** Bytes of the moments in the memory of the device. */
  public long stateBytes() {
    return memory().held().residentBytes();
  }

  @Override
  public void close() {
    states.forEach(MomentStates::close);
  }
}

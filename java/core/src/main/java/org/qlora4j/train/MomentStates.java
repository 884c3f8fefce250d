// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.train;

import java.nio.ByteBuffer;
import java.util.Arrays;
import java.util.List;
import java.util.function.ToDoubleFunction;
import org.qlora4j.checkpoint.SafetensorsFile;
import org.qlora4j.checkpoint.SafetensorsWriter;
import org.qlora4j.checkpoint.StoredType;
import org.qlora4j.checkpoint.TensorSource;
import org.qlora4j.common.InputException;
import org.qlora4j.kernels.AdamW;
import org.qlora4j.kernels.DeviceTensor;
import org.qlora4j.kernels.KernelPack;
import org.qlora4j.kernels.MomentPages;
import org.qlora4j.kernels.MomentPages.Format;
import org.qlora4j.kernels.MomentPages.Part;
import org.qlora4j.kernels.MomentPages.Slice;
import org.qlora4j.model.Parameter;

/**
 * AdamW's moments of some parameters in one format, resident or paged, and their way to and from a
 * checkpoint, where they are whole tensors: neither pages nor budgets show in it.
 */
final class MomentStates implements AutoCloseable {

  /** Larger pages gain nothing on a bus or a disk. */
  private static final long LARGEST_PAGE = 16 << 20;

  /** Pages in the budget, where it is small: fetching ahead needs some. */
  private static final long PAGES_IN_BUDGET = 8;

  private final KernelPack pack;
  private final List<Parameter> parameters;
  private final List<DeviceTensor> values;
  private final List<DeviceTensor> gradients;
  private final float[] weightDecays;
  private final double[] rateFactors;
  private final MomentPages layout;
  private final StateMemory memory;

  private MomentStates(
      KernelPack pack,
      List<Parameter> parameters,
      float weightDecay,
      ToDoubleFunction<Parameter> rateFactors,
      MomentPages layout,
      StateMemory memory) {
    this.pack = pack;
    this.parameters = List.copyOf(parameters);
    this.values = parameters.stream().map(Parameter::value).toList();
    this.gradients = parameters.stream().map(Parameter::gradient).toList();
    this.weightDecays = new float[parameters.size()];
    Arrays.fill(weightDecays, weightDecay);
    this.rateFactors = parameters.stream().mapToDouble(rateFactors).toArray();
    this.layout = layout;
    this.memory = memory;
  }

  /** All states in the memory of the device. */
  static MomentStates resident(
      KernelPack pack,
      List<Parameter> parameters,
      float weightDecay,
      ToDoubleFunction<Parameter> rateFactors,
      Format format) {
    long[] lengths = lengths(parameters);
    MomentPages layout =
        new MomentPages(format, Math.max(MomentPages.ALIGNMENT, aligned(lengths)), lengths);
    StateMemory memory = new ResidentStates(pack, layout.pageBytes());
    return new MomentStates(pack, parameters, weightDecay, rateFactors, layout, memory);
  }

  /** A budget of the states in the memory of the device. */
  static MomentStates paged(
      KernelPack pack,
      List<Parameter> parameters,
      float weightDecay,
      ToDoubleFunction<Parameter> rateFactors,
      Format format,
      AdamWOptimizer.Paging paging) {
    long[] lengths = lengths(parameters);
    long elements = aligned(lengths);
    long total = format.pageBytes(elements);
    long budget = paging.budget().of(total);
    double elementsPerByte = (double) elements / total;
    long perPage =
        (long) (Math.min(LARGEST_PAGE, budget / PAGES_IN_BUDGET) * elementsPerByte)
            / MomentPages.ALIGNMENT
            * MomentPages.ALIGNMENT;
    MomentPages layout = new MomentPages(format, Math.max(MomentPages.ALIGNMENT, perPage), lengths);
    // The last page may have room to spare, for which a budget of everything must not fall short.
    long resident = budget == total ? layout.count() * layout.pageBytes() : budget;
    StateMemory memory = new PagedStates(pack, layout, resident, paging.directory());
    return new MomentStates(pack, parameters, weightDecay, rateFactors, layout, memory);
  }

  private static long[] lengths(List<Parameter> parameters) {
    return parameters.stream().mapToLong(p -> p.value().elements()).toArray();
  }

  private static long aligned(long[] lengths) {
    return MomentPages.alignedElements(lengths);
  }

  /** One step of all parameters. */
  void step(AdamW.Options options, long t, float gradientScale) {
    memory.update(
        (page, bytes) ->
            layout.step(
                pack,
                page,
                bytes,
                values,
                gradients,
                weightDecays,
                rateFactors,
                options,
                t,
                gradientScale));
  }

  /** Bytes of the states themselves, without what alignment adds. */
  long bytes() {
    long bytes = 0;
    for (DeviceTensor value : values) {
      for (Part part : layout.format().parts()) {
        bytes += part.bytes(value.elements());
      }
    }
    return bytes;
  }

  StateMemory memory() {
    return memory;
  }

  // ---------------------------------------------------------------- checkpoints

  /** Declares the tensors that {@link #write} writes. */
  void declare(SafetensorsWriter writer) {
    for (Parameter parameter : parameters) {
      long[] shape = parameter.value().shape();
      for (Part part : layout.format().parts()) {
        writer.declare(
            name(part, parameter),
            StoredType.of(part.dtype()),
            part.elementsPerValue() == 1
                ? shape
                : new long[] {part.values(parameter.value().elements())});
      }
    }
  }

  /** Writes all tensors through {@code host}. */
  void write(SafetensorsWriter writer, ByteBuffer host) {
    pieces(
        host,
        (parameter, part, page, offset, first) -> {
          memory.read(page, offset, host);
          writer.write(name(part, parameter), host);
        });
  }

  /**
   * Restores all tensors through {@code host}.
   *
   * @throws InputException when one is missing or of another size or type
   */
  void read(SafetensorsFile file, ByteBuffer host) {
    for (Parameter parameter : parameters) {
      for (Part part : layout.format().parts()) {
        TensorSource source = file.tensor(name(part, parameter));
        long expected = part.values(parameter.value().elements());
        if (source.elements() != expected || source.storedType() != StoredType.of(part.dtype())) {
          throw new InputException(
              file.file()
                  + ": tensor "
                  + name(part, parameter)
                  + ": expected "
                  + expected
                  + " elements of "
                  + part.dtype()
                  + ", found "
                  + source.elements()
                  + " of "
                  + source.storedType());
        }
      }
    }
    pieces(
        host,
        (parameter, part, page, offset, first) -> {
          file.tensor(name(part, parameter)).read(first, host);
          memory.write(page, offset, host.flip());
        });
  }

  /** What is done to bytes of a tensor that lie together in a page; they fill the host buffer. */
  private interface Piece {
    void copy(Parameter parameter, Part part, int page, long offset, long first);
  }

  /** Walks over all bytes, page by page; those of one tensor come in order. */
  private void pieces(ByteBuffer host, Piece piece) {
    for (int page = 0; page < layout.count(); page++) {
      for (Slice slice : layout.slices(page)) {
        for (Part part : layout.format().parts()) {
          long bytes = part.bytes(slice.count());
          for (long done = 0; done < bytes; done += host.capacity()) {
            host.clear().limit((int) Math.min(host.capacity(), bytes - done));
            piece.copy(
                parameters.get(slice.parameter()),
                part,
                page,
                layout.offset(part, slice) + done,
                part.bytes(slice.first()) + done);
          }
        }
      }
    }
  }

  /** PyTorch's names for moments in 32 bits, bitsandbytes' for those in 8. */
  private static String name(Part part, Parameter parameter) {
    String prefix =
        switch (part) {
          case FIRST -> "exp_avg.";
          case SECOND -> "exp_avg_sq.";
          case FIRST_CODES -> "state1.";
          case SECOND_CODES -> "state2.";
          case FIRST_ABSMAX -> "absmax1.";
          case SECOND_ABSMAX -> "absmax2.";
        };
    return prefix + parameter.name();
  }

  @Override
  public void close() {
    memory.close();
  }
}

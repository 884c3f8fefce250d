// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.kernels;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * Where the two moments of many parameters lie in pages of equal size, such that one {@link #step}
 * per page updates everything that has its moments there. The pages are those of a {@link
 * PagedStore}, or a single one in memory that stays.
 *
 * <p>The parameters, one after the other, are cut into pages of {@link #elementsPerPage} elements;
 * one that does not end with its page goes on in the next. A page holds the parts of its {@link
 * Format} one behind the other:
 *
 * <pre>
 *   page 0   m: [ parameter 0 | parameter 1, start ]   v: [ parameter 0 | parameter 1, start ]
 *   page 1   m: [ parameter 1, rest | parameter 2  ]   v: [ parameter 1, rest | parameter 2  ]
 * </pre>
 *
 * <p>Why so:
 *
 * <ul>
 *   <li>An update of an element needs nothing but its parameter and gradient, which stay where they
 *       are, and its two moments, which are in the same page. So a page is one operator call, one
 *       launch on a GPU, whatever the number of parameters in it, and every page is read and
 *       written once a step. Moments in pages of their own would need two pages at a time.
 *   <li>All pages but the last are full, whatever the parameters' sizes, and have the same size, so
 *       that any page fits any frame. A page of 16 MiB or more keeps a bus busy and a launch small
 *       beside its work.
 *   <li>AdamW is element by element: where a parameter is cut changes no bit of the result.
 *   <li>Slices start at multiples of {@value #ALIGNMENT} elements, in the page and in the
 *       parameter. Accesses stay as wide as they are without pages; and it is the block of 8-bit
 *       moments, so no block is cut.
 * </ul>
 */
public final class MomentPages {
  /** Elements to a multiple of which parameters start in their page and are cut. */
  public static final int ALIGNMENT = 256;

  /** {@link PagedStore.Options#pageBytes} must be a multiple of this. */
  private static final int PAGE_BYTES_ALIGNMENT = 256;

  private final Format format;
  private final long elementsPerPage;
  private final List<List<Slice>> pages = new ArrayList<>();

  /** How the moments are stored. */
  public enum Format {
    /** 8 bytes an element. */
    F32,
    /** Codes with an absmax for every {@link AdamW8Bit#BLOCK_SIZE} elements: 2.03 bytes each. */
    BLOCKWISE_8BIT;

    /** What a page holds, in this order. */
    public List<Part> parts() {
      return switch (this) {
        case F32 -> List.of(Part.FIRST, Part.SECOND);
        case BLOCKWISE_8BIT ->
            List.of(Part.FIRST_CODES, Part.SECOND_CODES, Part.FIRST_ABSMAX, Part.SECOND_ABSMAX);
      };
    }

    /** Size of a page that holds the moments of so many elements. */
    public long pageBytes(long elements) {
      long bytes = parts().stream().mapToLong(part -> part.bytes(elements)).sum();
      return (bytes + PAGE_BYTES_ALIGNMENT - 1) / PAGE_BYTES_ALIGNMENT * PAGE_BYTES_ALIGNMENT;
    }
  }

  /** One of the arrays of a page. */
  public enum Part {
    /** First moments. */
    FIRST(DType.F32, 1),
    /** Second moments. */
    SECOND(DType.F32, 1),
    /** First moments, codes of the signed map. */
    FIRST_CODES(DType.U8, 1),
    /** Second moments, codes of the unsigned map. */
    SECOND_CODES(DType.U8, 1),
    /** The largest first moment of each block. */
    FIRST_ABSMAX(DType.F32, AdamW8Bit.BLOCK_SIZE),
    /** The largest second moment of each block. */
    SECOND_ABSMAX(DType.F32, AdamW8Bit.BLOCK_SIZE);

    private final DType dtype;
    private final int elementsPerValue;

    Part(DType dtype, int elementsPerValue) {
      this.dtype = dtype;
      this.elementsPerValue = elementsPerValue;
    }

    /** Type of the values. */
    public DType dtype() {
      return dtype;
    }

    /** Elements of a parameter for which there is one value. */
    public int elementsPerValue() {
      return elementsPerValue;
    }

    /** Number of values for so many elements. */
    public long values(long elements) {
      return (elements + elementsPerValue - 1) / elementsPerValue;
    }

    /** Bytes for so many elements. */
    public long bytes(long elements) {
      return values(elements) * dtype.bytes();
    }
  }

  /**
   * A part of a parameter whose moments are in one page.
   *
   * @param parameter index in the list of parameters
   * @param first first element of the parameter
   * @param count number of elements
   * @param start element of the page's parts where it begins
   */
  public record Slice(int parameter, long first, long count, long start) {}

  /**
   * Lays parameters out.
   *
   * @param elementsPerPage elements whose two moments a page holds, a multiple of {@value
   *     #ALIGNMENT}
   * @param lengths elements of every parameter
   */
  public MomentPages(Format format, long elementsPerPage, long... lengths) {
    if (elementsPerPage < ALIGNMENT || elementsPerPage % ALIGNMENT != 0) {
      throw new IllegalArgumentException(
          "a page must hold the moments of a multiple of "
              + ALIGNMENT
              + " elements, found "
              + elementsPerPage);
    }
    this.format = format;
    this.elementsPerPage = elementsPerPage;
    List<Slice> page = new ArrayList<>();
    long start = 0;
    for (int parameter = 0; parameter < lengths.length; parameter++) {
      if (lengths[parameter] < 0) {
        throw new IllegalArgumentException(
            "parameter " + parameter + " has " + lengths[parameter] + " elements");
      }
      for (long first = 0; first < lengths[parameter]; ) {
        if (start >= elementsPerPage) {
          pages.add(List.copyOf(page));
          page.clear();
          start = 0;
        }
        long count = Math.min(lengths[parameter] - first, elementsPerPage - start);
        page.add(new Slice(parameter, first, count, start));
        first += count;
        start += (count + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
      }
    }
    if (!page.isEmpty()) {
      pages.add(List.copyOf(page));
    }
  }

  /** Elements that the parameters take with each at a multiple of {@value #ALIGNMENT}. */
  public static long alignedElements(long... lengths) {
    long elements = 0;
    for (long length : lengths) {
      elements += (length + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    }
    return elements;
  }

  /** How the moments are stored. */
  public Format format() {
    return format;
  }

  /** Number of pages; 0 when no parameter has an element. */
  public int count() {
    return pages.size();
  }

  /** Elements whose moments a page holds. */
  public long elementsPerPage() {
    return elementsPerPage;
  }

  /** Size of a page. */
  public long pageBytes() {
    return format.pageBytes(elementsPerPage);
  }

  /** What a page holds, in the order in which it lies there. */
  public List<Slice> slices(int page) {
    return pages.get(page);
  }

  /** The order in which an optimizer step acquires the pages, for {@link PagedStore#plan}. */
  public long[] order() {
    long[] order = new long[pages.size()];
    for (int i = 0; i < order.length; i++) {
      order[i] = i;
    }
    return order;
  }

  /**
   * Byte of a page where a slice's values of a part begin; they are {@link Part#bytes} of the
   * slice's count.
   */
  public long offset(Part part, Slice slice) {
    long offset = 0;
    for (Part before : format.parts()) {
      if (before == part) {
        return offset + part.bytes(slice.start());
      }
      offset += before.bytes(elementsPerPage);
    }
    throw new IllegalArgumentException("pages of " + format + " have no " + part);
  }

  /** A slice's values of a part, in the memory of its page. */
  public DeviceTensor tensor(DeviceBuffer page, Part part, Slice slice) {
    return DeviceTensor.of(page, offset(part, slice), part.dtype(), part.values(slice.count()));
  }

  /** As below, with one learning rate. */
  public void step(
      KernelPack pack,
      int number,
      DeviceBuffer page,
      List<DeviceTensor> parameters,
      List<DeviceTensor> gradients,
      float[] weightDecays,
      AdamW.Options options,
      long t,
      float gradientScale) {
    double[] one = new double[parameters.size()];
    Arrays.fill(one, 1);
    step(pack, number, page, parameters, gradients, weightDecays, one, options, t, gradientScale);
  }

  /**
   * One step for every element with moments in a page: {@link AdamW#step} or {@link
   * AdamW8Bit#step}, once for each learning rate among them. It writes to the page.
   *
   * @param number of the page
   * @param page its memory
   * @param parameters all parameters, F32 and contiguous, with the lengths this was made with
   * @param gradients theirs
   * @param weightDecays theirs
   * @param rateFactors what their learning rates are multiples of
   * @param t number of this step, 1 for the first
   * @param gradientScale factor on every gradient, for example of clipping
   */
  public void step(
      KernelPack pack,
      int number,
      DeviceBuffer page,
      List<DeviceTensor> parameters,
      List<DeviceTensor> gradients,
      float[] weightDecays,
      double[] rateFactors,
      AdamW.Options options,
      long t,
      float gradientScale) {
    Map<Double, List<Slice>> byRate = new LinkedHashMap<>();
    for (Slice slice : slices(number)) {
      byRate.computeIfAbsent(rateFactors[slice.parameter()], f -> new ArrayList<>()).add(slice);
    }
    byRate.forEach(
        (factor, slices) ->
            step(
                pack,
                slices,
                page,
                parameters,
                gradients,
                weightDecays,
                new AdamW.Options(
                    factor * options.learningRate(),
                    options.beta1(),
                    options.beta2(),
                    options.eps()),
                t,
                gradientScale));
  }

  private void step(
      KernelPack pack,
      List<Slice> slices,
      DeviceBuffer page,
      List<DeviceTensor> parameters,
      List<DeviceTensor> gradients,
      float[] weightDecays,
      AdamW.Options options,
      long t,
      float gradientScale) {
    switch (format) {
      case F32 -> {
        List<AdamW.Slot> slots = new ArrayList<>(slices.size());
        for (Slice slice : slices) {
          slots.add(
              new AdamW.Slot(
                  cut(parameters.get(slice.parameter()), slice),
                  cut(gradients.get(slice.parameter()), slice),
                  tensor(page, Part.FIRST, slice),
                  tensor(page, Part.SECOND, slice),
                  weightDecays[slice.parameter()]));
        }
        AdamW.step(pack, options, t, gradientScale, slots);
      }
      case BLOCKWISE_8BIT -> {
        List<AdamW8Bit.Slot> slots = new ArrayList<>(slices.size());
        for (Slice slice : slices) {
          slots.add(
              new AdamW8Bit.Slot(
                  cut(parameters.get(slice.parameter()), slice),
                  cut(gradients.get(slice.parameter()), slice),
                  moment(page, Part.FIRST_CODES, Part.FIRST_ABSMAX, slice),
                  moment(page, Part.SECOND_CODES, Part.SECOND_ABSMAX, slice),
                  weightDecays[slice.parameter()]));
        }
        AdamW8Bit.step(pack, options, AdamW8Bit.BLOCK_SIZE, t, gradientScale, slots);
      }
    }
  }

  private AdamW8Bit.Moment moment(DeviceBuffer page, Part codes, Part absmax, Slice slice) {
    return new AdamW8Bit.Moment(tensor(page, codes, slice), tensor(page, absmax, slice));
  }

  private static DeviceTensor cut(DeviceTensor tensor, Slice slice) {
    return tensor.reshape(tensor.elements()).rows(slice.first(), slice.count());
  }
}

// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.kernels;

import java.util.ArrayList;
import java.util.List;

/**
 * Where the two moments of many parameters lie in the pages of a {@link PagedStore}, such that one
 * {@link AdamW#step} per page updates everything that has its moments there.
 *
 * <p>The parameters, one after the other, are cut into pages of {@link #elementsPerPage} elements;
 * one that does not end with its page goes on in the next. A page holds the first moments of its
 * elements in its front half and the second moments in its rear half:
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
 *       moments, so pages of the form [codes of m | codes of v | absmax of m | absmax of v] can
 *       have the same slices.
 * </ul>
 */
public final class MomentPages {
  /** Elements to a multiple of which parameters start in their page and are cut. */
  public static final int ALIGNMENT = 256;

  private final long elementsPerPage;
  private final List<List<Slice>> pages = new ArrayList<>();

  /**
   * A part of a parameter whose moments are in one page.
   *
   * @param parameter index in the list of parameters
   * @param first first element of the parameter
   * @param count number of elements
   * @param start element of the page's halves where it begins
   */
  public record Slice(int parameter, long first, long count, long start) {}

  /**
   * Lays parameters out.
   *
   * @param elementsPerPage elements whose two moments a page holds, a multiple of {@value
   *     #ALIGNMENT}; a page has 8 bytes for each
   * @param lengths elements of every parameter
   */
  public MomentPages(long elementsPerPage, long... lengths) {
    if (elementsPerPage < ALIGNMENT || elementsPerPage % ALIGNMENT != 0) {
      throw new IllegalArgumentException(
          "a page must hold the moments of a multiple of "
              + ALIGNMENT
              + " elements, found "
              + elementsPerPage);
    }
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

  /** Number of pages; 0 when no parameter has an element. */
  public int count() {
    return pages.size();
  }

  /** Elements whose moments a page holds. */
  public long elementsPerPage() {
    return elementsPerPage;
  }

  /** Size of a page with moments in F32. */
  public long pageBytes() {
    return 2 * elementsPerPage * DType.F32.bytes();
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

  /** The first moments of a slice, F32. */
  public DeviceTensor firstMoment(PagedStore.Page page, Slice slice) {
    return page.tensor(slice.start() * DType.F32.bytes(), DType.F32, slice.count());
  }

  /** The second moments of a slice, F32. */
  public DeviceTensor secondMoment(PagedStore.Page page, Slice slice) {
    long offset = (elementsPerPage + slice.start()) * DType.F32.bytes();
    return page.tensor(offset, DType.F32, slice.count());
  }

  /**
   * What {@link AdamW#step} has to be given for a page.
   *
   * @param page acquired, to be released as dirty
   * @param parameters all parameters, F32 and contiguous, with the lengths this was made with
   * @param gradients theirs
   * @param weightDecays theirs
   */
  public List<AdamW.Slot> slots(
      PagedStore.Page page,
      List<DeviceTensor> parameters,
      List<DeviceTensor> gradients,
      float[] weightDecays) {
    List<AdamW.Slot> slots = new ArrayList<>();
    for (Slice slice : slices(Math.toIntExact(page.number()))) {
      slots.add(
          new AdamW.Slot(
              part(parameters.get(slice.parameter()), slice),
              part(gradients.get(slice.parameter()), slice),
              firstMoment(page, slice),
              secondMoment(page, slice),
              weightDecays[slice.parameter()]));
    }
    return slots;
  }

  private static DeviceTensor part(DeviceTensor tensor, Slice slice) {
    return tensor.reshape(tensor.elements()).rows(slice.first(), slice.count());
  }
}

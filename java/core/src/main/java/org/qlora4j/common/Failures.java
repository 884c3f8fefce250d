// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.common;

import java.io.IOException;
import java.io.UncheckedIOException;
import org.jspecify.annotations.Nullable;
import org.qlora4j.kernels.OutOfDeviceMemoryException;

/** Which failures a user can mend, and what a program says of them. */
public final class Failures {
  private Failures() {}

  /** One line for the user, or null for a defect of the program. */
  public static @Nullable String fixable(Throwable e) {
    String message = e.getMessage();
    if (e instanceof InputException) {
      return String.valueOf(message);
    }
    if (e instanceof OutOfDeviceMemoryException) {
      return "out of memory: "
          + Text.oneLine(String.valueOf(message))
          + "; use method: qlora, gradient_checkpointing: true, optim: paged_adamw_8bit, a smaller"
          + " per_device_train_batch_size or sequence_length";
    }
    if (e instanceof UncheckedIOException || e instanceof IOException) {
      Throwable cause = e.getCause() == null ? e : e.getCause();
      return Text.oneLine(String.valueOf(message))
          + (cause == e ? "" : ": " + Text.oneLine(String.valueOf(cause.getMessage())));
    }
    if (e instanceof UnsupportedOperationException && message != null) {
      return "not supported here: " + Text.oneLine(message);
    }
    if (e instanceof OutOfMemoryError) {
      return "the Java heap is full; give it more with QLORA4J_JAVA_OPTIONS=-Xmx4g, or use smaller"
          + " examples";
    }
    if (e instanceof LinkageError) {
      Throwable cause = e.getCause() == null ? e : e.getCause();
      return "a native library cannot be loaded: "
          + Text.oneLine(String.valueOf(cause.getMessage()))
          + "; with QLORA4J_GPU=1, the libraries of CUDA 13 and cuDNN 9 must be installed"
          + " (docs/cuda.md)";
    }
    return null;
  }
}

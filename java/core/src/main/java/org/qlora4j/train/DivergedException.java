// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.train;

import org.qlora4j.common.InputException;

/** A training whose loss or gradient is not finite any more. */
public final class DivergedException extends InputException {
  private static final long serialVersionUID = 1;

  DivergedException(String message) {
    super(message);
  }
}

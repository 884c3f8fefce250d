// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * Measures: the machine's limits, operators beside libtorch's, and whole training steps. Prints
 * nothing; the commands of {@link org.qlora4j.cli} do.
 */
@NullMarked
package org.qlora4j.cli.bench;

import org.jspecify.annotations.NullMarked;

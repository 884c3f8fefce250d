// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * What every other package needs: errors a user can fix, atomic output, progress, memory figures.
 */
@NullMarked
package org.qlora4j.common;

import org.jspecify.annotations.NullMarked;

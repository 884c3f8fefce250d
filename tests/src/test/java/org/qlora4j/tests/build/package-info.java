// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** Tests of what the build makes: libraries of the tree's sources, that run on other machines. */
@NullMarked
package org.qlora4j.tests.build;

import org.jspecify.annotations.NullMarked;

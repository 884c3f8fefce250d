// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * Reports that are one file: HTML with inline style and charts, no scripts and nothing to fetch,
 * and the same numbers as JSON and Markdown. Start at {@link org.qlora4j.report.Report}.
 */
@NullMarked
package org.qlora4j.report;

import org.jspecify.annotations.NullMarked;

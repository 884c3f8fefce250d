// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.report;

/**
 * Plain text.
 *
 * @param text plain text; a line end stays one
 */
public record Paragraph(String text) implements Block {}

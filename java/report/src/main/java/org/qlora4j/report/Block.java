// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.report;

/** One thing below another in a report. */
public sealed interface Block permits Heading, Paragraph, Table, SampleTexts, Chart {}

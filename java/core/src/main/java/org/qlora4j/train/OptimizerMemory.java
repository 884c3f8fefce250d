// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.train;

/**
 * What an optimizer's states take and how they moved.
 *
 * @param totalBytes of all states
 * @param paged whether some of them are in pages
 * @param held what the device holds of them
 */
public record OptimizerMemory(long totalBytes, boolean paged, PagedMemory held) {}

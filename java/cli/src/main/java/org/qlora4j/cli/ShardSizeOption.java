// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.cli;

import org.qlora4j.common.ByteSize;
import picocli.CommandLine.Option;

/** How large the files of a model may become. */
final class ShardSizeOption {
  @Option(
      names = "--shard-size",
      defaultValue = "5GB",
      paramLabel = "SIZE",
      description = "Most bytes of a file (default: ${DEFAULT-VALUE}).")
  private String size;

  /** For picocli. */
  @SuppressWarnings("NullAway.Init") // picocli sets the field
  ShardSizeOption() {}

  /** The size in bytes, checked. */
  long bytes() {
    return ByteSize.parse("--shard-size", size);
  }
}

// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.cli;

import org.qlora4j.common.ByteSize;
import picocli.CommandLine.Option;

/** As {@link ShardSizeOption}, of a command that goes on where it was interrupted. */
final class ResumableShardSizeOption {
  @Option(
      names = "--shard-size",
      defaultValue = "5GB",
      paramLabel = "SIZE",
      description =
          "Most bytes of a file (default: ${DEFAULT-VALUE}); finished files survive an interruption.")
  private String size;

  /** For picocli. */
  @SuppressWarnings("NullAway.Init") // picocli sets the field
  ResumableShardSizeOption() {}

  /** The size in bytes, checked. */
  long bytes() {
    return ByteSize.parse("--shard-size", size);
  }
}

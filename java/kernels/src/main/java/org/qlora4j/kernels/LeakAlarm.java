// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.kernels;

import java.lang.ref.Cleaner;
import org.jspecify.annotations.Nullable;

/**
 * Says when a handle became unreachable without having been closed. It frees nothing: native memory
 * is released by {@code close()} alone, and a handle that is found here is a defect of the program.
 *
 * <p>With {@code -Dqlora4j.debug.allocations=true} the alarm carries the stack of the allocation.
 */
final class LeakAlarm {
  private static final System.Logger LOG = System.getLogger("org.qlora4j.kernels");
  private static final Cleaner CLEANER = Cleaner.create();

  private LeakAlarm() {}

  /** What the alarm knows of one handle; must not refer to the handle itself. */
  static final class Watch implements Runnable {
    private final String what;
    private final @Nullable Throwable allocation;
    private volatile boolean closed;
    private Cleaner.@Nullable Cleanable cleanable;

    private Watch(String what) {
      this.what = what;
      this.allocation =
          Boolean.getBoolean("qlora4j.debug.allocations") ? new Throwable("allocated here") : null;
    }

    /** The handle was closed as it should be. */
    void disarm() {
      closed = true;
      Cleaner.Cleanable registered = cleanable;
      if (registered != null) {
        registered.clean();
      }
    }

    @Override
    public void run() {
      if (!closed) {
        String hint =
            allocation == null
                ? "; run with -Dqlora4j.debug.allocations=true to see where it came from"
                : "";
        LOG.log(
            System.Logger.Level.WARNING, what + " was dropped without close()" + hint, allocation);
      }
    }
  }

  static Watch watch(Object handle, String what) {
    Watch watch = new Watch(what);
    watch.cleanable = CLEANER.register(handle, watch);
    return watch;
  }
}

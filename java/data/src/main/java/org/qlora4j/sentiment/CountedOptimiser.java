// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.sentiment;

import com.oracle.labs.mlrg.olcut.provenance.ConfiguredObjectProvenance;
import org.qlora4j.common.Progress;
import org.tribuo.math.Parameters;
import org.tribuo.math.StochasticGradientOptimiser;
import org.tribuo.math.la.Tensor;

/** Tribuo says nothing while it trains: its optimizer, with a count of the steps. */
final class CountedOptimiser implements StochasticGradientOptimiser {
  private final StochasticGradientOptimiser optimiser;
  private final Progress progress;
  private long steps;

  CountedOptimiser(StochasticGradientOptimiser optimiser, Progress progress) {
    this.optimiser = optimiser;
    this.progress = progress;
  }

  @Override
  public void initialise(Parameters parameters) {
    optimiser.initialise(parameters);
  }

  @Override
  public Tensor[] step(Tensor[] updates, double weight) {
    if (++steps % 1000 == 0) {
      progress.update(steps, "");
    }
    return optimiser.step(updates, weight);
  }

  @Override
  public void finalise() {
    optimiser.finalise();
  }

  @Override
  public void reset() {
    steps = 0;
    optimiser.reset();
  }

  @Override
  public StochasticGradientOptimiser copy() {
    return new CountedOptimiser(optimiser.copy(), progress);
  }

  @Override
  public ConfiguredObjectProvenance getProvenance() {
    return optimiser.getProvenance();
  }
}

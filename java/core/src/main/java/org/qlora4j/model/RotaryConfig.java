// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.model;

/**
 * The rotary embedding of some layers.
 *
 * @param dim how many elements of a head are rotated, even
 * @param theta base of the frequencies
 * @param scaling how the frequencies are scaled
 */
public record RotaryConfig(int dim, double theta, RopeScaling scaling) {

  /**
   * The frequencies, f32 [dim / 2]: theta^(-2i / dim), scaled. Computed in f32 step by step as
   * transformers does (modeling_rope_utils), so that angles at large positions agree.
   *
   * @param context tokens of the longest sequence of the batch
   */
  public float[] inverseFrequencies(int context) {
    float[] frequencies = new float[dim / 2];
    for (int i = 0; i < frequencies.length; i++) {
      float exponent = (float) (2 * i) / dim;
      float power = (float) Math.pow((float) theta, exponent);
      float inverse = 1f / power;
      if (scaling instanceof RopeScaling.Linear linear) {
        inverse /= (float) linear.factor();
      } else if (scaling instanceof RopeScaling.Llama3 llama3) {
        inverse = llama3(inverse, llama3);
      } else if (scaling instanceof RopeScaling.LongRope rope) {
        boolean beyond = context > rope.originalMaxPositions();
        inverse = 1f / ((beyond ? rope.longFactors() : rope.shortFactors()).get(i) * power);
      }
      frequencies[i] = inverse;
    }
    return frequencies;
  }

  /** Factor on cosine and sine. */
  public float attentionFactor() {
    return scaling instanceof RopeScaling.LongRope rope ? (float) rope.attentionFactor() : 1f;
  }

  /**
   * Tokens up to which a sequence has the first of two sets of frequencies; {@link
   * Integer#MAX_VALUE} where there is one set.
   */
  public int shortContext() {
    return scaling instanceof RopeScaling.LongRope rope
        ? rope.originalMaxPositions()
        : Integer.MAX_VALUE;
  }

  private static float llama3(float inverse, RopeScaling.Llama3 scaling) {
    double lowWavelength = scaling.originalMaxPositions() / scaling.lowFreqFactor();
    double highWavelength = scaling.originalMaxPositions() / scaling.highFreqFactor();
    float wavelength = (1f / inverse) * (float) (2 * Math.PI);
    if (wavelength < (float) highWavelength) {
      return inverse;
    }
    if (wavelength > (float) lowWavelength) {
      return inverse / (float) scaling.factor();
    }
    float smooth =
        ((1f / wavelength) * scaling.originalMaxPositions() - (float) scaling.lowFreqFactor())
            / (float) (scaling.highFreqFactor() - scaling.lowFreqFactor());
    return (1f - smooth) * inverse / (float) scaling.factor() + smooth * inverse;
  }
}

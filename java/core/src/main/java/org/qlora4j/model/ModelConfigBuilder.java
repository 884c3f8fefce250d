// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.model;

import java.util.List;
import org.jspecify.annotations.Nullable;
import org.qlora4j.kernels.DType;
import org.qlora4j.model.ModelConfig.Activation;
import org.qlora4j.model.ModelConfig.Architecture;
import org.qlora4j.model.ModelConfig.LayerAttention;
import org.qlora4j.model.ModelConfig.Mlp;
import org.qlora4j.model.ModelConfig.Norm;
import org.qlora4j.model.ModelConfig.Qkv;

/** The fields of a {@link ModelConfig} while they are read; they start as Llama has them. */
final class ModelConfigBuilder {
  final Architecture architecture;
  int vocabSize;
  int hiddenSize;
  int layers;
  int heads;
  int kvHeads;
  int headDim;
  int ffnSize;
  Norm norm = Norm.RMS_NORM;
  float normEps;
  boolean queryKeyNorm;
  boolean outputNorms;
  boolean parallelResidual;
  Activation activation = Activation.SILU;
  Mlp mlp = Mlp.GATED;
  Qkv qkv = Qkv.SEPARATE;
  List<LayerAttention> layerAttention = List.of();
  float attentionScale;
  float attentionSoftcap;
  boolean qkvBias;
  boolean attentionOutputBias;
  boolean mlpBias;
  float embeddingScale = 1;
  float logitSoftcap;
  boolean tiedHead;
  int maxPositions;
  @Nullable Integer bosId;
  List<Integer> eosIds = List.of();
  @Nullable Integer padId;
  double initializerRange;
  @Nullable DType dtype;

  ModelConfigBuilder(Architecture architecture) {
    this.architecture = architecture;
  }

  ModelConfig build() {
    return new ModelConfig(
        architecture,
        vocabSize,
        hiddenSize,
        layers,
        heads,
        kvHeads,
        headDim,
        ffnSize,
        norm,
        normEps,
        queryKeyNorm,
        outputNorms,
        parallelResidual,
        activation,
        mlp,
        qkv,
        layerAttention,
        attentionScale,
        attentionSoftcap,
        qkvBias,
        attentionOutputBias,
        mlpBias,
        embeddingScale,
        logitSoftcap,
        tiedHead,
        maxPositions,
        bosId,
        eosIds,
        padId,
        initializerRange,
        dtype);
  }
}

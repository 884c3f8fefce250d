// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.lora;

import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.SplittableRandom;
import org.qlora4j.checkpoint.PeftAdapterConfig;
import org.qlora4j.checkpoint.PeftAdapterFile;
import org.qlora4j.common.InputException;
import org.qlora4j.kernels.KernelPack;
import org.qlora4j.model.LinearLayer;
import org.qlora4j.model.Parameter;
import org.qlora4j.model.ParameterSet;

/**
 * The low-rank adapters of one model: for every targeted linear layer an a and a b, f32. Owns their
 * memory.
 */
public final class LoraAdapter implements AutoCloseable {

  private final LoraConfig config;
  private final ParameterSet parameters;
  private final Map<String, LoraLayer> layers;

  private LoraAdapter(LoraConfig config, ParameterSet parameters, Map<String, LoraLayer> layers) {
    this.config = config;
    this.parameters = parameters;
    this.layers = Collections.unmodifiableMap(layers);
  }

  /**
   * Memory for adapters of the targeted layers among {@code linears}; the caller fills it ({@link
   * #initialise}, or a file's tensors).
   *
   * @throws InputException when a target names no layer
   */
  public static LoraAdapter allocate(
      KernelPack pack, LoraConfig config, List<LinearLayer> linears) {
    for (String target : config.targets()) {
      LoraConfig one =
          new LoraConfig(
              config.rank(), config.alpha(), config.dropout(), config.rsLora(), List.of(target));
      if (linears.stream().noneMatch(l -> one.targets(l.name()))) {
        throw new InputException(
            "lora_target_modules names \""
                + target
                + "\", but the model has no such linear layer; it has "
                + String.join(", ", shortNames(linears.stream().map(LinearLayer::name).toList())));
      }
    }
    ParameterSet parameters = new ParameterSet(pack);
    Map<String, LoraLayer> layers = new LinkedHashMap<>();
    for (LinearLayer linear : linears) {
      if (config.targets(linear.name())) {
        Parameter a =
            parameters.add(PeftAdapterFile.aName(linear.name()), config.rank(), linear.in());
        Parameter b =
            parameters.add(PeftAdapterFile.bName(linear.name()), linear.out(), config.rank());
        layers.put(linear.name(), new LoraLayer(a, b, config.scaling(), (float) config.dropout()));
      }
    }
    return new LoraAdapter(config, parameters, layers);
  }

  /**
   * PEFT's initialisation: a uniform in (-1/sqrt(in), 1/sqrt(in)) (Kaiming with a = sqrt(5)), b
   * zero.
   */
  public void initialise(long seed) {
    SplittableRandom random = new SplittableRandom(seed);
    for (LoraLayer layer : layers.values()) {
      double bound = 1 / Math.sqrt((double) layer.a().value().cols());
      float[] a = new float[Math.toIntExact(layer.a().value().elements())];
      for (int i = 0; i < a.length; i++) {
        a[i] = (float) ((2 * random.nextDouble() - 1) * bound);
      }
      layer.a().value().copyFrom(a);
      layer.b().value().zero();
    }
  }

  /** Puts the adapters onto the layers they were made for. */
  public void attach(List<LinearLayer> linears) {
    for (LinearLayer linear : linears) {
      linear.setLora(layers.get(linear.name()));
    }
  }

  /** Reads an adapter in PEFT's format and puts it onto the model's linear layers. */
  public static LoraAdapter load(KernelPack pack, Path directory, List<LinearLayer> linears) {
    try (PeftAdapterFile file = PeftAdapterFile.open(directory)) {
      PeftAdapterConfig peft = file.config();
      Map<String, LinearLayer> byName = new LinkedHashMap<>();
      linears.forEach(l -> byName.put(l.name(), l));
      for (PeftAdapterFile.Pair pair : file.pairs().values()) {
        LinearLayer linear = byName.get(pair.module());
        if (linear == null || linear.in() != pair.in() || linear.out() != pair.out()) {
          throw new InputException(
              directory
                  + ": the adapter of "
                  + pair.module()
                  + " is ["
                  + pair.out()
                  + ", "
                  + pair.in()
                  + "], the model has "
                  + (linear == null
                      ? "no such linear layer"
                      : "[" + linear.out() + ", " + linear.in() + "] there")
                  + "; was the adapter trained on another base?");
        }
      }
      LoraConfig config =
          new LoraConfig(
              peft.rank(),
              peft.alpha(),
              peft.dropout(),
              peft.rslora(),
              List.copyOf(file.pairs().keySet()));
      LoraAdapter adapter = allocate(pack, config, linears);
      try {
        for (Map.Entry<String, LoraLayer> entry : adapter.layers.entrySet()) {
          PeftAdapterFile.Pair pair = Objects.requireNonNull(file.find(entry.getKey()));
          entry.getValue().a().value().copyFrom(pair.a().toFloats());
          entry.getValue().b().value().copyFrom(pair.b().toFloats());
        }
      } catch (RuntimeException e) {
        adapter.close();
        throw e;
      }
      adapter.attach(linears);
      return adapter;
    }
  }

  /**
   * Writes the adapter in PEFT's format into {@code directory}, which exists; for an output that
   * appears whole, see {@link org.qlora4j.common.AtomicOutput}.
   *
   * @param baseModel what PEFT will take for the base model's path
   */
  public void save(Path directory, String baseModel) {
    List<String> targets =
        config.targets().isEmpty() ? shortNames(List.copyOf(layers.keySet())) : config.targets();
    PeftAdapterConfig peft =
        new PeftAdapterConfig(
            config.rank(), config.alpha(), config.dropout(), config.rsLora(), targets, baseModel);
    List<PeftAdapterFile.Matrices> matrices = new ArrayList<>();
    layers.forEach(
        (module, layer) ->
            matrices.add(
                new PeftAdapterFile.Matrices(
                    module,
                    layer.a().value().cols(),
                    layer.b().value().rows(),
                    layer.a().value()::toFloats,
                    layer.b().value()::toFloats)));
    PeftAdapterFile.write(directory, peft, matrices);
  }

  public LoraConfig config() {
    return config;
  }

  /** All a and b, in the order of the layers. */
  public ParameterSet parameters() {
    return parameters;
  }

  /** The adapters by module path, in the order of the layers. */
  public Map<String, LoraLayer> layers() {
    return layers;
  }

  @Override
  public void close() {
    parameters.close();
  }

  private static List<String> shortNames(List<String> modulePaths) {
    return modulePaths.stream().map(p -> p.substring(p.lastIndexOf('.') + 1)).distinct().toList();
  }
}

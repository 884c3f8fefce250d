// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.lora;

import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.jspecify.annotations.Nullable;
import org.qlora4j.checkpoint.PeftAdapterFile;
import org.qlora4j.checkpoint.TensorSource;
import org.qlora4j.common.InputException;
import org.qlora4j.common.Text;
import org.qlora4j.model.LinearLayer;
import org.qlora4j.model.TrainableModule;
import org.qlora4j.model.WeightNames;

/** Where a model has room for what an adapter in PEFT's format holds; no weight is needed. */
final class AdapterPlaces {
  private static final String WEIGHT = ".weight";
  private static final String BIAS = ".bias";

  /**
   * A module of the model.
   *
   * @param adaptable whether it is a linear of the blocks
   * @param shape of its weight
   * @param bias its length, or 0 without one
   */
  private record Place(boolean adaptable, long[] shape, long bias) {}

  private final Map<String, Place> places = new LinkedHashMap<>();

  private AdapterPlaces() {}

  /** Those of a model that need not have been read. */
  static AdapterPlaces of(WeightNames names) {
    List<WeightNames.Module> modules = new ArrayList<>(names.modules());
    // A tied head is a module too, though not of its own.
    modules.add(names.module(WeightNames.Part.HEAD, -1));
    AdapterPlaces places = new AdapterPlaces();
    for (WeightNames.Module module : modules) {
      long[] shape = module.shape().stream().mapToLong(Long::longValue).toArray();
      places.places.put(
          module.path(),
          new Place(module.part().linear(), shape, module.hasBias() ? module.rows() : 0));
    }
    return places;
  }

  /**
   * Those of a model, or of some of its layers.
   *
   * @param linears what can be adapted
   * @param modules all that may be trained in full, which has the linears too
   */
  static AdapterPlaces of(List<LinearLayer> linears, List<? extends TrainableModule> modules) {
    AdapterPlaces places = new AdapterPlaces();
    for (TrainableModule module : modules) {
      places.places.put(
          module.name(),
          new Place(linears.contains(module), module.weightShape(), module.biasLength()));
    }
    return places;
  }

  /**
   * Checks the names and shapes of everything in the file.
   *
   * @throws InputException when something does not fit
   */
  void check(Path directory, PeftAdapterFile file) {
    file.pairs().values().forEach(pair -> checkPair(directory, pair));
    checkModules(file.config().lora(), List.copyOf(places.keySet()));
    checkCopies(directory, file);
    file.saved().forEach(this::checkSaved);
  }

  /** Checks that every name in modules_to_save means some of these. */
  static void checkModules(LoraConfig config, List<String> modules) {
    for (String name : config.modulesToSave()) {
      if (modules.stream().noneMatch(m -> m.endsWith(name))) {
        List<String> known = TargetModules.shortNames(modules);
        String near = Text.nearest(name, known);
        throw new InputException(
            "modules_to_save: expected names among "
                + String.join(", ", known)
                + ", found "
                + Text.quote(name)
                + (near == null ? "" : "; did you mean " + near + "?"));
      }
    }
  }

  /**
   * The tensors decide, not the names in target_modules: PEFT's own lists name layers of several
   * architectures.
   */
  private void checkPair(Path directory, PeftAdapterFile.Pair pair) {
    Place place = places.get(pair.module());
    if (place != null && !place.adaptable()) {
      throw new InputException(
          directory
              + ": expected an adapter of linear layers of the blocks, found one of "
              + Text.quote(pair.module())
              + "; merge it into the model (qlora4j merge) and use the result");
    }
    if (place == null || place.shape()[0] != pair.out() || place.shape()[1] != pair.in()) {
      throw new InputException(
          directory
              + ": the adapter of "
              + pair.module()
              + " is ["
              + pair.out()
              + ", "
              + pair.in()
              + "], the model has "
              + (place == null ? "no such linear layer" : Arrays.toString(place.shape()) + " there")
              + "; was the adapter trained on another base?");
    }
  }

  private void checkCopies(Path directory, PeftAdapterFile file) {
    LoraConfig config = file.config().lora();
    places.forEach(
        (name, place) -> {
          if (config.saves(name) && !file.copies().containsKey(name + WEIGHT)) {
            throw new InputException(
                directory.resolve(PeftAdapterFile.WEIGHTS_FILE)
                    + ": expected a tensor "
                    + Text.quote(PeftAdapterFile.PREFIX + name + WEIGHT)
                    + ", which modules_to_save names, found none");
          }
        });
    file.copies()
        .forEach(
            (name, tensor) -> {
              long[] shape = shapeOfCopy(config, name, file);
              if (shape == null) {
                throw noPlace(tensor);
              }
              if (!Arrays.equals(shape, tensor.shape())) {
                throw new InputException(
                    tensor.file()
                        + ": tensor "
                        + Text.quote(tensor.name())
                        + ": expected "
                        + Arrays.toString(shape)
                        + ", as the model has it, found "
                        + Arrays.toString(tensor.shape()));
              }
            });
  }

  /** What a copy of this tensor is like, or null where none is trained. */
  private long @Nullable [] shapeOfCopy(LoraConfig config, String tensor, PeftAdapterFile file) {
    String name = tensor.substring(0, tensor.lastIndexOf('.'));
    Place place = places.get(name);
    if (place == null) {
      return null;
    }
    boolean whole = config.saves(name);
    if (tensor.endsWith(WEIGHT)) {
      return whole ? place.shape() : null;
    }
    boolean trained = whole || config.bias().trains(file.pairs().containsKey(name));
    return tensor.endsWith(BIAS) && trained && place.bias() > 0 ? new long[] {place.bias()} : null;
  }

  private void checkSaved(String name, TensorSource tensor) {
    Place place = places.get(name.substring(0, name.length() - WEIGHT.length()));
    if (place == null) {
      throw noPlace(tensor);
    }
    if (!Arrays.equals(place.shape(), tensor.shape())) {
      throw new InputException(
          tensor.file()
              + ": tensor "
              + Text.quote(tensor.name())
              + " is "
              + Arrays.toString(tensor.shape())
              + ", the model has "
              + Arrays.toString(place.shape())
              + " there; was the adapter trained on another base?");
    }
  }

  private static InputException noPlace(TensorSource tensor) {
    return new InputException(
        tensor.file()
            + ": tensor "
            + Text.quote(tensor.name())
            + " has no place in the model; was the adapter trained on another base?");
  }
}
